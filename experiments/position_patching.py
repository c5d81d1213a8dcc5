"""Which layer and which latent position carry the computation? Position-wise patching.

    python -m experiments.position_patching

`codi_lens/cli/position_patching.py` has the program, which `codi-lens position_patching` runs too.
"""

import sys

from codi_lens.cli.position_patching import main

if __name__ == "__main__":
    sys.exit(main())
