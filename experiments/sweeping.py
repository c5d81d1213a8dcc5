"""What the three patching programs do alike: pairs, model, run, record, table."""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi_lens.errors import UserError
from experiments import cli

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from codi_lens import HookedCodi, Pair, Sweep
    from codi_lens.journal import Journal
    from codi_lens.outcomes import PairOutcome
    from codi_lens.plans import Settings
    from codi_lens.tracking import Tracker

Figures = Callable[["Sweep"], dict[str, "go.Figure"]]
FIGURES = "heatmap.html"


def sweep(experiment: str, arguments: argparse.Namespace, figures: Figures, **options: Any) -> None:
    """Runs an experiment as the arguments ask, writes its record and figures, prints a table.

    Every finished pair is on disk at once; `arguments.resume` names a run to go on with. `options` go to
    the settings of the sweep, beside those that every experiment has.
    """
    cli.check_numbers(arguments)
    if arguments.resume is None:
        cli.check_unused(arguments.out)
    # Heavy imports wait until the arguments are known to be right.
    from codi_lens.journal import Journal, remove_parts
    from codi_lens.manifest import describe_run
    from codi_lens.soundness import check_pairs
    from codi_lens.sweeps import make_settings

    started = time.perf_counter()
    if arguments.resume and is_finished(arguments.resume):
        remove_parts(arguments.resume)
        print(f"{arguments.resume} is finished; there is nothing to go on with")
        return
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
    check_pairs(codi, pairs, settings.num_latents)
    pairs = filtered(codi, pairs, arguments)
    saved = saved_activations(arguments, codi, pairs, settings)
    header = describe_run(experiment, codi, pairs, settings) | how_it_runs(arguments, saved)
    folder = arguments.resume or cli.fresh_folder(arguments.out, experiment)
    command = f"python -m experiments.{experiment} --resume {shlex.quote(str(folder))}"
    with (
        Journal(folder, header, resume=arguments.resume is not None) as journal,
        cli.resume_hint(command),
    ):
        tracker = follow(experiment, arguments, folder)
        work = Work(experiment, codi, pairs, settings, arguments, saved, journal, tracker)
        result, whole = run(work)
        if result is not None:
            write(work, result, figures, time.perf_counter() - started, whole)
        if not whole:
            done = len(result.outcomes) if result else 0
            raise cli.Interrupted(
                f"interrupted: {done} of {len(pairs)} pairs are done; go on with\n  {command}"
            )


def is_finished(folder: Path) -> bool:
    """Whether a run has its last file."""
    from codi_lens.manifest import MANIFEST
    from codi_lens.results import read_manifest

    return (folder / MANIFEST).exists() and bool(read_manifest(folder, incomplete=True)["complete"])


def follow(experiment: str, arguments: argparse.Namespace, folder: Path) -> "Tracker":
    """What --wandb asks for."""
    from codi_lens.tracking import Tracker

    return Tracker(
        arguments.wandb, experiment=experiment, folder=folder, config=cli.as_json(arguments)
    )


def how_it_runs(arguments: argparse.Namespace, saved: Any) -> dict[str, Any]:
    """What the journal of a run knows of it beside model, pairs and settings."""
    from codi_lens.manifest import tensors_digest

    return {
        "arguments": arguments.given,
        "batch_rows": arguments.batch_rows,
        "answers": answers_to_decode(arguments),
        "activations": None if saved is None else tensors_digest(saved),
    }


def answers_to_decode(arguments: argparse.Namespace) -> str:
    """--answers, or what it is when not given."""
    return arguments.answers or ("all" if arguments.model == "toy" else "top")


def write(work: "Work", result: "Sweep", figures: Figures, seconds: float, whole: bool) -> None:
    """Writes the record and its figures; says what was found and where it is."""
    from codi_lens import plots
    from codi_lens.journal import remove_parts
    from codi_lens.results_writer import write_record

    folder, planned, drawn = work.journal.folder, len(work.pairs), figures(result)
    config = cli.as_json(work.arguments) | {"out": str(folder), "seconds": round(seconds, 2)}
    paths = write_record(
        folder,
        result,
        work.codi,
        config,
        pages={FIGURES: plots.page(drawn)},
        planned=planned,
        complete=whole,
    )
    if whole:
        remove_parts(folder)
    print(table(result))
    print("\nwritten:", *(f"  {path}" for path in paths.values()), sep="\n")
    if whole:
        work.tracker.finish(result, drawn, list(paths.values()))


