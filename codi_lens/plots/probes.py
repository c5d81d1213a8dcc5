"""What probes read, beside what becomes of the answer when it is exchanged."""

import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from codi_lens.analysis.probes import Probes, Usage
from codi_lens.patching.result import Sweep
from codi_lens.plots.panels import Panel, draw

SCORES = {"logistic": "accuracy", "ridge": "R²"}


def probes(found: Probes, usage: Usage | None = None) -> go.Figure:
    """Maps of what is decodable and, if `usage` is given, of what is used, on one colour scale.

    Above: the probes' score, recovery when the subspace that each sees is exchanged, and when all is. Below the first
    two, their controls: the same probe on random labels, and a random subspace of the same rank.
    """
    score = SCORES[found.kind]
    maps = {
        f"decodable: {score}": found.score.clamp(min=0),
        f"control task: {score}": found.control.clamp(min=0),
    }
    if usage is not None:
        decodable, control = maps.items()
        maps = dict(
            [
                decodable,
                ("used: recovery by the probe's subspace", _recovered(usage.subspace)),
                ("recovery by the whole activation", _recovered(usage.whole)),
                control,
                ("recovery by a random subspace", _recovered(usage.random)),
            ]
        )
    what = "the answer" if found.label == "answer" else found.label
    at_least = f"most common label {found.baseline:.2f}" if found.classes else "below 0 drawn as 0"
    said = [f"{found.kind} probes, cross-validated over n = {found.n} questions ({at_least})"]
    if usage is not None:
        said.append(f"exchanged in n = {len(usage.whole.pairs)} pairs whose sides differ in it")
    return draw(
        [Panel(title, values, found.rows, found.columns) for title, values in maps.items()],
        title=f"Where can {what} be read{', and where is it used' if usage else ''}?",
        subtitle="; ".join(said),
        colour=score if usage is None else f"{score}, or recovery",
        signed=usage is not None,
    )


def _recovered(sweep: Sweep) -> Float[Tensor, "row column"]:
    return sweep.mean("recovery", effect=sweep.axes["effect"][0])
