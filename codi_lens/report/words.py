"""What a page says in words: what was asked, what was found, how it was measured. All of it is HTML, escaped."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from codi_lens import plots
from codi_lens.analysis.aggregates import INTERVAL, Aggregate, top_cells
from codi_lens.analysis.asking import latents_name
from codi_lens.analysis.grids import (
    as_grid,
    columns,
    panels,
    row_text,
    rows,
    threshold,
)
from codi_lens.choices import CONTROLS
from codi_lens.errors import UserError, command
from codi_lens.patching.answer_logits import sides
from codi_lens.patching.effects import DIRECT, INDIRECT, RESAMPLE, TOTAL
from codi_lens.patching.experiments.iterative import CHAINED, CUMULATIVE
from codi_lens.patching.result import Sweep
from codi_lens.plots.style import name_of

LEVEL = f"{INTERVAL[1] - INTERVAL[0]:.0%}"
NOTHING = 0.005
"""A largest value below this would be shown as 0, and is not said to stand out."""


def question(sweep: Sweep) -> str:
    """What an experiment asks: the first line of its docstring; its heading if it has none."""
    experiment = sweep.experiment
    return (experiment.__doc__ or experiment.heading).strip().splitlines()[0]


def headings(runs: Mapping[str, Sweep]) -> dict[str, str]:
    """A heading for each run, with what tells it from the others of its experiment."""
    plain = {name: _heading(sweep) for name, sweep in runs.items()}
    found = {}
    for name, sweep in runs.items():
        alike = [other for other in runs if plain[other] == plain[name]]
        kinds = [_changed(runs[other]) for other in alike]
        more = f" ({_changed(sweep)})" if len(alike) > 1 else ""
        found[name] = (
            plain[name] + more + (f", {name}" if kinds.count(kinds[alike.index(name)]) > 1 else "")
        )
    return found


def _heading(sweep: Sweep) -> str:
    across, labels = columns(sweep)
    over = (
        f": {rows(sweep)[0]} × {across}"
        if len(labels) > 1
        else f": {rows(sweep)[0]} by {rows(sweep)[0]}"
    )
    return sweep.experiment.heading + over


def _changed(sweep: Sweep) -> str:
    return f"{sweep.experiment.subject(sweep.settings)}, {sweep.settings.direction}"


def brief(sweep: Sweep, manifest: Mapping[str, Any]) -> str:
    """What a run was, in a line."""
    return f"{manifest['model']['name']} · {len(sweep.pairs)} pairs · {scope(sweep)}"


def scope(sweep: Sweep) -> str:
    """What was changed in which run, and in how many places."""
    base, source = sides(sweep.settings.direction)
    size = " × ".join(str(len(labels)) for labels in list(sweep.axes.values())[1:])
    return (
        f"{sweep.experiment.subject(sweep.settings)}, {size} cells, {sweep.settings.direction}: "
        f"base run {base}, source run {source}"
    )


def place(sweep: Sweep, cell: Sequence[int]) -> str:
    """A cell in words, such as "layer 2, latent position 3"."""
    axis, labels = columns(sweep)
    row = row_text(sweep, rows(sweep)[1][cell[0]])
    return row if len(labels) == 1 else f"{row}, {axis} {labels[cell[1]]}"


def strongest(sweep: Sweep, group: Aggregate, panel: str | None = None) -> tuple[int, int] | None:
    """The cell with the largest mean of what its experiment shows first; None if no cell has one.

    Of a map, the first if None; of a chain, where it goes on from its start.
    """
    panel = panel or panels(sweep)[0]
    values = as_grid(group.means[sweep.experiment.shows[0]], sweep, panel)
    blank = sweep.structural_zeros(panel)
    if panel.split()[0] == CHAINED:
        blank = blank | (values.isfinite().cumsum(1) < 2)
    return next(iter(top_cells(values, blank, 1)), None)


def found(sweep: Sweep, group: Aggregate) -> str:
    """Which cell, how large with its interval, and above which control; of iterations, what is reached and survives."""
    if sweep.experiment.iterates:
        chains = [name for name in panels(sweep) if name.split()[0] == CHAINED]
        best = [(name, strongest(sweep, group, name)) for name in chains]
        metric = sweep.experiment.shows[0]
        there = [
            (float(as_grid(group.means[metric], sweep, name)[cell]), name)
            for name, cell in best
            if cell
        ]
        chosen = [CUMULATIVE, *([max(there)[1]] if there else [])]
        return " ".join(_stands_out(sweep, group, name) for name in chosen)
    main = panels(sweep)[0]
    return f"{_stands_out(sweep, group, main)} {_parts(sweep, group)}{_above(sweep, group)}".strip()


def _stands_out(sweep: Sweep, group: Aggregate, panel: str) -> str:
    """The strongest cell of a map and what is there."""
    cell, metric = strongest(sweep, group, panel), sweep.experiment.shows[0]
    if cell is None:
        return "No cell has a value."
    base, source = sides(sweep.settings.direction)
    mean, low, high = (
        float(as_grid(table[metric], sweep, panel)[cell])
        for table in (group.means, group.low, group.high)
    )
    said = _said(metric)
    value, interval = _bold(said(mean)), f"({LEVEL} interval {said(low)} to {said(high)})"
    what = escape(plots.panel_title(panel).split(":")[0])
    if abs(mean) < NOTHING:
        return f"No cell stands out ({what}): the largest is {value} {interval}."
    text = f"{_bold(_capital(place(sweep, cell)))} stands out most ({what}): "
    if metric != "recovery":
        return text + f"{escape(plots.label(metric))}: {value} {interval}."
    flipped = float(as_grid(group.means["flipped"], sweep, panel)[cell])
    return text + (
        f"there the {base} run’s logit difference moves {value} of the way to the {source} run’s {interval}, "
        f"and {_percent(flipped)} of the answers become the {source} question’s."
    )


def _parts(sweep: Sweep, group: Aggregate) -> str:
    """Direct and indirect effect at the strongest cell, where both were measured; else ""."""
    effects, cell = panels(sweep), strongest(sweep, group)
    if cell is None or not {TOTAL, DIRECT, INDIRECT} <= set(effects):
        return ""
    direct, indirect = (
        _percent(float(as_grid(group.means["recovery"], sweep, name)[cell]))
        for name in (DIRECT, INDIRECT)
    )
    return (
        f"The later thoughts that are fed on carry {indirect} of the way alone (indirect effect), "
        f"attention to the patched position {direct} (direct effect). "
    )


def _above(sweep: Sweep, group: Aggregate) -> str:
    """How many cells exceed what another pair's activations do anywhere; "" without that control."""
    main, metric = panels(sweep)[0], sweep.experiment.shows[0]
    limit = threshold(sweep, group, metric)
    if limit is None:
        return ""
    values, zeros = as_grid(group.means[metric], sweep, main), sweep.structural_zeros(main)
    passing = top_cells(values, zeros, values.numel(), limit)
    count, control = sum(values[cell] > 0 for cell in passing), _said(metric)(limit)
    which = {0: "No cell is", 1: "It is the only cell"}.get(
        int(count), f"{count} of {values.numel()} cells are"
    )
    return f"{which} above what another pair’s activations do anywhere ({control})."


