"""Position-wise patching: a heatmap of which (layer, latent position) carries the computation.

    python -m experiments.position_patching

patches, for every pair, the clean run's activation into the corrupted run at one layer and one position at a
time, and measures what the answer gains. Writes a record and `heatmap.html`.
"""

import sys

from codi_lens.cli.position_patching import main

if __name__ == "__main__":
    sys.exit(main())
