"""What the patching programs do alike: their flags, and run, record, report."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from codi_lens.choices import (
    ANSWER_STARTS,
    ANSWERS,
    DIRECTIONS,
    EARLIER_NAMES,
    EFFECT_CHOICES,
    EFFECTS,
    FILTERS,
    INTERVENTIONS,
    SITES,
    WANDB_MODES,
    WandbMode,
)
from codi_lens.cli import inputs, resuming
from codi_lens.cli.flags import add_experiment_flags, as_json, labels, path, rows_of_a_map
from codi_lens.cli.folders import check_unused
from codi_lens.cli.model_flags import add_model_flags
from codi_lens.cli.program import Program
from codi_lens.cli.table import table
from codi_lens.errors import command
from codi_lens.records.processes import Processes, together
from codi_lens.records.stopping import Interrupted

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from codi_lens import Sweep

FIGURES = "heatmap.html"
CELLS = "cells.parquet"


def patching_program(
    experiment: str,
    text: str,
    add_own_flags: Callable[[argparse.ArgumentParser], object],
    direction: str = "denoise",
) -> Program:
    """The program of an experiment; `add_own_flags` adds those that not every experiment has."""

    def add_flags(parser: argparse.ArgumentParser) -> None:
        add_patching_flags(parser, direction)
        add_own_flags(parser)

    def body(arguments: argparse.Namespace) -> None:
        patch(experiment, resuming.resumed(program.parser(), arguments))

    program = Program(experiment, text, add_flags, body)
    return program


def add_patching_flags(parser: argparse.ArgumentParser, direction: str = "denoise") -> None:
    """The flags that every patching program has."""
    add_experiment_flags(parser)
    add = parser.add_argument
    which = "denoise patches the clean run into the corrupted one, noise the other way round"
    add("--direction", default=direction, choices=DIRECTIONS, help=which)
    start = "where the answer is read: behind the forced stem, or right after the thoughts"
    add("--answer-start", default="stem", choices=ANSWER_STARTS, help=start)
    gap = "gap between the two unpatched runs, in logits, below which a pair has no recovery"
    add("--min-gap", type=float, default=1.0, help=gap)
    kept = "pairs to keep: all, those answered right, or also wrong without thoughts"
    add("--filter", default="none", choices=FILTERS, help=kept)
    same = "run pairs with the same answer on both sides too, as a group of their own"
    add("--include-same-answer", action="store_true", help=same)
    rows = (
        "runs side by side, at most; a pair with more is run in parts (default: as fit in memory)"
    )
    add("--batch-rows", type=int, help=rows)
    answers = "patched answers to decode; top: those of the top cells, or of the last column"
    add("--answers", choices=ANSWERS, help=f"{answers} (default: all on toy, else top)")
    kinds = f"of the cells; parquet: {CELLS} in long form, beside the JSON"
    add("--format", default="json", choices=("json", "parquet"), help=kinds)
    add_model_flags(parser)
    add("--wandb", default="off", choices=WANDB_MODES, help="tell Weights & Biases of the run")
    go_on = "go on with an unfinished run (its flags are known)"
    add("--resume", type=path, metavar="RUN", help=go_on)


def add_position_flag(parser: argparse.ArgumentParser) -> None:
    """--positions."""
    text = "to patch, such as bot,0-4,eot (default: all latents)"
    parser.add_argument("--positions", type=labels, help=text)


def add_layer_flag(parser: argparse.ArgumentParser, what: str) -> None:
    """--layers, for `what` is done in them."""
    parser.add_argument("--layers", type=labels, help=f"{what}, such as 0-3,7 (default: all)")


def add_window_flag(parser: argparse.ArgumentParser) -> None:
    """--window."""
    text = "layers that are exchanged or blocked together, beside all of them; 0: all alone"
    parser.add_argument("--window", type=int, default=0, help=text)


def add_place_flags(parser: argparse.ArgumentParser) -> None:
    """What is patched: --layers, --positions, --site."""
    rows = "to patch: layers and places such as 0-3,7,thought, 2.1 (a head), 2.kv0, 2.n17, or a hook point's name"
    parser.add_argument("--layers", type=rows_of_a_map, help=f"{rows} (default: all layers)")
    add_position_flag(parser)
    site = f"what of a layer is patched: {', '.join(SITES)}, or a hook point in a layer"
    parser.add_argument("--site", default="resid_post", help=site)


def add_put_in_flags(parser: argparse.ArgumentParser, default: str = "source") -> None:
    """What is put in: --intervention, --data, --strength."""
    add = parser.add_argument
    what = "what is put in: the other run's activation, zero, the mean of --data, another pair's, as much in a random "
    what += "direction, or its own plus a difference of means"
    add("--intervention", default=default, choices=INTERVENTIONS, help=what)
    add(
        "--data",
        help="pairs over whose questions means are taken (default: the pairs that are run)",
    )
    text = "how often the difference of means is added, when steering"
    add("--strength", type=float, default=1.0, help=text)


def add_effect_flag(parser: argparse.ArgumentParser, choices: Sequence[str]) -> None:
    """--effect."""
    parser.add_argument(
        "--effect",
        "--mode",
        default=EFFECTS[0],
        choices=choices,
        type=lambda text: EARLIER_NAMES.get(text, text),
        help="what follows a patch: later thoughts recomputed, held, or alone passed on",
    )


def add_control_flag(parser: argparse.ArgumentParser) -> None:
    """--controls."""
    text = "patch the run's own activation, another pair's, and noise too"
    parser.add_argument("--controls", default="all", choices=("all", "none"), help=text)


def add_map_flags(parser: argparse.ArgumentParser) -> None:
    """Those of the position-wise and the layer-wise program."""
    add_place_flags(parser)
    add_put_in_flags(parser)
    add_effect_flag(parser, EFFECT_CHOICES)
    add_control_flag(parser)


def patch(experiment: str, arguments: argparse.Namespace) -> None:
    """Runs an experiment as the arguments ask, writes its record and figures, prints a table.

    Processes that were launched together share the pairs; the first writes the record.
    """
    with together() as here:
        if arguments.resume is not None:
            from codi_lens.records.running import clear_up

            if clear_up(arguments.resume):
                print(f"{arguments.resume} is finished; there is nothing to go on with")
                return
        elif here.index == 0:
            check_unused(arguments.out)  # before there is a model to wait for
        if arguments.format == "parquet":
            from codi_lens.patching.labelled import needed

            needed("pandas")  # before there is anything to lose
        work = inputs.prepare(experiment, arguments, here)
        with resuming.hint(work.folder):
            execute(experiment, work, arguments, here)


def execute(
    experiment: str, work: inputs.Inputs, arguments: argparse.Namespace, here: Processes
) -> None:
    """Runs the sweep, with its figures, and tells of it.

    Raises:
        Interrupted: Ctrl-C; says how to go on.
    """
    from codi_lens import plots, records
    from codi_lens.records.origin import describe_origin
    from codi_lens.tracking import Tracker

    drawn: dict[str, go.Figure] = {}
    config = as_json(arguments)
    mode: WandbMode = "off" if here.index else arguments.wandb

    @cache
    def tracker() -> Tracker:
        """From the first pair on: a run that is refused is not told of."""
        about = config | {"origin": describe_origin(work.codi.loop.device)}
        found = Tracker(mode, experiment=experiment, folder=work.folder, config=about)
        return stack.enter_context(found)

    def pages(sweep: "Sweep") -> Mapping[str, str | bytes]:
        drawn.update(plots.gallery(sweep))
        return {FIGURES: plots.page(drawn), **tables(sweep, arguments.format)}

    with ExitStack() as stack:
        try:
            sweep = records.run(
                work.codi,
                work.pairs,
                experiment,
                work.folder,
                arguments.resume is not None,
                settings=work.settings,
                batch_rows=arguments.batch_rows,
                answers=arguments.answers or ("all" if arguments.model == "toy" else "top"),
                replacement=work.replacement,
                pages=pages,
                on_pair=lambda outcome, done: tracker().pair(outcome, done),
                config=config,
                call={"arguments": arguments.given, "working_folder": os.getcwd()},
                go_on=command(experiment, "--resume", work.folder),
                processes=here,
            )
        except Interrupted as stop:
            if here.index:  # the first says it
                return
            if stop.sweep:
                show(stop.sweep, work.folder)
            raise
        tracker().finish(sweep, drawn, show(sweep, work.folder))


def tables(sweep: "Sweep", kind: str) -> dict[str, bytes]:
    """What --format adds to the record, by file name."""
    return {CELLS: sweep.to_dataframe().to_parquet(index=False)} if kind == "parquet" else {}


def show(sweep: "Sweep", folder: Path) -> list[Path]:
    """Says what was found and where it is; returns the files of the record."""
    from codi_lens.records.manifest import MANIFEST
    from codi_lens.records.read import read_manifest

    names = [*read_manifest(folder, incomplete=True)["files"], MANIFEST]
    written = [folder / name for name in names]
    print(table(sweep))
    print("\nwritten:", *(f"  {path}" for path in written), sep="\n")
    return written
