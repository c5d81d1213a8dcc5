"""Measures whether an organism does what its card says; exit code 1 if it misses a bar.

    python -m experiments.certify sequential

`codi_lens/cli/certify.py` has the program, which `codi-lens certify` runs too.
"""

import sys

from codi_lens.cli.certify import main

if __name__ == "__main__":
    sys.exit(main())
