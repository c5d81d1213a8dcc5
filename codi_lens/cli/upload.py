"""Send a finished run to Weights & Biases.

    python -m experiments.upload RUN

sends what `--wandb online` would have sent while it ran: settings, aggregates, figures, cells and the record.
"""

import argparse
from pathlib import Path

from codi_lens.cli import common
from codi_lens.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Runs the program; exit code 0, or 2 for a run that cannot be read or sent."""
    parser = common.new_parser("upload", __doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN", type=common.path, help="folder of a finished run")
    parser.add_argument("--wandb", default="online", choices=("offline", "online"))
    return common.run(parser, argv, upload)


def upload(arguments: argparse.Namespace) -> None:
    """Reads the run and sends it."""
    from codi_lens import plots
    from codi_lens.records.read import load, read_manifest
    from codi_lens.tracking import Tracker

    manifest, sweep = read_manifest(arguments.run), load(arguments.run)
    tracker = Tracker(
        arguments.wandb,
        experiment=sweep.experiment.name,
        folder=arguments.run.resolve(),
        config=manifest["config"] | manifest["settings"],
        tags=["uploaded"],
    )
    if not tracker.finish(sweep, plots.gallery(sweep), record_files(arguments.run)):
        raise UserError(f"{arguments.run} was not sent")
    print(f"sent ({arguments.wandb}): {arguments.run}")


def record_files(folder: Path) -> list[Path]:
    """The files of a record, without what W&B itself keeps beside them."""
    return sorted(path for path in folder.iterdir() if path.is_file())
