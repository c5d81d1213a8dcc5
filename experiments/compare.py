"""Do the experiments agree, and where do they part? Compares runs of the same model and pairs.

    python -m experiments.compare RUN RUN … --out FOLDER

`codi_lens/cli/compare.py` has the program, which `codi-lens compare` runs too.
"""

import sys

from codi_lens.cli.compare import main

if __name__ == "__main__":
    sys.exit(main())
