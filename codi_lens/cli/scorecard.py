"""Which methods find what was planted? Scores every method on organisms whose mechanism is known.

Prints AUROC and false positives, methods by organisms, and writes `scorecard.json`, with all figures and every cell, and the figure
`scorecard.html`.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from codi_lens.cli import flags
from codi_lens.cli.folders import check_unused, fresh_folder
from codi_lens.cli.program import Program
from codi_lens.shipped import ORGANISMS

if TYPE_CHECKING:
    from codi_lens.organisms.scorecard.scoring import Score

SHOWN = {
    "auroc": "AUROC of |score| against the truth (1: all found; 0.5: as good as guessing)",
    "average_precision": "average precision",
    "false_positives": "false positives (share of cells outside the mechanism that are claimed)",
    "iia": "interchange accuracy of the thoughts that a method names",
    "routes_auroc": "AUROC over routes, where one is planted",
    "cpr": "CPR of circuits (larger is better)",
    "cmd": "CMD of circuits (0 is best)",
}
"""Figures of a score that are printed."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    add = parser.add_argument
    text = "names, or folders as train_organism writes them, separated by commas (default: all that ship)"
    add("--organisms", type=flags.names, metavar="NAMES", help=text)
    add(
        "--methods",
        type=flags.names,
        default=(),
        metavar="NAMES",
        help="separated by commas (default: all)",
    )
    flags.add_out(parser)
    flags.add_threads(parser)


def measure(arguments: argparse.Namespace) -> None:
    """Scores, prints the tables and writes them."""
    check_unused(arguments.out)
    from tqdm.auto import tqdm

    from codi_lens import plots
    from codi_lens.errors import one_of
    from codi_lens.files import write_json, write_text
    from codi_lens.organisms.scorecard import METHODS, load_organism
    from codi_lens.organisms.scorecard.scoring import as_json, scorecard
    from codi_lens.threads import choose_threads

    for method in arguments.methods:
        one_of(method, METHODS, "method")
    organisms = [load_organism(name) for name in arguments.organisms or ORGANISMS]
    folder = fresh_folder(arguments.out, "scorecard")
    choose_threads(organisms[0].codi.model.cfg.d_model, arguments.threads)
    total = len(organisms) * len(arguments.methods or METHODS)
    with tqdm(total=total, desc="scorecard", unit="score") as bar:
        scores = scorecard(organisms, arguments.methods, lambda score: bar.update())
    paths = folder / "scorecard.json", folder / "scorecard.html"
    write_json({paths[0]: as_json(scores)})
    write_text(paths[1], plots.page({"scorecard": plots.scorecard(as_json(scores))}))
    for name, title in SHOWN.items():
        if any(getattr(score, name) is not None for score in scores):
            print(table(scores, name, title), end="\n\n")
    print("written:", *(f"  {path}" for path in paths), sep="\n")


def table(scores: Sequence["Score"], name: str, title: str) -> str:
    """One figure, methods by organisms; nothing where it is not defined, and no row where it never is."""
    there = [score for score in scores if getattr(score, name) is not None]
    methods = list(dict.fromkeys(score.method for score in there))
    organisms = list(dict.fromkeys(score.organism for score in scores))
    values: dict[Any, Any] = {(s.method, s.organism): getattr(s, name) for s in scores}
    width = max(map(len, methods), default=0)
    rows = [" " * width + "".join(f"  {organism:>6}" for organism in organisms)]
    for method in methods:
        cells = [values[method, organism] for organism in organisms]
        shown = [
            f"  {'' if cell is None else f'{cell:.2f}':>{max(6, len(organism))}}"
            for cell, organism in zip(cells, organisms, strict=True)
        ]
        rows.append(f"{method:<{width}}" + "".join(shown))
    return "\n".join([title, *(row.rstrip() for row in rows)])


main = Program("scorecard", __doc__, add_flags, measure)