def chosen_pairs(arguments: argparse.Namespace) -> list["Pair"]:
    """The pairs that --pairs, --limit and --include-same-answer ask for."""
    from codi_lens import load_pairs

    pairs = load_pairs(arguments.pairs)
    if not arguments.include_same_answer:
        kept = [pair for pair in pairs if not pair.same_answer]
        if len(kept) < len(pairs):
            print(f"{len(pairs) - len(kept)} pairs with the same answer on both sides set aside")
        pairs = kept
    if not pairs:
        raise UserError(f"{arguments.pairs} has no pair whose answers differ")
    return pairs[: arguments.limit]


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
    arguments: argparse.Namespace, codi: "HookedCodi", pairs: list["Pair"], settings: Any
) -> Any:
    """Source activations of the run that --activations names, if they are those that are wanted."""
    from codi_lens.results import reusable_activations

    if getattr(arguments, "activations", None) is None:
        return None
    return reusable_activations(arguments.activations, codi, pairs, settings)


@dataclass(frozen=True)
class Work:
    """A run, ready to go."""

    experiment: str
    codi: "HookedCodi"
    pairs: list["Pair"]
    settings: "Settings"
    arguments: argparse.Namespace
    saved: Any
    journal: "Journal"
    tracker: "Tracker"


def run(work: Work) -> tuple["Sweep | None", bool]:
    """The sweep, as far as it came, and whether that is all of it; answers as --answers asks."""
    from codi_lens.runner import sweep_pairs
    from codi_lens.sweeps import make_sweep

    answers = answers_to_decode(work.arguments)
    decode = "none" if answers == "top" else answers
    if work.experiment == "iterative_patching" and answers == "top":
        decode = "last"
    done = work.journal.outcomes(work.pairs)
    if work.arguments.resume is not None:
        torn = "; the journal's last line was torn and is dropped" if work.journal.torn else ""
        print(f"going on: {len(done)} of {len(work.pairs)} pairs are there{torn}", file=sys.stderr)
    with cli.CtrlC() as ctrl_c:
        outcomes = sweep_pairs(
            work.experiment,
            work.codi,
            work.pairs,
            work.settings,
            batch_rows=work.arguments.batch_rows,
            decode=decode,  # type: ignore[arg-type]
            saved=work.saved,
            done=frozenset(done),
            stopped=lambda: ctrl_c.pressed,
        )
        for outcome in progress(outcomes, work, len(done)):
            work.journal.add(outcome)
            work.tracker.pair(outcome)
            done[outcome.pair.pair_id] = outcome
        if not done:
            return None, False
        in_order = [done[pair.pair_id] for pair in work.pairs if pair.pair_id in done]
        result = make_sweep(work.experiment, work.codi, work.settings, in_order)
        if len(done) < len(work.pairs):
            return result, False
        if answers == "top" and "variant" in result.axes:
            return with_top_answers(result, work, lambda: ctrl_c.pressed)
    return result, True


def progress(outcomes: Iterator["PairOutcome"], work: Work, done: int) -> Iterator["PairOutcome"]:
    """The outcomes, shown as they come."""
    from tqdm import tqdm

    what = work.experiment.replace("_", " ")
    yield from tqdm(outcomes, total=len(work.pairs), initial=done, unit="pair", desc=what)


def with_top_answers(
    sweep: "Sweep", work: Work, stopped: Callable[[], bool]
) -> tuple["Sweep", bool]:
    """The sweep with the answers of its five outlined cells, from a second run of those alone."""
    from codi_lens.aggregates import aggregate, donor_threshold, top_cells
    from codi_lens.runner import sweep_pairs

    group = aggregate(sweep)
    values = group.means["recovery"][0]
    top = top_cells(values, sweep.structural_zeros(), threshold=donor_threshold(sweep, group))
    if not top:
        return sweep, True
    layers = sorted({cell[0] for cell in top})
    axes = {"layers": tuple(sweep.settings.layers[i] for i in layers)}
    steps = list(range(len(sweep.settings.positions)))
    if "position" in sweep.axes:
        steps = sorted({cell[1] for cell in top})
        axes["positions"] = tuple(sweep.settings.positions[j] for j in steps)
    mode = sweep.settings.variants[0]
    settings = replace(sweep.settings, **axes, mode=mode, controls=False)  # type: ignore[arg-type]
    texts = work.journal.answers()
    again = sweep_pairs(
        sweep.experiment,
        work.codi,
        work.pairs,
        settings,
        batch_rows=work.arguments.batch_rows,
        decode="all",
        done=frozenset(texts),
        stopped=stopped,
    )
    for outcome in again:
        cells = {
            (layers[i], *(steps[j] for j in rest)): t for (_, i, *rest), t in outcome.texts.items()
        }
        own = {(0, *cell): text for cell, text in cells.items() if cell in top}
        work.journal.add_answers(outcome.pair.pair_id, own)
        texts[outcome.pair.pair_id] = own
    outcomes = [replace(o, texts=texts.get(o.pair.pair_id, {})) for o in sweep.outcomes]
    return replace(sweep, outcomes=tuple(outcomes)), len(texts) == len(sweep.outcomes)


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
