"""Which layer carries the computation, all latent positions together? Layer-wise patching.

The baseline that position-wise and iterative patching are compared with. Writes a record and `heatmap.html`,
here a profile over layers.
"""

from codi_lens.cli.patching import add_map_flags, patching_program

main = patching_program("layer_patching", __doc__, add_map_flags)
