"""How do runs differ, and do they agree where they must? Compares two or more: models, seeds, effects, sites, pairs.

Reads finished records and compares each with the first: settings, pairs, and the cells that both have, with intervals.
Runs of one model and the same pairs are checked against each other as well; a check that fails is named and makes the
exit code 1. Writes `comparison.json` and `comparison.html`.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from codi_lens.cli import flags
from codi_lens.cli.folders import fresh_folder
from codi_lens.cli.program import Program
from codi_lens.cli.report import distinct_names
from codi_lens.errors import UserError

if TYPE_CHECKING:
    from codi_lens import Sweep
    from codi_lens.analysis.comparison import Comparison
    from codi_lens.analysis.differences import Difference

TOLD = ("experiment", "settings", "model", "pairs", "versions")
"""Of a manifest: what results depend on."""
TOP = 5
"""Cells to list."""
WIDEST = 140
"""Characters of a setting; the JSON has all of it."""
MEASURED = ("kl_div", "ans_diff", "recovery")
"""Of a top cell; the rest says which it is."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    flags.add_runs(parser)
    flags.add_out(parser)


def report(arguments: argparse.Namespace) -> bool:
    """Compares, writes and prints; whether all checks passed."""
    from codi_lens import plots
    from codi_lens.analysis.comparison import compare, named
    from codi_lens.files import write_json, write_text
    from codi_lens.records.read import load, read_manifest

    folders = distinct_names(arguments.runs)
    manifests = {name: read_manifest(folder) for name, folder in folders.items()}
    runs = {name: load(folder) for name, folder in folders.items()}
    found = compare(runs, {name: m["model"]["dtype"] for name, m in manifests.items()})
    first, *others = runs
    apart = {name: against(runs[first], runs[name], (first, name)) for name in others}
    settings = {name: told(manifests[first], manifests[name]) for name in others}
    maps: dict[str, dict[str, Difference]] = {}
    for name, entry in apart.items():
        for metric, change in entry.get("maps", {}).items():
            maps.setdefault(metric, {})[f"{name} − {first}"] = change
    figures = {plots.short_name(metric): plots.differences(own) for metric, own in maps.items()}
    figures["profiles"] = plots.layer_profile(named(runs))
    folder = fresh_folder(arguments.out, "compare")
    record = asdict(found) | {
        "runs": {name: str(path) for name, path in folders.items()},
        "settings": settings,
        "differences": {name: as_json(entry) for name, entry in apart.items()},
    }
    write_json({folder / "comparison.json": record})
    write_text(folder / "comparison.html", plots.page(figures))
    print(table(found))
    for name in others:
        print("", *lines(f"{name} − {first}", apart[name], settings[name]), sep="\n")
    print(f"\nwritten:\n  {folder / 'comparison.json'}\n  {folder / 'comparison.html'}")
    return not found.failed


def told(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """What differs between two runs, as their manifests say."""
    from codi_lens.records.manifest import differences

    def of(manifest: Mapping[str, Any]) -> dict[str, Any]:
        own = {name: manifest[name] for name in TOLD}
        return own | {"pairs": {name: own["pairs"][name] for name in ("digest", "n")}}

    return list(differences(of(first), of(second), sides=("first", "second")))


def against(first: "Sweep", second: "Sweep", names: tuple[str, str]) -> dict[str, Any]:
    """The cells and pairs of a run against those of the first; why not, if no cell is in both."""
    from codi_lens.analysis.differences import difference, moved, shared

    try:
        between = shared(first, second, names)
    except UserError as error:
        return {"refused": str(error)}
    has = [set(sweep.outcomes[0].metrics) for sweep in (first, second)]
    return {
        "left_out": list(between.apart),
        "paired": between.paired,
        "pairs": moved(between),
        "maps": {
            metric: difference(between, metric)
            for metric in first.experiment.shows
            if metric in has[0] & has[1]
        },
    }


def as_json(entry: dict[str, Any]) -> dict[str, Any]:
    """What `against` found: maps as {effect: {row: {column: value}}}."""
    from codi_lens.analysis.aggregates import as_mapping

    def of_map(found: "Difference") -> dict[str, Any]:
        between = found.shared
        axes = between.effect_names, between.rows, between.columns
        cells = {part: as_mapping(getattr(found, part), *axes) for part in ("mean", "low", "high")}
        ranks = dict(zip(axes[0], map(asdict, found.ranks), strict=True))
        return {"n": list(found.n), "rank_correlation": ranks, **cells}

    if "refused" in entry:
        return entry
    return entry | {
        "pairs": {name: asdict(moved) for name, moved in entry["pairs"].items()},
        "maps": {metric: of_map(found) for metric, found in entry["maps"].items()},
    }


def lines(title: str, entry: dict[str, Any], settings: list[str]) -> Iterator[str]:
    """How a run differs from the first, as text; of the metrics, the first."""
    yield title
    yield from (f"  {shorten(setting, WIDEST, placeholder=' …')}" for setting in settings)
    if "refused" in entry:
        yield f"  not compared cell by cell: {entry['refused']}"
        return
    yield from (f"  left out: {what}" for what in entry["left_out"])
    for what, moved in entry["pairs"].items():
        yield f"  pairs {what}: {_listed(moved.gained)} gained, {_listed(moved.lost)} lost"
    for metric, found in list(entry["maps"].items())[:1]:
        yield from _of_map(metric, found)


def _listed(ids: tuple[int, ...]) -> str:
    """How many pairs, and which."""
    shown = ", ".join(map(str, ids[:TOP])) + (", …" if len(ids) > TOP else "")
    return f"{len(ids)} ({shown})" if ids else "0"


def _of_map(metric: str, found: "Difference") -> Iterator[str]:
    """The cells that differ most, and how alike all are ranked."""
    between = found.shared
    pairs = " and ".join(map(str, dict.fromkeys(found.n)))
    for i, effect in enumerate(between.effect_names):
        rank, mean = found.ranks[i], found.mean[i].nan_to_num()
        yield (
            f"  {metric}, {effect}, n = {pairs} pairs; "
            f"rank correlation of n = {rank.n} cells {_cell(rank.rho).strip()}"
        )
        for index in mean.abs().flatten().argsort(descending=True, stable=True)[:TOP].tolist():
            cell = divmod(index, len(between.columns))
            low, high = (float(table[i][cell]) for table in (found.low, found.high))
            where = f"({between.rows[cell[0]]}, {between.columns[cell[1]]})"
            if mean[cell]:
                yield f"{where:>16}{_cell(float(mean[cell]))}  [{low:.3f}, {high:.3f}]"


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
        labels = [[str(v) for k, v in c.items() if k not in MEASURED] for c in cells]
        places = [own[0] if len(own) == 1 else f"({', '.join(own)})" for own in labels]
        lines += ["", f"top cells by recovery, {name}: {', '.join(places)}"]
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return f"{'–':>9}" if value is None else f"{value:>9.3f}"


main = Program("compare", __doc__, add_flags, report)
