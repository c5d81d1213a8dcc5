"""Sweeps -> plotly figures. Nothing here shows, writes or changes a global template.

Maps have layers upward and steps of the loop rightward. Signed metrics have a diverging colour scale
centred on zero, the others a sequential one; both can be told apart by colour-blind readers. Cells that
are zero by construction are crossed out, the five largest are outlined.
"""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots
from torch import Tensor

from codi_lens.aggregates import Aggregate, aggregate, donor_threshold, groups, top_cells
from codi_lens.necessity import Necessity, wilson
from codi_lens.outcomes import Sweep
from codi_lens.plans import Label

DIVERGING, SEQUENTIAL = "RdBu", "Viridis"
LABELS = {
    "kl_divergence": "KL(patched ‖ base), nats",
    "kl_to_source": "KL(source ‖ patched), nats",
    "l2_difference": "‖logits patched − base‖₂",
    "prediction_change_rate": "share of changed top-1 tokens",
    "answer_logit_diff": "answer logit difference, logits",
    "answer_logit_diff_change": "change of answer logit difference, logits",
    "clean_answer_score": "logit of the clean answer",
    "corrupted_answer_score": "logit of the corrupted answer",
    "logit_diff": "logit difference at the first differing token",
    "recovery": "recovery of the logit difference",
    "logprob_clean": "log-probability of the clean answer, nats",
    "logprob_corrupted": "log-probability of the corrupted answer, nats",
    "flipped": "share of answers flipped to the source's",
}
SIGNED = {"answer_logit_diff", "answer_logit_diff_change", "logit_diff", "recovery"}
VARIANT_TITLES = {
    "regenerate": "later thoughts regenerated",
    "freeze": "later thoughts held at the base run's",
    "thoughts": "only the later thoughts fed on",
    "self": "control: the base run's own activation",
    "donor": "control: another pair's activation",
    "noise": "control: a random direction of the same length",
}


def heatmap(sweep: Sweep, metric: str = "recovery", variant: str | None = None) -> go.Figure:
    """The map of a metric over all pairs: layer × position. `variant`: the main one if None."""
    variant = variant or sweep.settings.variants[0]
    group = aggregate(sweep)
    figure = go.Figure(_trace(group, sweep, metric, variant))
    threshold = donor_threshold(sweep, group) if metric == "recovery" else None
    for shape in _marks(
        _map(group, sweep, metric, variant), sweep.structural_zeros(variant), threshold
    ):
        figure.add_shape(shape)
    title = f"Patching {sweep.settings.site}: {LABELS[metric]}"
    return _styled(figure, sweep, metric, variant, title, group, [group])


def heatmap_by_operand(sweep: Sweep, metric: str = "recovery") -> go.Figure:
    """One map per operand that was changed between clean and corrupted, on one colour scale.

    Raises:
        ValueError: no pair of the sweep knows its operand.
    """
    variant = sweep.settings.variants[0]
    parts = {
        name: aggregate(sweep, chosen)
        for name, chosen in groups(sweep).items()
        if name.startswith("operand ")
    }
    if not parts:
        raise ValueError("no pair of this sweep says which operand was changed")
    titles = [f"{name} changed (n = {_n(group, metric)})" for name, group in parts.items()]
    figure = make_subplots(1, len(parts), subplot_titles=titles, shared_yaxes=True)
    for column, group in enumerate(parts.values(), start=1):
        figure.add_trace(_trace(group, sweep, metric, variant), 1, column)
        for shape in _marks(
            _map(group, sweep, metric, variant), sweep.structural_zeros(variant), None
        ):
            figure.add_shape(shape, row=1, col=column)
    title = f"The same, by the operand that was changed: {LABELS[metric]}"
    return _styled(figure, sweep, metric, variant, title, aggregate(sweep), list(parts.values()))


def layer_profile(sweeps: Mapping[str, Sweep], metric: str = "recovery") -> go.Figure:
    """Per-layer profiles with 95% intervals: a layer-wise sweep as it is, a map by its largest cell.

    An iterative sweep gives one line per strategy, at the last iteration.
    """
    figure = go.Figure()
    for name, sweep in sweeps.items():
        group = aggregate(sweep)
        for label, index in _profiles(sweep, group, metric):
            layers = [str(layer) for layer in sweep.settings.layers]
            middle, low, high = (
                torch.stack([t[metric][cell] for cell in index])
                for t in (group.means, group.low, group.high)
            )
            figure.add_scatter(
                x=layers,
                y=middle.tolist(),
                name=f"{name} {label}".strip(),
                mode="lines+markers",
                error_y={
                    "type": "data",
                    "array": (high - middle).tolist(),
                    "arrayminus": (middle - low).tolist(),
                },
            )
    figure.update_layout(
        title={"text": f"Per-layer profile: {LABELS[metric]}"},
        xaxis={"title": "layer", "type": "category"},
        yaxis={"title": metric},
        plot_bgcolor="white",
    )
    return figure


