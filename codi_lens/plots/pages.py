"""Figures out of the program: pages, image files, notebooks. Each is asked for by name."""

import json
import warnings
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path

import plotly.graph_objects as go
import plotly.io as pio
from plotly.offline import get_plotlyjs

from codi_lens.errors import UserError, one_of
from codi_lens.plots.figure import CONFIG, NOTEBOOK

FORMATS = ("png", "svg", "pdf")
OFFLINE = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:\">"
)
"""In a page's head: whatever its scripts try, the browser asks nothing of anyone."""
SCALE = {"png": 2, "svg": 1, "pdf": 1}
"""Pixels of an image per pixel of a figure: enough for print; vectors keep the figure's own size."""


def page(figures: Mapping[str, go.Figure]) -> str:
    """One HTML page with the figures (id -> figure) below each other; it opens without a network.

    A figure that is wider than the screen scrolls; what it is, in the page's text, does not.
    """
    parts = [
        heading
        + bare.to_html(full_html=False, include_plotlyjs=i == 0, div_id=name, config=CONFIG)
        + "</div>"
        for i, (name, figure) in enumerate(figures.items())
        for heading, bare in [_heading_apart(figure)]
    ]
    style = (
        "body{margin:8px auto;max-width:1240px;background:white;color:#222;"
        "font:14px Helvetica,Arial,sans-serif}h1{font-size:17px;margin:12px 12px 4px}"
        "p{font-size:12.5px;margin:4px 12px;max-width:720px}.figure{overflow-x:auto}"
    )
    view = "<meta name='viewport' content='width=device-width,initial-scale=1'>"
    head = f"<meta charset='utf-8'>{OFFLINE}{view}<title>codi-lens</title><style>{style}</style>"
    body = "".join(parts)
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{body}</body></html>\n"


def _heading_apart(figure: go.Figure) -> tuple[str, go.Figure]:
    """A figure's title and subtitle as HTML, up to where it is drawn, and the figure without them."""
    said = figure.layout.meta
    bare = go.Figure(figure).update_layout(
        title=None,
        height=figure.layout.height - said["height"],
        margin={"t": figure.layout.margin.t - said["height"]},
    )
    heading = f"<h1>{escape(said['title'])}</h1><p>{escape(said['subtitle'])}</p>"
    return f"{heading}<div class='figure'>", bare


def plotly_script() -> str:
    """The drawing library's JavaScript, to put into a page."""
    script: str = get_plotlyjs()
    return script


def to_image(figure: go.Figure, kind: str = "png") -> bytes:
    """The figure as an image file's content: "png", "svg" or "pdf".

    Raises:
        UserError: another kind of file, no kaleido, or no browser for it to draw with.
    """
    with _kaleido(kind):
        content: bytes = figure.to_image(format=kind, scale=SCALE[kind])
    return content


def write_images(folder: Path, figures: Mapping[str, go.Figure], kind: str = "png") -> list[Path]:
    """Writes each figure (name -> figure) to `folder/name.kind`; raises as `to_image` does."""
    paths = [folder / f"{name}.{kind}" for name in figures]
    with _kaleido(kind):
        folder.mkdir(parents=True, exist_ok=True)
        drawn = list(figures.values())
        # Each in its own size, which for several at once has to be said.
        width, height = ([getattr(f.layout, side) for f in drawn] for side in ("width", "height"))
        names = [str(path) for path in paths]
        pio.write_images(drawn, names, scale=SCALE[kind], width=width, height=height)
    return paths


@contextmanager
def _kaleido(kind: str) -> Iterator[None]:
    """Turns what keeps kaleido from drawing inside into one message."""
    one_of(kind, FORMATS, "image format")
    try:
        import kaleido  # noqa: F401
    except ImportError as error:
        raise UserError(
            "images need kaleido, which is not installed: pip install 'codi-lens[export]'"
        ) from error
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        # kaleido has an exception of its own for each way in which a browser can be missing or die.
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            "kaleido draws images with Chrome or Chromium and could not use one "
            f"({first[0]}); install one, or set BROWSER_PATH to its program"
        ) from error


def show(figure: go.Figure) -> None:
    """Shows a figure in a notebook, with an image beside it for pages that run no scripts.

    Where kaleido or its browser is missing, the image is left out.

    Raises:
        UserError: IPython is not installed.
    """
    try:
        from IPython.display import display
    except ImportError as error:
        raise UserError(
            f"showing figures needs IPython, which is not installed: {NOTEBOOK}"
        ) from error

    # By way of JSON, which turns NaN into null: notebooks hold no other JSON.
    content = json.loads(figure.to_json()) | {"config": CONFIG}
    bundle: dict[str, object] = {"application/vnd.plotly.v1+json": content}
    try:
        with _kaleido("png"), warnings.catch_warnings():
            import kaleido

            # One browser for all figures of a notebook; plotly warns that it cannot configure it.
            kaleido.start_sync_server(silence_warnings=True)
            warnings.simplefilter("ignore")
            image = figure.to_image(format="png", scale=SCALE["png"])
        bundle["image/png"] = b64encode(image).decode()
    except UserError:
        bundle["text/plain"] = "a plotly figure"
    display(bundle, raw=True)
