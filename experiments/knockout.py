"""Which steps must attend to which others? Attention knockout.

    python -m experiments.knockout

`codi_lens/cli/knockout.py` has the program, which `codi-lens knockout` runs too.
"""

import sys

from codi_lens.cli.knockout import main

if __name__ == "__main__":
    sys.exit(main())
