"""Do the experiments agree, and where do they part? Compares runs of the same model and pairs.

Reads finished records, checks them against each other, and writes `comparison.json` and `comparison.html`. A
check that fails is named and makes the exit code 1.
"""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from codi_lens.cli import flags
from codi_lens.cli.folders import fresh_folder
from codi_lens.cli.program import Program
from codi_lens.errors import UserError

if TYPE_CHECKING:
    from codi_lens.analysis.comparison import Comparison


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    flags.add_runs(parser)
    flags.add_out(parser)


def report(arguments: argparse.Namespace) -> bool:
    """Compares, writes and prints; whether all checks passed."""
    from codi_lens import plots
    from codi_lens.analysis.comparison import compare
    from codi_lens.files import write_json, write_text
    from codi_lens.records.manifest import one_model
    from codi_lens.records.read import load, read_manifest

    if len({folder.resolve() for folder in arguments.runs}) < len(arguments.runs):
        raise UserError("a run is given twice; give different ones")
    manifests = {str(folder): read_manifest(folder) for folder in arguments.runs}
    one_model(manifests)
    runs = {str(folder): load(folder) for folder in arguments.runs}
    found = compare(runs, {name: m["model"]["dtype"] for name, m in manifests.items()})
    folder = fresh_folder(arguments.out, "compare")
    figure = plots.layer_profile({sweep.experiment.name: sweep for sweep in runs.values()})
    write_json({folder / "comparison.json": asdict(found) | {"runs": list(runs)}})
    write_text(folder / "comparison.html", plots.page({"profiles": figure}))
    print(table(found))
    print(f"\nwritten:\n  {folder / 'comparison.json'}\n  {folder / 'comparison.html'}")
    return not found.failed


def table(found: "Comparison") -> str:
    """The comparison as text."""
    from codi_lens.analysis.comparison import LEAST

    lines = [
        f"{'ok    ' if check.passed else 'FAILED'}  {check.name} ({check.detail})"
        for check in found.checks
    ]
    layers = list(dict.fromkeys(layer for profile in found.profiles.values() for layer in profile))
    heading = "recovery by layer, mean over pairs"
    width = max(map(len, (heading, *found.profiles)))
    lines += ["", f"{heading:<{width}}" + "".join(f"{layer:>9}" for layer in layers)]
    for name, profile in found.profiles.items():
        lines.append(f"{name:<{width}}" + "".join(_cell(profile.get(layer)) for layer in layers))
    lines += ["", f"rank correlation (Spearman) of these, over n layers; – for n < {LEAST}"]
    lines += [
        f"{_cell(one.rho)}  n = {one.n:<3} {name}" for name, one in found.rank_correlation.items()
    ]
    if found.additivity:
        lines += ["", "additivity: sum of single positions / all positions together, by layer"]
        lines.append("".join(_cell(value) for value in found.additivity.values()))
    for name, parts in found.effects.items():
        shown = "  ".join(f"{label}{_cell(value)}" for label, value in parts.items())
        lines += ["", f"mean size of effects, {name}", shown]
    for name, cells in found.top.items():
        places = [
            f"({c['layer']}, {c['position']})" if "position" in c else str(c["layer"])
            for c in cells
        ]
        lines += ["", f"top cells by recovery, {name}: {', '.join(places)}"]
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return f"{'–':>9}" if value is None else f"{value:>9.3f}"


main = Program("compare", __doc__, add_flags, report)
