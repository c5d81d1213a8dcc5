"""Which places matter, by gradients through the loop? Attribution, with its agreement with exact patching.

    python -m experiments.attribution

`codi_lens/cli/attribution.py` has the program, which `codi-lens attribution` runs too.
"""

import sys

from codi_lens.cli.attribution import main

if __name__ == "__main__":
    sys.exit(main())
