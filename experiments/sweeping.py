"""What the three patching programs do alike: pairs, model, run, record, table."""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi_lens.errors import UserError
from experiments import cli

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from codi_lens import HookedCodi, Pair, Sweep

Figures = Callable[["Sweep"], dict[str, "go.Figure"]]


def sweep(experiment: str, arguments: argparse.Namespace, figures: Figures, **options: Any) -> None:
    """Runs an experiment as the arguments ask, writes its record and figures, prints a table.

    `options` go to the settings of the sweep, beside those that every experiment has.
    """
    # Heavy imports wait until the arguments are known to be right.
    from codi_lens import plots
    from codi_lens.files import write_text
    from codi_lens.results import write_record
    from codi_lens.sweeps import make_settings

    started = time.perf_counter()
    if arguments.batch_rows < 1:
        raise UserError(f"--batch-rows is {arguments.batch_rows}; it must be 1 or more")
    pairs = chosen_pairs(arguments)
    codi = cli.load_model(arguments)
    settings = make_settings(
        codi,
        **{name: getattr(arguments, name) for name in ("layers", "positions", "num_latents")},
        **{name: getattr(arguments, name) for name in ("site", "direction", "answer_start")},
        min_gap=arguments.min_gap,
        seed=arguments.seed,
        **options,
    )
    pairs = filtered(codi, pairs, arguments)
    saved = None
    if getattr(arguments, "activations", None):
        saved = saved_activations(arguments.activations, codi, pairs, settings)
    folder = cli.fresh_folder(arguments.out, experiment)
    result = run(experiment, codi, pairs, settings, arguments, saved)
    seconds = round(time.perf_counter() - started, 2)
    paths = write_record(folder, result, codi, cli.as_json(arguments) | {"seconds": seconds})
    paths["figures"] = folder / "heatmap.html"
    write_text(paths["figures"], plots.page(figures(result)))
    print(table(result))
    print("\nwritten:", *(f"  {path}" for path in paths.values()), sep="\n")


def chosen_pairs(arguments: argparse.Namespace) -> list["Pair"]:
    """The pairs that --pairs, --limit and --include-same-answer ask for."""
    from codi_lens import load_pairs

    limit = cli.positive_limit(arguments.limit)
    pairs = load_pairs(arguments.pairs)
    if not arguments.include_same_answer:
        kept = [pair for pair in pairs if not pair.same_answer]
        if len(kept) < len(pairs):
            print(f"{len(pairs) - len(kept)} pairs with the same answer on both sides set aside")
        pairs = kept
    if not pairs:
        raise UserError(f"{arguments.pairs} has no pair whose answers differ")
    return pairs[:limit]


def filtered(
    codi: "HookedCodi", pairs: list["Pair"], arguments: argparse.Namespace
) -> list["Pair"]:
    """The pairs that pass --filter."""
    from codi_lens.necessity import passing

    kept = passing(codi, pairs, arguments.filter, num_latents=arguments.num_latents)
    if len(kept) < len(pairs):
        print(f"{len(pairs) - len(kept)} pairs left out by --filter {arguments.filter}")
    if not kept:
        raise UserError(f"no pair passes --filter {arguments.filter}")
    return kept


def saved_activations(
    run_folder: Path, codi: "HookedCodi", pairs: list["Pair"], settings: Any
) -> Any:
    """Source activations of an earlier run, after checking that they are those that are wanted."""
    from codi_lens.results import reusable_activations

    return reusable_activations(run_folder, codi, pairs, settings)


