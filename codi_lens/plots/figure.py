"""How a figure is shown, on a screen and in a paper."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import plotly.graph_objects as go

from codi_lens.errors import UserError
from codi_lens.plots.paper import laid_out

Figure = go.Figure
CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "modeBarButtons": [["toImage", "resetScale2d"]],
    "showSendToCloud": False,
    "plotlyServerURL": "",
}
"""Of every figure in a page or notebook: save and reset are its only buttons, and it knows no server."""
NOTEBOOK = "pip install 'codi-lens[notebook]'"


@contextmanager
def _notebook_extra() -> Iterator[None]:
    """Turns plotly's error for want of nbformat or IPython into one that says what to install."""
    try:
        yield
    except ValueError as error:
        if "requires nbformat" not in str(error) and "requires ipython" not in str(error):
            raise
        raise UserError(f"plotly cannot show figures here ({error}): {NOTEBOOK}") from error


def helpful(figure: go.Figure) -> go.Figure:
    """The figure, which says what to install where it cannot be shown, and has the method `for_paper`.

    It stays a plain `go.Figure`, since other tools (such as W&B) know one by its exact class.
    """

    def show(*args: Any, **kwargs: Any) -> None:
        with _notebook_extra():
            go.Figure.show(figure, *args, **{"config": CONFIG} | kwargs)

    def display() -> None:
        with _notebook_extra():
            go.Figure._ipython_display_(figure)

    figure.show, figure._ipython_display_ = show, display
    # plotly lets nothing be set that its class does not have.
    object.__setattr__(figure, "for_paper", partial(for_paper, figure))
    return figure


def for_paper(figure: go.Figure, width: Literal["column", "page"] = "column") -> go.Figure:
    """A copy of a figure for a paper: 3.3 inches wide (a column) or 6.9 (a page), text of 8 points, no title.

    `figure.for_paper().write_image("map.pdf")` writes it in that size, as vectors; what its title and subtitle said is in
    `layout.meta`, for the caption. Colours are those of the screen.

    Raises:
        UserError: another width.
    """
    return helpful(laid_out(figure, width))
