"""A circuit as a drawing: steps of the loop from left to right, layers upwards."""

import itertools
from collections.abc import Mapping

import plotly.graph_objects as go
from jaxtyping import Bool
from torch import Tensor

from codi_lens.analysis.circuits import Edges, Faithfulness, Graph
from codi_lens.plots.style import PALETTE, headed, lined

POSITIVE, NEGATIVE = PALETTE[0], PALETTE[1]
WIDEST = 7.0
"""Of the line of the largest score, in pixels."""
Point = tuple[float, float]


def circuit(edges: Edges, kept: Bool[Tensor, "step receiver sender"]) -> go.Figure:
    """The edges of a circuit.

    Nodes are heads, key/value inputs, MLPs, embeddings (at a latent, the thought) and outputs; a line is an edge, as wide as its
    mean score is large. Dotted lines show how steps are joined: an output becomes the next thought.
    """
    graph, found = edges.graph, edges.named(kept)
    where = places(graph)
    figure = go.Figure()
    largest = max((abs(edge[3]) for edge in found), default=1.0)
    used: dict[tuple[str, str], Point] = {}
    for step, sender, receiver, score in reversed(found):
        ends = [where[step, "from " + sender], where[step, "to " + receiver]]
        used |= {(step, "from " + sender): ends[0], (step, "to " + receiver): ends[1]}
        figure.add_scatter(
            x=[x for x, _ in ends],
            y=[y for _, y in ends],
            mode="lines",
            line={
                "width": 0.6 + WIDEST * abs(score) / largest,
                "color": POSITIVE if score >= 0 else NEGATIVE,
            },
            opacity=0.75,
            hovertemplate=f"{step}: {sender} → {receiver}<br>{score:.3f} logits<extra></extra>",
        )
    _join(figure, graph, where, used)
    _nodes(figure, used)
    _lay_out(figure, graph)
    subtitle = (
        f"{len(found)} of {int(graph.edges.sum())} edges, wider for larger scores (at most {largest:.2f} logits); blue adds to "
        "the clean answer, orange takes from it; dotted: an output is the next thought; keys and values are read by later steps"
    )
    width = max(760, 130 + 105 * len(graph.steps))
    return headed(lined(figure), "Circuit", subtitle, width=width, body=120 + 110 * graph.layers)


def _lay_out(figure: go.Figure, graph: Graph) -> None:
    steps = [str(step) for step in graph.steps]
    heights = [-0.5, *(layer + 0.3 for layer in range(graph.layers)), graph.layers]
    names = ["embedding or thought", *(f"layer {k}" for k in range(graph.layers)), "output"]
    columns = {"tickvals": list(range(len(steps))), "ticktext": steps, "title": "step"}
    figure.update_layout(
        xaxis=columns | {"range": [-0.5, len(steps) - 0.4]},
        yaxis={"tickvals": heights, "ticktext": names, "range": [-0.8, graph.layers + 0.4]},
        showlegend=False,
        margin={"l": 150, "r": 24, "b": 58},
    )


def places(graph: Graph) -> Mapping[tuple[str, str], Point]:
    """Where every node of every step is drawn; a head's inputs and its output are one place."""
    found: dict[tuple[str, str], Point] = {}
    for x, step in enumerate(map(str, graph.steps)):
        found[step, "from embed"] = (float(x), -0.5)
        found[step, "to out"] = (float(x), float(graph.layers))
        for layer in range(graph.layers):
            for head in range(graph.heads):
                at = (x - 0.34 + 0.5 * head / max(graph.heads - 1, 1), float(layer))
                found[step, f"from {layer}.{head}"] = found[step, f"to {layer}.{head}.q"] = at
            for head in range(graph.kv_heads):
                for i, what in enumerate("kv"):
                    at = (x - 0.3 + 0.42 * (head + 0.3 * i) / graph.kv_heads, layer - 0.25)
                    found[step, f"to {layer}.kv{head}.{what}"] = at
            found[step, f"from mlp{layer}"] = found[step, f"to mlp{layer}"] = (
                x + 0.34,
                layer + 0.45,
            )
    return found


def _join(
    figure: go.Figure,
    graph: Graph,
    where: Mapping[tuple[str, str], Point],
    used: Mapping[tuple[str, str], Point],
) -> None:
    """Dotted lines from outputs to the thoughts that they become."""
    steps = [str(step) for step in graph.steps]
    for before, after in itertools.pairwise(steps):
        if (before, "to out") in used and after.isdecimal():
            ends = [where[before, "to out"], where[after, "from embed"]]
            figure.add_scatter(
                x=[x for x, _ in ends],
                y=[y for _, y in ends],
                mode="lines",
                line={"width": 1.2, "dash": "dot", "color": "#777777"},
                hoverinfo="skip",
            )


def _nodes(figure: go.Figure, used: Mapping[tuple[str, str], Point]) -> None:
    names: dict[Point, list[str]] = {}
    for (step, name), at in used.items():
        label = name.split(" ", 1)[1]
        short = label.rsplit(".", 1)[0] if label.endswith(".q") else label
        names.setdefault(at, []).append(f"{short} at {step}")
    texts = [sorted(set(text))[0] for text in names.values()]
    figure.add_scatter(
        x=[x for x, _ in names],
        y=[y for _, y in names],
        mode="markers+text",
        text=[text.split(" at ")[0].replace("embed", "") for text in texts],
        hovertext=texts,
        hoverinfo="text",
        textposition="top center",
        textfont={"size": 10},
        marker={"size": 9, "color": "#ffffff", "line": {"width": 1.5, "color": "#333333"}},
    )


def faithfulness(found: Faithfulness) -> go.Figure:
    """Faithfulness against the size of the circuit, for both rankings."""
    figure = go.Figure()
    for name, curve, colour in (
        (f"largest scores (CPR {found.cpr:.2f})", found.signed, POSITIVE),
        (f"largest absolute scores (CMD {found.cmd:.2f})", found.absolute, NEGATIVE),
    ):
        figure.add_scatter(
            x=[100 * share for share in found.shares],
            y=list(curve),
            name=name,
            mode="lines+markers",
            line={"color": colour},
            hovertemplate="%{x:.1f}% of the edges: f = %{y:.3f}<extra></extra>",
        )
    figure.update_layout(
        xaxis={"title": "edges in the circuit, %", "type": "log"},
        yaxis={"title": "faithfulness f", "rangemode": "tozero"},
        margin={"l": 70, "r": 24, "b": 58},
    )
    subtitle = f"f = 0: the corrupted run, 1: the clean one; {found.edges} edges in all"
    return headed(lined(figure), "Faithfulness of circuits", subtitle, width=640, body=360)
