"""What do finished runs say? One page: what was found, maps, pairs, cells, a comparison, methods.

Give the folder of a `necessity` run too, and the page says whether the model needs its thoughts. It opens without a
network. `--images FOLDER` writes every figure as a file too.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codi_lens.cli import flags
from codi_lens.cli.necessity import NECESSITY
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

    necessity, folders = necessity_apart(arguments.runs)
    names = distinct_names(folders)
    manifests = {name: read_manifest(folder) for name, folder in names.items()}
    runs = {name: load(folder) for name, folder in names.items()}
    if arguments.out.is_dir():
        raise UserError(f"{arguments.out} is a folder; give the page a name, as --out report.html")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(arguments.out, report(runs, manifests, necessity))
    print(f"written:\n  {arguments.out}")
    if arguments.images:
        write_images(arguments, runs)


def necessity_apart(folders: list[Path]) -> tuple[dict[str, Any] | None, list[Path]]:
    """The necessity record among the folders, if there is one, and the folders of the other runs.

    Raises:
        UserError: several of them, or a file that holds no such record.
    """
    from codi_lens.files import parse_json, read_text
    from codi_lens.report.words import needed, of_its_model

    apart = [folder for folder in folders if (folder / NECESSITY).is_file()]
    if not apart:
        return None, folders
    if len(apart) > 1:
        raise UserError(f"{len(apart)} necessity runs; a report takes one")
    path = apart[0] / NECESSITY
    try:
        found: dict[str, Any] = parse_json(read_text(path))
        of_its_model(
            found, {}
        )  # fails, as the next does, if anything is missing that the page says
        needed(found, {})
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} is not what necessity writes ({type(error).__name__}: {error}); run it again"
        ) from error
    return found, [folder for folder in folders if folder not in apart]


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
