"""In which subspace of which place is a result held? Distributed alignment search.

For every result on the way, and the answer, learns at each place the subspace whose exchange makes the answer follow the other
question's result, and measures it on examples that were not learned from, beside a random subspace and the whole vector.
Writes `subspaces.json`, the bases (`subspaces.safetensors`) and the figure `subspaces.html`. An organism (`--model
organism:subspace`) is asked its own task's held-out problems; other models, the pairs, which must know their intermediates.
"""

import argparse
from typing import TYPE_CHECKING, Any

from codi_lens.cli import asking, flags
from codi_lens.cli.folders import check_unused, fresh_folder
from codi_lens.cli.model_flags import add_model_flags, load_model
from codi_lens.cli.patching import add_place_flags
from codi_lens.cli.program import Program
from codi_lens.errors import UserError

if TYPE_CHECKING:
    from codi_lens.analysis.subspaces import Alignment, Example

Found = dict[tuple[str, str, str], "Alignment"]
"""(result, row, position) -> what was learned there."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    flags.add_experiment_flags(parser)
    add_place_flags(parser)
    add = parser.add_argument
    add("--results", type=flags.names, help="such as v1,v2; the last is the answer (default: all)")
    add("--rank", type=int, help="of the subspaces (default: a sixteenth of the width)")
    add("--learning-steps", type=int, default=150, help="at each place")
    add_model_flags(parser)


def measure(arguments: argparse.Namespace) -> None:
    """Learns, prints and writes."""
    check_unused(arguments.out)
    from safetensors.torch import save_file

    from codi_lens import plots
    from codi_lens.analysis.subspaces import align
    from codi_lens.files import write_json, write_text
    from codi_lens.patching.sweep import make_settings

    codi = load_model(arguments)
    layers = arguments.layers or ("thought",)
    settings = make_settings(
        codi,
        layers=layers,
        positions=arguments.positions,
        num_latents=arguments.num_latents,
        site=arguments.site,
    )
    asked = asked_about(arguments)
    rank = arguments.rank or max(1, codi.model.cfg.d_model // 16)
    folder, found = fresh_folder(arguments.out, "subspaces"), {}
    for result, examples in asked.items():
        for row in settings.layers:
            for step in settings.positions:
                cell = align(
                    codi,
                    examples,
                    row,
                    step,
                    rank,
                    site=arguments.site,
                    steps=arguments.learning_steps,
                    seed=arguments.seed,
                )
                found[result, str(row), str(step)] = cell
                print(line(result, row, step, cell), flush=True)
    paths = [folder / f"subspaces.{end}" for end in ("json", "html", "safetensors")]
    save_file({"/".join(key): cell.basis.contiguous() for key, cell in found.items()}, paths[2])
    record = {"config": flags.as_json(arguments), "model_digest": codi.digest, "rank": rank}
    write_json({paths[0]: record | {"cells": entries(found)}})
    figure = plots.subspaces(entries(found))
    write_text(paths[1], plots.page({"subspaces": figure}))
    print("\nwritten:", *(f"  {path}" for path in paths), sep="\n")


def asked_about(arguments: argparse.Namespace) -> dict[str, list["Example"]]:
    """Result -> interchanges of it.

    Raises:
        UserError: pairs that do not know their results, or a result that there is not.
    """
    from codi_lens.analysis.subspaces import examples_of
    from codi_lens.errors import one_of
    from codi_lens.organisms.planted.certify import examples

    if (truth := asking.own_truth(arguments)) is not None:
        chosen = arguments.results or truth.variables
        count = asking.problem_count(arguments)
        return {result: examples(truth, result, count) for result in chosen}
    pairs = asking.chosen_pairs(arguments)
    # Where the last result on the way is the answer, as in two-step problems, it counts once.
    count = min(len(pair.clean.intermediates) for pair in pairs) + 1
    if count == 1:
        raise UserError("the pairs do not know their intermediates; give others as --pairs")
    names = tuple(f"v{i + 1}" for i in range(count))
    chosen = [one_of(result, names, "result") for result in arguments.results or names]
    return {result: examples_of(pairs, names.index(result)) for result in chosen}


def entries(found: Found) -> list[dict[str, Any]]:
    """The cells as plain data."""
    return [
        {
            "result": result,
            "row": row,
            "column": column,
            "iia": cell.iia,
            "random": cell.random,
            "whole": cell.whole,
            "n": cell.n,
            "loss": cell.losses[-1],
        }
        for (result, row, column), cell in found.items()
    ]


def line(result: str, row: object, step: object, cell: "Alignment") -> str:
    """What was found at one place."""
    return (
        f"{result:>8}  {row!s:>8} at {step!s:<4} IIA {cell.iia:.2f}  random {cell.random:.2f}  whole {cell.whole:.2f}  "
        f"(n = {cell.n})"
    )


main = Program("subspaces", __doc__, add_flags, measure)
