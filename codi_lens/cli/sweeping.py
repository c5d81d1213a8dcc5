"""What the three patching programs do alike: run, keep, record, report."""

import argparse
import sys
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi_lens.choices import ANSWERS, EARLIER_NAMES, EFFECT_CHOICES, EFFECTS
from codi_lens.cli import common, inputs, processes, resuming
from codi_lens.cli.table import table

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from codi_lens import Sweep
    from codi_lens.patching.result import PairOutcome
    from codi_lens.records.journal import Journal
    from codi_lens.tracking import Tracker

FIGURES = "heatmap.html"


def run_with_variants(experiment: str, description: str, argv: list[str] | None) -> int:
    """The program of an experiment that has modes and controls; exit codes as in `experiments.cli`."""
    parser = common.experiment_parser(experiment, description)
    earlier = [name for name, effect in EARLIER_NAMES.items() if effect in EFFECTS]
    parser.add_argument(
        "--effect",
        "--mode",
        default=EFFECTS[0],
        choices=(*EFFECT_CHOICES, *earlier),
        metavar=f"{{{','.join(EFFECT_CHOICES)}}}",
    )
    parser.add_argument("--controls", default="all", choices=("all", "none"))
    parser.add_argument("--answers", choices=ANSWERS, help="decode (default: all on toy, else top)")

    def patch(given: argparse.Namespace) -> None:
        sweep(
            experiment,
            given,
            effect=EARLIER_NAMES.get(given.effect, given.effect),
            controls=given.controls == "all",
        )

    return common.run_experiment(parser, argv, patch)


def sweep(experiment: str, arguments: argparse.Namespace, **options: Any) -> None:
    """Runs an experiment as the arguments ask, writes its record and figures, prints a table.

    Every finished pair is on disk at once; `arguments.resume` names a run to go on with. `options` go to
    the settings of the sweep, beside those that every experiment has. Processes that were launched
    together share the pairs; the first writes the record.
    """
    common.check_numbers(arguments)
    with processes.together() as here:
        if arguments.resume is not None and resuming.is_finished(arguments.resume):
            clear_up(arguments.resume, here)
            return
        if arguments.resume is None and here.index == 0:
            common.check_unused(arguments.out)  # before there is a model to wait for
        started = time.perf_counter()
        work = inputs.prepare(experiment, arguments, here, options)
        with open_journal(work) as journal, resuming.hint(work.folder), follow(work) as tracker:
            result, whole = run(work, journal, tracker)
            here.wait()  # until all have read what the first now puts away
            if here.index:
                return
            journal.absorb()
            written: list[Path] = []
            if result is not None:
                from codi_lens import plots

                drawn = plots.gallery(result)
                written = write(work, result, drawn, time.perf_counter() - started, whole)
                if whole:
                    tracker.finish(result, drawn, written)
        show(work, result, written, whole)


def open_journal(work: inputs.Work) -> "Journal":
    """This process' journal; the others wait until the first has its own, and the run's lock."""
    from codi_lens.records.journal import Journal
    from codi_lens.records.manifest import describe_run

    header = describe_run(work.experiment, work.codi, work.pairs, work.settings)
    header |= inputs.how_it_runs(work.arguments, work.saved)
    resume, here = work.arguments.resume is not None, work.here
    journal = Journal(work.folder, header, resume=resume) if here.index == 0 else None
    here.wait()
    return journal or Journal(work.folder, header, index=here.index)


def clear_up(folder: Path, here: processes.Processes) -> None:
    """What is left to do for a finished run."""
    from codi_lens.records.journal import remove_parts

    if here.index == 0:
        remove_parts(folder)
    print(f"{folder} is finished; there is nothing to go on with")


def follow(work: inputs.Work) -> "Tracker":
    """What --wandb asks for; one process tells of the run."""
    from codi_lens.tracking import Tracker

    return Tracker(
        "off" if work.here.index else work.arguments.wandb,
        experiment=work.experiment,
        folder=work.folder,
        config=common.as_json(work.arguments),
    )


def write(
    work: inputs.Work,
    result: "Sweep",
    drawn: dict[str, "go.Figure"],
    seconds: float,
    whole: bool,
) -> list[Path]:
    """Writes the record and its figures, and returns where they are."""
    from codi_lens import plots
    from codi_lens.records.journal import remove_parts
    from codi_lens.records.write import write_record

    config = common.as_json(work.arguments) | {
        "out": str(work.folder),
        "seconds": round(seconds, 2),
        "processes": work.here.count,
    }
    paths = write_record(
        work.folder,
        result,
        work.codi,
        config,
        pages={FIGURES: plots.page(drawn)},
        planned=len(work.pairs),
        complete=whole,
    )
    if whole:
        remove_parts(work.folder)
    return list(paths.values())


