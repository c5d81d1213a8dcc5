"""By which route does a thought reach the answer: fed on as a state, or attended to as keys and values?

    python -m experiments.routes

`codi_lens/cli/routes.py` has the program, which `codi-lens routes` runs too.
"""

import sys

from codi_lens.cli.routes import main

if __name__ == "__main__":
    sys.exit(main())
