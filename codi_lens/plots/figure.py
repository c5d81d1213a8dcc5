"""The figure that every function of `plots` returns, and how it is shown."""

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


class Figure(go.Figure):  # type: ignore[misc]
    """A plotly figure that says what to install where it cannot be shown."""

    def show(self, *args: Any, **kwargs: Any) -> None:
        """Shows the figure, as plotly does.

        Raises:
            UserError: in a notebook, for want of nbformat.
        """
        try:
            super().show(*args, **{"config": CONFIG} | kwargs)
        except ValueError as error:
            if "nbformat" not in str(error):
                raise
            raise UserError(
                f"plotly shows figures in notebooks with nbformat, which is not installed: {NOTEBOOK}"
            ) from error