def show(work: inputs.Work, result: "Sweep | None", written: list[Path], whole: bool) -> None:
    """Says what was found and where it is.

    Raises:
        Interrupted: that is not all; says how to go on.
    """
    if result is not None:
        print(table(result))
        print("\nwritten:", *(f"  {path}" for path in written), sep="\n")
    if not whole:
        done = len(result.outcomes) if result else 0
        raise resuming.Interrupted(
            f"interrupted: {done} of {len(work.pairs)} pairs are done; go on with\n  {work.command}"
        )


def run(work: inputs.Work, journal: "Journal", tracker: "Tracker") -> tuple["Sweep | None", bool]:
    """The sweep, as far as it came, and whether that is all of it; answers as --answers asks."""
    from codi_lens.patching.experiments import experiment_named
    from codi_lens.patching.outcomes import sweep_pairs
    from codi_lens.patching.sweep import make_sweep

    answers = inputs.answers_to_decode(work.arguments)
    decode = "none" if answers == "top" else answers
    experiment = experiment_named(work.experiment)
    if answers == "top" and not experiment.has_controls:
        decode = "last"
    done = journal.outcomes(work.pairs)
    if work.arguments.resume is not None and work.here.index == 0:
        torn = "; the journal's last line was torn and is dropped" if journal.torn else ""
        print(f"going on: {len(done)} of {len(work.pairs)} pairs are there{torn}", file=sys.stderr)
    with common.CtrlC() as ctrl_c:
        outcomes = sweep_pairs(
            experiment,
            work.codi,
            work.pairs,
            work.settings,
            batch_rows=work.arguments.batch_rows,
            decode=decode,  # type: ignore[arg-type]
            saved=work.saved,
            part=work.here.part(len(work.pairs)),
            done=frozenset(done),
            stopped=lambda: ctrl_c.pressed,
        )
        for outcome in progress(outcomes, work, done):
            journal.add(outcome)
            done[outcome.pair.pair_id] = outcome
            tracker.pair(outcome, len(done))
        work.here.wait()
        if work.here.count > 1:
            done = journal.outcomes(work.pairs)
        if not done:
            return None, False
        in_order = [done[pair.pair_id] for pair in work.pairs if pair.pair_id in done]
        result = make_sweep(work.experiment, work.codi, work.settings, in_order)
        if len(done) < len(work.pairs):
            return result, False
        if answers == "top" and experiment.has_controls:
            return with_top_answers(result, work, journal, lambda: ctrl_c.pressed)
    return result, True


def progress(
    outcomes: Iterator["PairOutcome"], work: inputs.Work, done: Container[int]
) -> Iterator["PairOutcome"]:
    """The outcomes, shown as they come; of several processes the first shows its part."""
    from tqdm import tqdm

    own = work.pairs[work.here.part(len(work.pairs))]
    yield from tqdm(
        outcomes,
        total=len(own),
        initial=sum(pair.pair_id in done for pair in own),
        unit="pair",
        desc=work.experiment.replace("_", " "),
        disable=work.here.index > 0,
    )


def with_top_answers(
    sweep: "Sweep", work: inputs.Work, journal: "Journal", stopped: Callable[[], bool]
) -> tuple["Sweep", bool]:
    """The sweep with the answers of its five outlined cells, from a second run of those alone."""
    from codi_lens.analysis.aggregates import aggregate, donor_threshold, top_cells
    from codi_lens.patching.outcomes import sweep_pairs

    group = aggregate(sweep)
    values = group.means["recovery"][0]
    top = top_cells(values, sweep.structural_zeros(), threshold=donor_threshold(sweep, group))
    if not top:
        return sweep, True
    layers = sorted({cell[0] for cell in top})
    axes = {"layers": tuple(sweep.settings.layers[i] for i in layers)}
    steps = [0]
    if len(sweep.axes["column"]) > 1:
        steps = sorted({cell[1] for cell in top})
        axes["positions"] = tuple(sweep.settings.positions[j] for j in steps)
    effect = sweep.settings.effects[0]
    settings = replace(sweep.settings, **axes, effect=effect, controls=False)  # type: ignore[arg-type]
    texts = journal.answers()
    again = sweep_pairs(
        sweep.experiment,
        work.codi,
        work.pairs,
        settings,
        batch_rows=work.arguments.batch_rows,
        decode="all",
        part=work.here.part(len(work.pairs)),
        done=frozenset(texts),
        stopped=stopped,
    )
    for outcome in again:
        cells = {(layers[i], steps[j]): text for (_, i, j), text in outcome.texts.items()}
        own: dict[Cell, str] = {(0, *cell): t for cell, t in cells.items() if cell in top}
        journal.add_answers(outcome.pair.pair_id, own)
        texts[outcome.pair.pair_id] = own
    work.here.wait()
    if work.here.count > 1:
        texts = journal.answers()
    outcomes = [replace(o, texts=texts.get(o.pair.pair_id, {})) for o in sweep.outcomes]
    return replace(sweep, outcomes=tuple(outcomes)), len(texts) == len(sweep.outcomes)