def needed(necessity: Mapping[str, Any] | None, manifest: Mapping[str, Any]) -> str:
    """Whether the model needs its thoughts; if that was not measured, how to."""
    if necessity is None:
        asked = manifest["config"]
        flags = [
            word
            for name in ("model", "pairs")
            if asked.get(name)
            for word in (f"--{name}", asked[name])
        ]
        return (
            "Whether the model needs its thoughts was not measured. Run "
            f"<code>{escape(command('necessity', *flags))}</code>, and give its folder to the report too."
        )
    every, none, other = conditions(necessity)
    n, count = every["n"], necessity["num_latents"]
    numbers = (
        f"it is right on {_bold(_percent(every['accuracy']))} of {n} questions with all {count}"
        f" {_interval(every)} and on {_bold(_percent(none['accuracy']))} with none {_interval(none)}"
    )
    if every["interval_95"][0] > none["interval_95"][1]:
        text = f"The model needs its thoughts: {numbers}"
    else:
        text = f"That the model needs its thoughts is not shown: {numbers}"
    if other:
        text += f"; with another problem’s thoughts it gives that problem’s answer in {_percent(other['donor_rate'])}"
    return text + "."


def conditions(necessity: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """With all thoughts, with none, and with another problem's (None if there are none to lend)."""
    by_name = {row["condition"]: row for row in necessity["conditions"]}
    count = necessity["num_latents"]
    return (
        by_name[latents_name(count)],
        by_name[latents_name(0)],
        by_name.get("another problem's latents"),
    )


def counted(sweep: Sweep, group: Aggregate, manifest: Mapping[str, Any]) -> str:
    """Over how many pairs, and what was left out."""
    counts, out = manifest["pairs"]["n_per_group"], group.n - group.n_recovery
    kept = manifest["config"].get("filter")
    text = f"n = {_bold(str(group.n))} pairs"
    text += f" that passed the filter “{escape(str(kept))}”" if kept not in (None, "none") else ""
    if counts.get("competent") is not None:
        text += f", both questions answered right in {counts['competent']}"
    if out:
        gap = f"whose clean and corrupted run are closer than {sweep.settings.min_gap:g} in logit difference"
        text += f"; recovery leaves out {out}, {gap}"
    else:
        text += "; recovery is defined for all of them"
    if same := counts.get("same_answer"):
        text += f"; {same} more, with the same answer on both sides, stand apart"
    return text + "."


def stats(
    sweep: Sweep, group: Aggregate, necessity: Mapping[str, Any] | None, manifest: Mapping[str, Any]
) -> str:
    """The numbers to know first: a figure and what it is."""
    shown: dict[str, str] = {}
    if necessity is not None:
        every, none, _ = conditions(necessity)
        change = f"{_percent(every['accuracy'])} → {_percent(none['accuracy'])}"
        shown[f"right with {latents_name(necessity['num_latents'])} → none"] = change
    right = manifest["pairs"]["n_per_group"].get("competent")
    if right is not None:
        shown["pairs with both answers right"] = f"{right} of {group.n}"
    shown["pairs with recovery defined"] = str(group.n_recovery)
    metric = sweep.experiment.shows[0]
    for name in panels(sweep):
        if name in CONTROLS:
            values = as_grid(group.means[metric], sweep, name)
            largest = (
                float(values[values.isfinite()].abs().max())
                if values.isfinite().any()
                else float("nan")
            )
            title = "another pair’s" if name == RESAMPLE else name.replace("_", " ")
            shown[f"{title} (control), largest |{name_of(metric)}|"] = f"{largest:.2f}"
    return "".join(
        f"<div><dt>{escape(text)}</dt><dd>{escape(value)}</dd></div>"
        for text, value in shown.items()
    )


def of_its_model(necessity: Mapping[str, Any], manifests: Mapping[str, Mapping[str, Any]]) -> None:
    """Checks that the thoughts of the runs' own model were asked about.

    Raises:
        UserError: says of which models both are.
    """
    other = necessity["model_digest"]
    for name, manifest in manifests.items():
        own = manifest["model"]["digest"]
        if own != other:
            raise UserError(
                f"the necessity run is of another model (SHA-256 {other[:12]}…) than {name} ({own[:12]}…)"
            )


def _interval(condition: Mapping[str, Any]) -> str:
    low, high = condition["interval_95"]
    return f"(95% interval {_percent(low)} to {_percent(high)})"


def _said(metric: str) -> Callable[[float], str]:
    """How a metric's values are written in a sentence."""
    return _percent if metric == "recovery" else "{:.3g}".format


def _percent(value: float) -> str:
    return "–" if value != value else f"{value:.0%}".replace("-0%", "0%")


def _bold(text: str) -> str:
    return f"<b>{escape(text)}</b>"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
