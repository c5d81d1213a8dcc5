"""How do runs differ, and do they agree where they must? Compares two or more: models, seeds, effects, sites, pairs.

    python -m experiments.compare RUN RUN … --out FOLDER

`codi_lens/cli/compare.py` has the program, which `codi-lens compare` runs too.
"""

import sys

from codi_lens.cli.compare import main

if __name__ == "__main__":
    sys.exit(main())
