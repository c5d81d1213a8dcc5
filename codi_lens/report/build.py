"""Finished records -> one page to explore them in. It opens without a network and fetches nothing.

The page holds every metric of every cell of every pair as JSON, rounded to six significant digits, and
draws the maps itself; figures that need no choice are made by `codi_lens.plots`.
"""

import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from typing import Any

from torch import Tensor

from codi_lens import plots
from codi_lens.analysis.aggregates import Aggregate, aggregate, groups, interaction
from codi_lens.errors import UserError, one_of
from codi_lens.patching.result import Sweep
from codi_lens.report import methods, words
from codi_lens.report.beside import comparison
from codi_lens.report.entries import rounded, run_entry

ASSETS = ("page.html", "page.css", "parts.js", "map.js", "detail.js", "page.js")
"""The template and what goes into it; scripts in their order."""


def report(
    runs: Mapping[str, Sweep],
    manifests: Mapping[str, dict[str, Any]],
    necessity: Mapping[str, Any] | None = None,
) -> str:
    """The page, as HTML.

    Args:
        runs: name -> sweep, of any experiments; the page's title and first sentence are of the first.
        manifests: name -> manifest of its record.
        necessity: content of the `necessity.json` of the same model, if that was measured.

    Raises:
        UserError: no runs, a run without a manifest or without pairs, or a necessity run of another model.
    """
    if not runs:
        raise UserError("no runs to report on")
    for name, sweep in runs.items():
        one_of(name, manifests, "manifest of run")
        if not sweep.outcomes:
            raise UserError(f"run {name} has no pairs; there is nothing to report")
    manifests = {name: manifests[name] for name in runs}
    if necessity is not None:
        words.of_its_model(necessity, manifests)
    grouped = {name: _aggregates(sweep) for name, sweep in runs.items()}
    said = _said(runs, manifests, grouped, necessity)
    folder = files("codi_lens.report")
    text = {name: (folder / name).read_text(encoding="utf-8") for name in ASSETS}
    parts = said | {
        "offline": plots.OFFLINE,
        "style": text["page.css"],
        "script": "".join(text[name] for name in ASSETS if name.endswith(".js")),
        "plotly": plots.plotly_script(),
        "data": embedded(_data(runs, manifests, grouped)),
    }
    return filled(text["page.html"], parts)


def _said(
    runs: Mapping[str, Sweep],
    manifests: Mapping[str, dict[str, Any]],
    grouped: Mapping[str, Mapping[str, Aggregate]],
    necessity: Mapping[str, Any] | None,
) -> dict[str, str]:
    """What stands on the page as text, by its place in the template."""
    (name, sweep), manifest = next(iter(runs.items())), manifests[next(iter(runs))]
    group = next(iter(grouped[name].values()))
    sentences = (
        words.found(sweep, group),
        words.needed(necessity, manifest),
        words.counted(sweep, group, manifest),
    )
    return {
        "title": escape(f"{words.question(sweep)} {manifest['model']['name']}"),
        "question": escape(words.question(sweep)),
        "brief": escape(words.brief(sweep, manifest)),
        "found": "".join(f"<p>{sentence}</p>" for sentence in sentences),
        "stats": words.stats(sweep, group, necessity, manifest),
        "methods": methods.paragraph(runs, manifests),
    }


def _data(
    runs: Mapping[str, Sweep],
    manifests: Mapping[str, dict[str, Any]],
    grouped: Mapping[str, Mapping[str, Aggregate]],
) -> dict[str, Any]:
    """What the page draws its maps and figures from."""
    drawn = {name: _figures(sweep) for name, sweep in runs.items()}
    compared, beside = comparison(runs, manifests) if len(runs) > 1 else (None, [])
    means: dict[str, list[Tensor]] = {}
    for name, sweep in runs.items():
        for group in grouped[name].values():
            for metric, values in group.means.items():
                left = interaction(sweep, group, metric)
                means.setdefault(metric, []).extend([values] if left is None else [values, left])
    scales = plots.scales(means, [figure for some in (*drawn.values(), beside) for figure in some])
    titles = words.headings(runs)
    return {
        "colours": plots.colour_scales(),
        "scales": {name: [rounded(end) for end in ends] for name, ends in scales.items()},
        "config": plots.CONFIG,
        "runs": [
            run_entry(sweep, manifests[name], grouped[name])
            | {"name": name, "title": titles[name], "figures": _as_json(drawn[name])}
            for name, sweep in runs.items()
        ],
        "comparison": compared and compared | {"figures": _as_json(beside)},
    }


def filled(page: str, parts: Mapping[str, str]) -> str:
    """A page with its `{{name}}`s replaced, all at once: what is put in may have such braces itself."""
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], page)


def embedded(data: Any) -> str:
    """JSON that can stand in a script element: nothing in it can close the element or open another."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _aggregates(sweep: Sweep) -> dict[str, Aggregate]:
    """By group of pairs."""
    return {
        group: aggregate(sweep, chosen) for group, chosen in groups(sweep).items() if chosen.any()
    }


def _figures(sweep: Sweep) -> list[plots.Figure]:
    """What lines show better than maps, which the page draws itself; its profiles are in the comparison."""
    if not sweep.experiment.iterates:
        return []
    return [figure for kind, figure in plots.gallery(sweep).items() if kind != "profile"]


def _as_json(figures: Iterable[plots.Figure]) -> list[Any]:
    return [json.loads(figure.to_json()) for figure in figures]
