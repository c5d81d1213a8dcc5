"""Which methods find what was planted? Scores every method on organisms whose mechanism is known.

    python -m experiments.scorecard

`codi_lens/cli/scorecard.py` has the program, which `codi-lens scorecard` runs too.
"""

import sys

from codi_lens.cli.scorecard import main

if __name__ == "__main__":
    sys.exit(main())