def run(
    experiment: str,
    codi: "HookedCodi",
    pairs: list["Pair"],
    settings: Any,
    arguments: argparse.Namespace,
    saved: Any = None,
) -> "Sweep":
    """The sweep with a progress bar, patched answers decoded as --answers asks."""
    from tqdm import tqdm

    from codi_lens.runner import sweep_pairs
    from codi_lens.sweeps import make_sweep

    answers = arguments.answers
    if answers is None:
        answers = "all" if arguments.model == "toy" else "top"
    decode = {"all": "all", "none": "none", "top": "none"}[answers]
    if experiment == "iterative_patching" and answers == "top":
        decode = "last"
    options = {"batch_rows": arguments.batch_rows, "decode": decode, "saved": saved}
    outcomes = sweep_pairs(experiment, codi, pairs, settings, **options)  # type: ignore[arg-type]
    bar = tqdm(outcomes, total=len(pairs), unit="pair", desc=experiment.replace("_", " "))
    result = make_sweep(experiment, codi, settings, list(bar))
    if answers == "top" and "variant" in result.axes:
        result = with_top_answers(result, codi, arguments.batch_rows)
    return result


def with_top_answers(sweep: "Sweep", codi: "HookedCodi", batch_rows: int) -> "Sweep":
    """The sweep with the answers of its five outlined cells, from a second run of those alone."""
    from codi_lens.aggregates import aggregate, donor_threshold, top_cells
    from codi_lens.runner import sweep_pairs

    group = aggregate(sweep)
    values = group.means["recovery"][0]
    top = top_cells(values, sweep.structural_zeros(), threshold=donor_threshold(sweep, group))
    if not top:
        return sweep
    layers = sorted({cell[0] for cell in top})
    axes = {"layers": tuple(sweep.settings.layers[i] for i in layers)}
    steps = list(range(len(sweep.settings.positions)))
    if "position" in sweep.axes:
        steps = sorted({cell[1] for cell in top})
        axes["positions"] = tuple(sweep.settings.positions[j] for j in steps)
    mode = sweep.settings.variants[0]
    settings = replace(sweep.settings, **axes, mode=mode, controls=False)  # type: ignore[arg-type]
    again = sweep_pairs(
        sweep.experiment, codi, sweep.pairs, settings, batch_rows=batch_rows, decode="all"
    )
    outcomes = []
    for outcome, decoded in zip(sweep.outcomes, again, strict=True):
        texts = {}
        for (_, i, *rest), text in decoded.texts.items():
            cell = (layers[i], *(steps[j] for j in rest))
            if cell in top:
                texts[(0, *cell)] = text
        outcomes.append(replace(outcome, texts=texts))
    return replace(sweep, outcomes=tuple(outcomes))


def table(sweep: "Sweep") -> str:
    """The cells with the largest recovery, and how many pairs stand behind them."""
    from codi_lens.aggregates import aggregate, competent, donor_threshold, top_cells

    group = aggregate(sweep)
    axes = [name for name in sweep.axes if name != "variant"]
    values, zeros = group.means["recovery"], None
    if "variant" in sweep.axes:
        values, zeros = values[0], sweep.structural_zeros()
    top = top_cells(values, values.isnan() if zeros is None else zeros)
    lines = [
        f"{group.n} pairs, both questions answered right in {int(competent(sweep).sum())}; "
        f"recovery defined for {group.n_recovery}",
        "",
        "".join(f"{name:>10}" for name in axes) + "  recovery   95% interval      KL  flipped",
    ]
    for cell in top:
        where = (0, *cell) if "variant" in sweep.axes else cell
        names = "".join(f"{sweep.axes[a][i]!s:>10}" for a, i in zip(axes, cell, strict=True))
        means = {name: float(v[where]) for name, v in group.means.items()}
        low, high = float(group.low["recovery"][where]), float(group.high["recovery"][where])
        lines.append(
            f"{names}  {means['recovery']:>8.3f}  {low:>6.3f} – {high:<6.3f}"
            f"{means['kl_divergence']:>7.3f}  {means['flipped']:>7.0%}"
        )
    threshold = donor_threshold(sweep, group)
    if threshold is not None:
        lines.append(f"largest effect of another pair's activations: {threshold:.3f}")
    return "\n".join(lines)
