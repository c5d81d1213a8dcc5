"""Position-wise patching: a heatmap of which (layer, latent position) carries the computation.

    python -m experiments.position_patching

patches, for every pair, the clean run's activation into the corrupted run at one layer and one position at a
time, and measures what the answer gains. Writes a record and `heatmap.html`.
"""

from codi_lens.cli import sweeping


def main(argv: list[str] | None = None) -> int:
    """Runs the program; exit codes as in `experiments.cli`."""
    return sweeping.run_with_variants("position_patching", __doc__.splitlines()[0], argv)
