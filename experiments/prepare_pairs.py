"""Which pairs can be patched between? Checks a file of pairs and sets aside those with the same answer.

    python -m experiments.prepare_pairs FILE --out FOLDER

`codi_lens/cli/prepare_pairs.py` has the program, which `codi-lens prepare_pairs` runs too.
"""

import sys

from codi_lens.cli.prepare_pairs import main

if __name__ == "__main__":
    sys.exit(main())
