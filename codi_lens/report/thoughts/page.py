"""What `read_thoughts` read, as a page that opens without a network and fetches nothing."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from jaxtyping import Float
from torch import Tensor

from codi_lens.analysis.lenses import TunedLens
from codi_lens.analysis.thoughts import Reading, Thoughts, read_thoughts
from codi_lens.data.pairs import Pair
from codi_lens.errors import UserError
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.plots.figure import NOTEBOOK
from codi_lens.plots.pages import OFFLINE
from codi_lens.report.build import embedded, filled
from codi_lens.report.entries import rounded

DIGITS = 4
SCRIPTS = ("numbers.js", "drawing.js", "page.js")
HEIGHT = 960
"""Of the page in a notebook, in pixels."""
KINDS = {name: name for name in ("frame", "numbers", "words", "eot")} | {"bot": "frame"}
"""Group of positions -> what the page counts it as; every other is a thought."""


def thoughts_page(found: Thoughts) -> str:
    """The page, as HTML.

    Args:
        found: what `read_thoughts` read.
    """
    folder = files("codi_lens.report.thoughts")

    def text(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    parts = {
        "offline": OFFLINE,
        "title": escape(found.question),
        "style": text("page.css"),
        "script": "".join(map(text, SCRIPTS)),
        "data": embedded(as_json(found)),
    }
    return filled(text("page.html"), parts)


def show_thoughts(
    codi: HookedCodi,
    question: str | Pair,
    *,
    tuned: TunedLens | None = None,
    others: Sequence[str] | None = None,
    num_latents: int | None = None,
    height: int = HEIGHT,
) -> Any:
    """The page of one question, to be shown in a notebook; no server, no network.

    Args:
        codi: the model.
        question: to ask; or a pair, whose clean question is asked and patched into the corrupted one.
        tuned, others, num_latents: as in `read_thoughts`.
        height: of the frame that it is in, in pixels.

    Returns:
        IPython's `HTML`.

    Raises:
        UserError: as `read_thoughts` does, or IPython is not installed.
    """
    try:
        from IPython.display import HTML
    except ImportError as error:
        raise UserError(
            f"showing a page needs IPython, which is not installed: {NOTEBOOK}"
        ) from error
    found = read_thoughts(codi, question, tuned=tuned, others=others, num_latents=num_latents)
    inside = escape(thoughts_page(found), quote=True)
    style = f"width:100%;height:{height}px;border:0"
    # A frame of its own: neither page styles the other. (IPython warns of text that begins with one.)
    return HTML(f'<div><iframe title="thoughts" srcdoc="{inside}" style="{style}"></iframe></div>')


def as_json(found: Thoughts) -> dict[str, Any]:
    """All that the page shows, as plain data; probabilities and weights to four digits."""
    recovery, positions = found.recovery, found.attention.positions
    whole = (found.attention.weights.double() * 10**DIGITS).round().long()
    shown = positions.last(found.steps[-1]) + 1
    return {
        "model": found.model,
        "question": found.question,
        "others": list(found.others),
        "expected": None if found.expected is None else str(found.expected),
        "answer": str(found.answer),
        "labels": list(positions.labels[:shown]),
        "kinds": [KINDS.get(group, "thoughts") for group in positions.groups[:shown]],
        "steps": [str(step) for step in found.steps],
        "positions": [positions.last(step) for step in found.steps],
        "readings": {name: _reading(reading) for name, reading in found.readings.items()},
        # As whole ten-thousandths, which are a third of the size.
        "attention": whole[..., :shown].tolist(),
        "zero": _rounded(found.zero),
        "resample": _rounded(found.resample),
        "stops": [
            {
                "text": stop.text,
                "answer": None if stop.answer is None else str(stop.answer),
                "own": _number(stop.own),
                "final": _number(stop.final),
            }
            for stop in found.stops
        ],
        "corrupted": recovery and recovery.outcomes[0].pair.corrupted.question,
        "recovery": recovery and _rounded(recovery.values("recovery")[0, 0]),
    }


def _reading(reading: Reading) -> dict[str, Any]:
    return {
        "said": [
            [[[t.text, _number(t.share), _number(t.control)] for t in cell] for cell in row]
            for row in reading.said
        ],
        "results": [
            {
                "value": str(result.value),
                "share": _rounded(result.share),
                "rank": result.rank.tolist(),
                "control": _rounded(result.control),
                "readable": result.readable,
            }
            for result in reading.results
        ],
    }


def _number(value: float | None) -> float | None:
    return None if value is None else rounded(value, DIGITS)


def _rounded(values: Float[Tensor, "..."] | None) -> Any:
    def plain(entry: Any) -> Any:
        return [plain(one) for one in entry] if isinstance(entry, list) else _number(entry)

    return None if values is None else plain(values.tolist())
