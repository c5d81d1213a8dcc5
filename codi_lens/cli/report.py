"""What do finished runs say? One page with maps, pairs, cells, and a comparison.

The page has a metric menu and opens without a network. `--images FOLDER` writes every figure as a file too.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from codi_lens.cli import flags
from codi_lens.cli.program import Program
from codi_lens.errors import UserError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from codi_lens import Sweep


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    flags.add_runs(parser)
    add = parser.add_argument
    add("--out", type=flags.path, default=Path("report.html"), help="the page")
    add("--images", type=flags.path, metavar="FOLDER", help="write every figure there too")
    add("--format", default="png", choices=flags.IMAGE_FORMATS, help="of the images")
    size = "lay the images out for a paper's column or page, with 8 pt text and no titles"
    add("--paper", choices=("column", "page"), help=f"{size} (default: as on the screen)")


def write(arguments: argparse.Namespace) -> None:
    """Reads the runs, writes the page and the images."""
    from codi_lens.files import write_text
    from codi_lens.records.read import load, read_manifest
    from codi_lens.report.build import report

    names = distinct_names(arguments.runs)
    manifests = {name: read_manifest(folder) for name, folder in names.items()}
    runs = {name: load(folder) for name, folder in names.items()}
    if arguments.out.is_dir():
        raise UserError(f"{arguments.out} is a folder; give the page a name, as --out report.html")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(arguments.out, report(runs, manifests))
    print(f"written:\n  {arguments.out}")
    if arguments.images:
        write_images(arguments, runs)


def distinct_names(folders: list[Path]) -> dict[str, Path]:
    """Short names for folders: their last part, or the whole path where that is not enough.

    Raises:
        UserError: a folder that was given twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("a run was given twice")
    last = [folder.resolve().name for folder in folders]
    if len(set(last)) == len(last):
        return dict(zip(last, folders, strict=True))
    return {str(folder): folder for folder in folders}


def write_images(arguments: argparse.Namespace, runs: dict[str, "Sweep"]) -> None:
    """The figures of every run, as files."""
    from codi_lens import plots

    drawn: dict[str, go.Figure] = {}
    for i, sweep in enumerate(runs.values()):
        name = sweep.experiment.name
        prefix = name if len(runs) == 1 else f"{i}-{name}"
        drawn |= {f"{prefix}-{name}": figure for name, figure in plots.gallery(sweep).items()}
    if arguments.paper:
        drawn = {name: plots.for_paper(figure, arguments.paper) for name, figure in drawn.items()}
    for path in plots.write_images(arguments.images, drawn, arguments.format):
        print(f"  {path}")


main = Program("report", __doc__, add_flags, write)
