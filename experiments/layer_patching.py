"""Layer-wise patching: all latent positions of a layer together, for every layer.

    python -m experiments.layer_patching

is the baseline that position-wise and iterative patching are compared with. Writes a record and
`heatmap.html`, here a profile over layers.
"""

import sys

from codi_lens.cli.layer_patching import main

if __name__ == "__main__":
    sys.exit(main())