def _profiles(
    sweep: Sweep, group: Aggregate, metric: str
) -> list[tuple[str, list[tuple[int, ...]]]]:
    """(label, the cell of each layer) of every line that a sweep contributes to a profile."""
    layers = range(len(sweep.settings.layers))
    if sweep.experiment == "layer_patching":
        return [("", [(0, layer) for layer in layers])]
    if sweep.experiment == "iterative_patching":
        last = len(sweep.axes["iteration"]) - 1
        strategies = enumerate(sweep.axes["strategy"])
        return [(str(name), [(i, layer, last) for layer in layers]) for i, name in strategies]
    best = group.means[metric][0].nan_to_num(-torch.inf).argmax(-1).tolist()
    return [("(largest cell)", [(0, layer, best[layer]) for layer in layers])]


def trajectories(sweep: Sweep, metric: str = "recovery") -> go.Figure:
    """Iterative patching: a metric or similarity against the iteration, one line per layer.

    One panel per strategy that has iterations; `parallel` is a dashed level in each.
    """
    group = aggregate(sweep)
    strategies = [name for name in sweep.axes["strategy"] if name != "parallel"]
    figure = make_subplots(1, len(strategies), subplot_titles=strategies, shared_yaxes=True)
    values, layers = group.means[metric], sweep.settings.layers
    colours = sample_colorscale(
        SEQUENTIAL, [i / max(1, len(layers) - 1) for i in range(len(layers))]
    )
    for column, strategy in enumerate(strategies, start=1):
        for i, layer in enumerate(layers):
            line = {"color": colours[i]}
            figure.add_scatter(
                x=list(sweep.axes["iteration"]),
                y=values[sweep.axes["strategy"].index(strategy), i].tolist(),
                name=f"layer {layer}",
                legendgroup=str(layer),
                showlegend=column == 1,
                mode="lines+markers",
                line=line,
                row=1,
                col=column,
            )
    figure.update_xaxes(title="iteration")
    figure.update_yaxes(title=metric, col=1)
    label = LABELS.get(metric, metric.replace("_", " "))
    figure.update_layout(
        title={
            "text": f"Iterative patching: {label}",
            "subtitle": {"text": f"n = {_n(group, metric)}"},
        },
        plot_bgcolor="white",
    )
    return figure


def difference(
    first: Float[Tensor, "layer position"],
    second: Float[Tensor, "layer position"],
    *,
    layers: Sequence[Label],
    positions: Sequence[Label],
    title: str,
) -> go.Figure:
    """A map of first − second, diverging around zero."""
    values = first - second
    figure = go.Figure(
        go.Heatmap(
            z=values.tolist(),
            text=[[_short(value) for value in row] for row in values.tolist()],
            texttemplate="%{text}",
            coloraxis="coloraxis",
        )
    )
    figure.update_layout(
        title={"text": title}, coloraxis=_colour_axis("recovery", [values]), plot_bgcolor="white"
    )
    return _labelled(figure, layers, positions)


def necessity_bars(necessity: Necessity) -> go.Figure:
    """Accuracy under every condition, with Wilson's 95% intervals."""
    conditions = list(necessity.conditions.values())
    n = len(necessity.questions)
    shares = [condition.accuracy for condition in conditions]
    limits = [wilson(sum(condition.correct), n) for condition in conditions]
    figure = go.Figure(
        go.Bar(
            x=[condition.name for condition in conditions],
            y=shares,
            marker_color="#4477aa",
            error_y={
                "type": "data",
                "array": [high - share for (_, high), share in zip(limits, shares, strict=True)],
                "arrayminus": [share - low for (low, _), share in zip(limits, shares, strict=True)],
            },
            hovertemplate="%{x}: %{y:.1%}<extra></extra>",
        )
    )
    figure.update_layout(
        title={
            "text": "Are the latents needed?",
            "subtitle": {"text": f"greedy, n = {n} questions"},
        },
        yaxis={"title": "right answers", "tickformat": ".0%", "range": [0, 1.05]},
        xaxis={"title": "what is fed as thoughts"},
        plot_bgcolor="white",
    )
    return figure


