"""Draws the pictures of README: one of each experiment, on the embedded model.

    python -m experiments.figures

`codi_lens/cli/figures.py` has the program, which `codi-lens figures` runs too.
"""

import sys

from codi_lens.cli.figures import main

if __name__ == "__main__":
    sys.exit(main())
