"""Which layer and which latent position carry the computation? Position-wise patching.

Patches, for every pair, the clean run's activation into the corrupted run, one layer and one position at a
time, and measures what the answer gains. Writes a record and `heatmap.html`.
"""

from codi_lens.cli.patching import add_map_flags, patching_program

main = patching_program("position_patching", __doc__, add_map_flags)
