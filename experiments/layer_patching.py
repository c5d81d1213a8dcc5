"""Which layer carries the computation, all latent positions together? Layer-wise patching.

    python -m experiments.layer_patching

`codi_lens/cli/layer_patching.py` has the program, which `codi-lens layer_patching` runs too.
"""

import sys

from codi_lens.cli.layer_patching import main

if __name__ == "__main__":
    sys.exit(main())
