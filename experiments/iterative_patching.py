"""Iterative patching: single, cumulative, chained and parallel, along the latents of each layer.

    python -m experiments.iterative_patching

asks how much of a patch survives when it may pass on only through the next latent at the same layer
(chained), and what positions add up to (cumulative, parallel). Writes a record and `heatmap.html`, here
trajectories over iterations.
"""

import sys

from codi_lens.cli.iterative_patching import main

if __name__ == "__main__":
    sys.exit(main())