def page(figures: Mapping[str, go.Figure]) -> str:
    """One HTML page with the figures (id -> figure) below each other; it opens without a network."""
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=first, div_id=name)
        for first, (name, figure) in zip(
            [True] + [False] * len(figures), figures.items(), strict=False
        )
    ]
    style = "body{font-family:sans-serif;max-width:1000px;margin:auto}"
    head = f"<meta charset='utf-8'><title>codi-lens</title><style>{style}</style>"
    return f"<!doctype html><html><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _n(group: Aggregate, metric: str) -> int:
    return group.n_recovery if metric == "recovery" else group.n


def _map(
    group: Aggregate, sweep: Sweep, metric: str, variant: str
) -> Float[Tensor, "layer position"]:
    return group.means[metric][sweep.settings.variants.index(variant)]


def _trace(group: Aggregate, sweep: Sweep, metric: str, variant: str) -> go.Heatmap:
    index = sweep.settings.variants.index(variant)
    values = group.means[metric][index]
    low, high = group.low[metric][index], group.high[metric][index]
    hover = [
        [
            f"layer {layer}, position {position}<br>{metric}: {float(values[i, j]):.4f}"
            f" [{float(low[i, j]):.4f}, {float(high[i, j]):.4f}]"
            f"<br>KL: {float(group.means['kl_divergence'][index][i, j]):.4f}"
            f"<br>flipped: {float(group.means['flipped'][index][i, j]):.0%}"
            f"<br>n = {_n(group, metric)}"
            for j, position in enumerate(sweep.settings.positions)
        ]
        for i, layer in enumerate(sweep.settings.layers)
    ]
    return go.Heatmap(
        z=values.tolist(),
        text=[[_short(value) for value in row] for row in values.tolist()],
        texttemplate="%{text}",
        hovertext=hover,
        hoverinfo="text",
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
    )


def _short(value: float) -> str:
    return "" if value != value else f"{value:.2f}".replace("-0.00", "0.00")


def _marks(
    values: Float[Tensor, "layer position"],
    zeros: Bool[Tensor, "layer position"],
    threshold: float | None,
) -> list[dict[str, object]]:
    """A cross over every structural zero and a frame around each of the five largest cells.

    Cells that do not exceed the threshold get no frame.
    """
    shapes: list[dict[str, object]] = []
    for i, j in zeros.nonzero().tolist():
        for rise in (0.5, -0.5):
            line = {"color": "grey", "width": 1}
            ends = {"x0": j - 0.5, "x1": j + 0.5, "y0": i - rise, "y1": i + rise}
            shapes.append({"type": "line", "line": line, **ends})
    for i, j in top_cells(values, zeros, threshold=threshold):
        line = {"color": "black", "width": 2}
        ends = {"x0": j - 0.47, "x1": j + 0.47, "y0": i - 0.47, "y1": i + 0.47}
        shapes.append({"type": "rect", "line": line, **ends})
    return shapes


def _styled(
    figure: go.Figure,
    sweep: Sweep,
    metric: str,
    variant: str,
    title: str,
    whole: Aggregate,
    parts: Sequence[Aggregate],
) -> go.Figure:
    settings = sweep.settings
    subtitle = f"{settings.direction}, {VARIANT_TITLES[variant]}, n = {_n(whole, metric)} pairs"
    if metric == "recovery" and whole.n_recovery < whole.n:
        subtitle += f" ({whole.n - whole.n_recovery} left out: no recovery defined)"
    figure.update_layout(
        title={"text": title, "subtitle": {"text": subtitle}},
        coloraxis=_colour_axis(metric, [_map(group, sweep, metric, variant) for group in parts]),
        plot_bgcolor="white",
        height=230 + 60 * len(settings.layers),
        margin={"t": 110},
    )
    return _labelled(figure, settings.layers, settings.positions)


def _labelled(figure: go.Figure, layers: Sequence[Label], positions: Sequence[Label]) -> go.Figure:
    """Ticks and titles of a map's axes, on every panel."""
    steps, rows = [str(position) for position in positions], [str(layer) for layer in layers]
    figure.update_xaxes(tickvals=list(range(len(steps))), ticktext=steps, title="latent position")
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=rows)
    figure.layout.yaxis.title = "layer"
    return figure


def _colour_axis(metric: str, maps: Sequence[Float[Tensor, "layer position"]]) -> dict[str, object]:
    finite = [float(v) for values in maps for v in values.flatten() if v == v]
    axis: dict[str, object] = {"colorbar": {"title": {"text": metric, "side": "right"}}}
    if metric in SIGNED:
        reach = max((abs(value) for value in finite), default=1.0) or 1.0
        return axis | {"colorscale": DIVERGING, "cmin": -reach, "cmax": reach, "cmid": 0}
    return axis | {"colorscale": SEQUENTIAL}
