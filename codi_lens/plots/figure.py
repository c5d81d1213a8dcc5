"""The figure that every function of `plots` returns, and how it is shown."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import plotly.graph_objects as go

from codi_lens.errors import UserError

CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "modeBarButtons": [["toImage", "resetScale2d"]],
    "showSendToCloud": False,
    "plotlyServerURL": "",
}
"""Of every figure in a page or notebook: save and reset are its only buttons, and it knows no server."""
NOTEBOOK = "pip install 'codi-lens[notebook]'"


@contextmanager
def notebook_extra() -> Iterator[None]:
    """Turns plotly's error for want of nbformat or IPython into one that says what to install."""
    try:
        yield
    except ValueError as error:
        if "requires nbformat" not in str(error) and "requires ipython" not in str(error):
            raise
        raise UserError(f"plotly cannot show figures here ({error}): {NOTEBOOK}") from error


class Figure(go.Figure):  # type: ignore[misc]
    """A plotly figure that says what to install where it cannot be shown."""

    @notebook_extra()
    def show(self, *args: Any, **kwargs: Any) -> None:
        """Shows the figure, as plotly does.

        Raises:
            UserError: in a notebook, for want of nbformat or IPython.
        """
        super().show(*args, **{"config": CONFIG} | kwargs)

    @notebook_extra()
    def _ipython_display_(self) -> None:
        super()._ipython_display_()
