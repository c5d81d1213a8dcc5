"""Which thoughts depend on which earlier ones? Influence of thoughts.

    python -m experiments.influence

`codi_lens/cli/influence.py` has the program, which `codi-lens influence` runs too.
"""

import sys

from codi_lens.cli.influence import main

if __name__ == "__main__":
    sys.exit(main())
