"""Position-wise patching: a heatmap of which (layer, latent position) carries the computation.

    python -m experiments.position_patching

patches, for every pair, the clean run's resid_post into the corrupted run at one layer and one latent
position at a time, and measures what the answer gains. Writes a record and `heatmap.html`.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from experiments import cli


def main(argv: list[str] | None = None) -> int:
    """Runs the program; exit code 0, or 2 for input that cannot be used."""
    parser = cli.experiment_parser("position_patching", __doc__.splitlines()[0])
    parser.add_argument("--mode", default="regenerate", choices=("regenerate", "freeze"))
    arguments = parser.parse_args(argv)
    return cli.run(lambda: patch(arguments), arguments.debug)


def patch(arguments: argparse.Namespace) -> None:
    """Runs the sweep that the arguments ask for, writes its record and prints where it is."""
    # Heavy imports wait until the arguments are known to be right.
    from tqdm import tqdm

    from codi_lens import Sweep, load_pairs
    from codi_lens.results import write_record
    from codi_lens.sweeps import sweep_pairs, sweep_settings

    started = time.perf_counter()
    limit = cli.positive_limit(arguments.limit)
    pairs = [pair for pair in load_pairs(arguments.pairs) if not pair.same_answer][:limit]
    codi = cli.load_model(arguments)
    settings = sweep_settings(
        codi,
        layers=arguments.layers,
        positions=arguments.positions,
        num_latents=arguments.num_latents,
        mode=arguments.mode,
    )
    folder = cli.fresh_folder(arguments.out, "position_patching")
    swept = tqdm(sweep_pairs(codi, pairs, settings), total=len(pairs), unit="pair", desc="patching")
    sweep = Sweep(settings, tuple(swept), codi.model.cfg.n_layers)
    seconds = round(time.perf_counter() - started, 2)
    paths = write_record(folder, sweep, codi, cli.as_json(arguments) | {"seconds": seconds})
    paths["heatmap"] = write_heatmap(folder, sweep)
    print(table(sweep))
    print("\nwritten:", *(f"  {path}" for path in paths.values()), sep="\n")


def write_heatmap(folder: Path, sweep: Any) -> Path:
    """Writes `heatmap.html`: the map over all pairs, and one per operand where pairs know it."""
    from codi_lens import plots
    from codi_lens.files import write_text

    figures = {"recovery": plots.heatmap(sweep, "recovery")}
    if any(pair.operand for pair in sweep.pairs):
        figures["by-operand"] = plots.heatmap_by_operand(sweep, "recovery")
    figures["kl"] = plots.heatmap(sweep, "kl_divergence")
    write_text(folder / "heatmap.html", plots.page(figures))
    return folder / "heatmap.html"


def table(sweep: Any) -> str:
    """The cells with the largest recovery, and how many pairs stand behind them."""
    from codi_lens.aggregates import aggregate, competent, top_cells

    group = aggregate(sweep)
    lines = [
        f"{group.n} pairs, both questions answered right in {int(competent(sweep).sum())}; "
        f"recovery defined for {group.n_recovery}",
        "",
        "layer  latent  recovery      KL  flipped",
    ]
    for i, j in top_cells(group.means["recovery"], sweep.structural_zeros()):
        cell = {name: float(values[i, j]) for name, values in group.means.items()}
        lines.append(
            f"{sweep.settings.layers[i]:>5}  {sweep.settings.positions[j]:>6}  "
            f"{cell['recovery']:>8.3f}  {cell['kl_divergence']:>6.3f}  {cell['flipped']:>7.0%}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
