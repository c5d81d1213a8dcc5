"""Where can a result, an operand or the answer be read off, and where is it used? Linear probes with a control task.

At every layer and step a probe is fitted and scored on questions that it has not seen, beside the same probe on a control task:
random labels, the same for all questions with the same first operand. Then the subspace that each probe sees is exchanged between
the sides of pairs, beside a random one and the whole activation. Prints the best cells, and writes `probes.json`, the probes'
weights (`probes.safetensors`) and the figure `probes.html`. An organism (`--model organism:decoy`) is asked held-out problems of its
own task; other models, both sides of the pairs.
"""

import argparse
from typing import TYPE_CHECKING, Any

from codi_lens.cli import asking, flags
from codi_lens.cli.folders import check_unused, fresh_folder
from codi_lens.cli.model_flags import add_model_flags, load_model
from codi_lens.cli.patching import add_place_flags
from codi_lens.cli.program import Program

if TYPE_CHECKING:
    from torch import Tensor

    from codi_lens.analysis.probes import Probes, Usage

TOP = 6


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    flags.add_experiment_flags(parser)
    add_place_flags(parser)
    add = parser.add_argument
    what = "what is read: answer, a result (v1, v2, …), or an operand (operand1, …)"
    add("--label", default="answer", help=what)
    add("--kind", default="logistic", choices=("logistic", "ridge"), help="classes, or numbers")
    add("--folds", type=int, default=5, help="of the cross-validation")
    add("--penalty", type=float, default=1.0, help="on the squared weights")
    add(
        "--no-usage", action="store_true", help="do not exchange the probes' subspaces in the pairs"
    )
    add_model_flags(parser)


def measure(arguments: argparse.Namespace) -> None:
    """Probes, patches, prints and writes."""
    check_unused(arguments.out)
    from codi_lens import plots
    from codi_lens.analysis.probes import measure_usage, probe
    from codi_lens.files import write_json, write_tensors, write_text

    asked = asking.questions(arguments)
    codi = load_model(arguments)
    found = probe(
        codi,
        asked,
        arguments.label,
        kind=arguments.kind,
        places=arguments.layers,
        positions=arguments.positions,
        site=arguments.site,
        num_latents=arguments.num_latents,
        folds=arguments.folds,
        penalty=arguments.penalty,
        seed=arguments.seed,
    )
    usage = None
    if not arguments.no_usage:
        usage = measure_usage(codi, asking.chosen_pairs(arguments), found)
    print(table(found, usage))
    folder = fresh_folder(arguments.out, "probes")
    paths = [folder / f"probes.{end}" for end in ("json", "safetensors", "html")]
    record = {"config": flags.as_json(arguments), "model_digest": codi.digest}
    write_json({paths[0]: record | entry(found, usage)})
    tensors = {f"{row}/{column}": own for (row, column), own in found.directions.items()}
    labels = ", ".join(map(str, found.classes)) or found.label
    write_tensors(paths[1], tensors, {"label": found.label, "rows": labels})
    write_text(paths[2], plots.page({"probes": plots.probes(found, usage)}))
    print("\nwritten:", *(f"  {path}" for path in paths), sep="\n")


def maps(found: "Probes", usage: "Usage | None") -> dict[str, "Tensor"]:
    """Every figure of the cells, [row, column]."""
    values = {"score": found.score, "control": found.control, "selectivity": found.selectivity}
    for name, sweep in {} if usage is None else vars(usage).items():
        values[f"recovery_{name}"] = sweep.mean("recovery", effect=sweep.axes["effect"][0])
    return values


def entry(found: "Probes", usage: "Usage | None") -> dict[str, Any]:
    """The content of `probes.json`: every cell's figures, and every question with what was read off it."""
    from codi_lens.analysis.aggregates import finite

    def shown(value: float) -> Any:
        return found.classes[int(value)] if found.classes else value

    return {
        "label": found.label,
        "kind": found.kind,
        "n": found.n,
        "baseline": found.baseline,
        "rows": [str(row) for row in found.rows],
        "columns": [str(column) for column in found.columns],
        "classes": list(found.classes),
        "pairs_exchanged": None if usage is None else len(usage.whole.pairs),
        "maps": {
            name: [[finite(value) for value in row] for row in values.tolist()]
            for name, values in maps(found, usage).items()
        },
        "questions": [
            {
                "question": question,
                "label": shown(float(found.labels[i])),
                "fold": int(found.fold[i]),
                "predicted": [[shown(one) for one in row] for row in found.predicted[i].tolist()],
            }
            for i, question in enumerate(found.questions)
        ],
    }


def table(found: "Probes", usage: "Usage | None") -> str:
    """The cells that are read best."""
    score = "accuracy" if found.classes else "R²"
    about = f"{found.baseline:.2f} by the most common" if found.classes else "0 by the mean"
    said = [f"{found.label} read off {found.n} questions: {score} ({about})"]
    if usage is not None:
        pairs = len(usage.whole.pairs)
        said.append(
            f"recovery when the probe's subspace, a random one, all is exchanged: {pairs} pairs"
        )
    heads = [score, "control", "selective", "subspace", "random", "whole"]
    values = list(maps(found, usage).values())
    lines = [
        *said,
        "",
        "     place  position" + "".join(f"{one:>11}" for one in heads[: len(values)]),
    ]
    order = found.score.flatten().argsort(descending=True, stable=True)[:TOP].tolist()
    for row, column in (divmod(index, len(found.columns)) for index in order):
        cells = "".join(f"{float(one[row, column]):>11.2f}" for one in values)
        lines.append(f"{found.rows[row]!s:>10}{found.columns[column]!s:>10}{cells}")
    return "\n".join(lines)


main = Program("probes", __doc__, add_flags, measure)
