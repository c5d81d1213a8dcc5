"""Which places matter, by gradients through the loop? Attribution, with its agreement with exact patching.

Scores all places of a map in one backward pass per integration step, patches a random sample of cells exactly, and prints how well
the two agree. Writes `attribution.json` and the figure `attribution.html`.
"""

import argparse
from typing import TYPE_CHECKING, Any

from codi_lens.choices import DIRECTIONS
from codi_lens.cli import flags
from codi_lens.cli.asking import chosen_pairs
from codi_lens.cli.folders import check_unused, fresh_folder
from codi_lens.cli.model_flags import add_model_flags, load_model
from codi_lens.cli.patching import add_effect_flag, add_place_flags
from codi_lens.cli.program import Program

if TYPE_CHECKING:
    from codi_lens.analysis.attribution import Attribution

TOP = 5


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    flags.add_experiment_flags(parser)
    add_place_flags(parser)
    add_effect_flag(parser, ("total", "direct"))
    add = parser.add_argument
    which = "denoise: the base is the corrupted run; noise: the clean one"
    add("--direction", default="denoise", choices=DIRECTIONS, help=which)
    how = "the gradient's mean between the two runs, or in the base run alone"
    add("--method", default="integrated", choices=("integrated", "gradient"), help=how)
    add("--steps", type=int, default=10, help="points of the integral")
    add("--metric", default="logit_diff", help="that has a gradient")
    text = "cells that are patched exactly, drawn at random; 0: none"
    add("--fidelity-cells", type=int, default=200, help=text)
    add_model_flags(parser)


def measure(arguments: argparse.Namespace) -> None:
    """Attributes, prints and writes."""
    check_unused(arguments.out)
    from codi_lens import plots
    from codi_lens.analysis.attribution import attribute
    from codi_lens.files import write_json, write_text

    pairs = chosen_pairs(arguments)
    codi = load_model(arguments)
    found = attribute(
        codi,
        pairs,
        places=arguments.layers,
        positions=arguments.positions,
        site=arguments.site,
        method=arguments.method,
        steps=arguments.steps,
        effect=arguments.effect,
        direction=arguments.direction,
        metric=arguments.metric,
        num_latents=arguments.num_latents,
        fidelity_cells=arguments.fidelity_cells,
        seed=arguments.seed,
    )
    folder = fresh_folder(arguments.out, "attribution")
    paths = folder / "attribution.json", folder / "attribution.html"
    record = {"config": flags.as_json(arguments), "model_digest": codi.digest} | entry(found)
    write_json({paths[0]: record})
    write_text(paths[1], plots.page({"attribution": plots.attribution(found)}))
    print(table(found))
    print("\nwritten:", *(f"  {path}" for path in paths), sep="\n")


def entry(found: "Attribution") -> dict[str, Any]:
    """The content of `attribution.json`: scores by pair, and the fidelity with the cells behind it."""
    fidelity = found.fidelity
    about = None
    if fidelity is not None:
        about = {
            "n": fidelity.n,
            "pearson": fidelity.pearson,
            "spearman": fidelity.spearman,
            "pearson_of_means": fidelity.of_means,
            "pearson_by_pair": [None if r != r else r for r in fidelity.by_pair],
            "cells": [
                {
                    "pair_id": found.pairs[p].pair_id,
                    "row": str(found.rows[r]),
                    "column": str(found.columns[c]),
                }
                | {"score": score, "exact": exact}
                for (p, r, c), score, exact in zip(
                    fidelity.cells, fidelity.scores.tolist(), fidelity.exact.tolist(), strict=True
                )
            ],
        }
    return {
        "rows": [str(row) for row in found.rows],
        "columns": [str(column) for column in found.columns],
        "mean": found.mean().tolist(),
        "pairs": [
            {"pair_id": pair.pair_id, "prompt_interpolated": same, "scores": scores}
            for pair, same, scores in zip(
                found.pairs, found.interpolated, found.scores.tolist(), strict=True
            )
        ],
        "fidelity": about,
    }


def table(found: "Attribution") -> str:
    """The largest cells, and how far to trust them."""
    mean = found.mean()
    best = mean.abs().flatten().argsort(descending=True, stable=True)[:TOP].tolist()
    lines = [
        f"{len(found.pairs)} pairs; mean score in units of {found.metric}",
        "",
        "     place  position   score",
    ]
    for index in best:
        row, column = divmod(index, len(found.columns))
        lines.append(
            f"{found.rows[row]!s:>10}{found.columns[column]!s:>10}{float(mean[row, column]):>8.3f}"
        )
    if found.fidelity is not None:
        lines += ["", found.fidelity.text]
    return "\n".join(lines)


main = Program("attribution", __doc__, add_flags, measure)
