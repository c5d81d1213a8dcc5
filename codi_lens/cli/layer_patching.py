"""Layer-wise patching: all latent positions of a layer together, for every layer.

    python -m experiments.layer_patching

is the baseline that position-wise and iterative patching are compared with. Writes a record and
`heatmap.html`, here a profile over layers.
"""

from codi_lens.cli import sweeping


def main(argv: list[str] | None = None) -> int:
    """Runs the program; exit codes as in `experiments.cli`."""
    return sweeping.run_with_variants("layer_patching", __doc__.splitlines()[0], argv)
