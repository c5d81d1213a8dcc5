"""What would the answer be, had one number been another? Makes pairs of a data set's problems, or of templates.

    python -m experiments.make_pairs gsm8k --out FOLDER

`codi_lens/cli/make_pairs.py` has the program, which `codi-lens make_pairs` runs too.
"""

import sys

from codi_lens.cli.make_pairs import main

if __name__ == "__main__":
    sys.exit(main())
