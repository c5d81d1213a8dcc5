"""Sweeps -> plotly figures. Nothing here shows, writes or changes a global template.

Maps have layers upward and steps of the loop rightward. Signed metrics have a diverging colour scale
centred on zero, the others a sequential one; both can be told apart by colour-blind readers. Cells that
are zero by construction are crossed out, the five largest are outlined.
"""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from jaxtyping import Bool, Float
from plotly.subplots import make_subplots
from torch import Tensor

from codi_lens.aggregates import Aggregate, aggregate, by_operand, top_cells
from codi_lens.necessity import Necessity, wilson
from codi_lens.sweeps import Sweep

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
MODE_TITLES = {
    "regenerate": "later thoughts regenerated",
    "freeze": "later thoughts held at the base run's",
}


def heatmap(sweep: Sweep, metric: str = "recovery") -> go.Figure:
    """The map of a metric over all pairs: layer × latent position."""
    group = aggregate(sweep)
    figure = go.Figure(_trace(group, sweep, metric, "coloraxis"))
    for shape in _marks(group.means[metric], sweep.structural_zeros(), outline=True):
        figure.add_shape(shape)
    title = f"Patching resid_post: {LABELS[metric]}"
    return _styled(figure, sweep, metric, title, group, [group])


def heatmap_by_operand(sweep: Sweep, metric: str = "recovery") -> go.Figure:
    """One map per operand that was changed between clean and corrupted, on one colour scale.

    Raises:
        ValueError: no pair of the sweep knows its operand.
    """
    groups = by_operand(sweep)
    if not groups:
        raise ValueError("no pair of this sweep says which operand was changed")
    titles = [f"{name} changed (n = {_n(group, metric)})" for name, group in groups.items()]
    figure = make_subplots(1, len(groups), subplot_titles=titles, shared_yaxes=True)
    for column, group in enumerate(groups.values(), start=1):
        figure.add_trace(_trace(group, sweep, metric, "coloraxis"), 1, column)
        for shape in _marks(group.means[metric], sweep.structural_zeros(), outline=True):
            figure.add_shape(shape, row=1, col=column)
    title = f"The same, by the operand that was changed: {LABELS[metric]}"
    return _styled(figure, sweep, metric, title, aggregate(sweep), list(groups.values()))


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


def _trace(group: Aggregate, sweep: Sweep, metric: str, coloraxis: str) -> go.Heatmap:
    values = group.means[metric]
    hover = [
        [
            f"layer {layer}, latent {position}<br>{metric}: {float(values[i, j]):.4f}"
            f"<br>KL: {float(group.means['kl_divergence'][i, j]):.4f}"
            f"<br>flipped: {float(group.means['flipped'][i, j]):.0%}"
            f"<br>n = {_n(group, metric)}"
            for j, position in enumerate(sweep.settings.positions)
        ]
        for i, layer in enumerate(sweep.settings.layers)
    ]
    return go.Heatmap(
        z=values.tolist(),
        x=list(range(len(sweep.settings.positions))),
        y=list(range(len(sweep.settings.layers))),
        text=[[_short(value) for value in row] for row in values.tolist()],
        texttemplate="%{text}",
        hovertext=hover,
        hoverinfo="text",
        coloraxis=coloraxis,
        xgap=1,
        ygap=1,
    )


def _short(value: float) -> str:
    return "" if value != value else f"{value:.2f}".replace("-0.00", "0.00")


def _marks(
    values: Float[Tensor, "layer position"], zeros: Bool[Tensor, "layer position"], outline: bool
) -> list[dict[str, object]]:
    """A cross over every structural zero and a frame around each of the five largest cells."""
    shapes: list[dict[str, object]] = []
    for i, j in zeros.nonzero().tolist():
        for rise in (0.5, -0.5):
            line = {"color": "grey", "width": 1}
            ends = {"x0": j - 0.5, "x1": j + 0.5, "y0": i - rise, "y1": i + rise}
            shapes.append({"type": "line", "line": line, **ends})
    for i, j in top_cells(values, zeros) if outline else []:
        line = {"color": "black", "width": 2}
        ends = {"x0": j - 0.47, "x1": j + 0.47, "y0": i - 0.47, "y1": i + 0.47}
        shapes.append({"type": "rect", "line": line, **ends})
    return shapes


def _styled(
    figure: go.Figure,
    sweep: Sweep,
    metric: str,
    title: str,
    whole: Aggregate,
    groups: Sequence[Aggregate],
) -> go.Figure:
    settings = sweep.settings
    subtitle = f"{settings.direction}, {MODE_TITLES[settings.mode]}, n = {_n(whole, metric)} pairs"
    if metric == "recovery" and whole.n_recovery < whole.n:
        subtitle += f" ({whole.n - whole.n_recovery} left out: no recovery defined)"
    figure.update_layout(
        title={"text": title, "subtitle": {"text": subtitle}},
        coloraxis=_colour_axis(metric, [group.means[metric] for group in groups]),
        plot_bgcolor="white",
        height=230 + 60 * len(settings.layers),
        margin={"t": 110},
    )
    steps = [str(position) for position in settings.positions]
    figure.update_xaxes(tickvals=list(range(len(steps))), ticktext=steps, title="latent position")
    layers = [str(layer) for layer in settings.layers]
    figure.update_yaxes(tickvals=list(range(len(layers))), ticktext=layers)
    figure.update_yaxes(title="layer", col=1) if len(groups) > 1 else figure.update_yaxes(
        title="layer"
    )
    return figure


def _colour_axis(metric: str, maps: Sequence[Float[Tensor, "layer position"]]) -> dict[str, object]:
    finite = [float(v) for values in maps for v in values.flatten() if v == v]
    axis: dict[str, object] = {"colorbar": {"title": {"text": metric, "side": "right"}}}
    if metric in SIGNED:
        reach = max((abs(value) for value in finite), default=1.0) or 1.0
        return axis | {"colorscale": DIVERGING, "cmin": -reach, "cmax": reach, "cmid": 0}
    return axis | {"colorscale": SEQUENTIAL}
