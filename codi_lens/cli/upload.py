"""Sends a finished run to Weights & Biases.

What is sent is what `--wandb online` would have sent while it ran: settings, aggregates, figures, cells and
the record.
"""

import argparse
from pathlib import Path

from codi_lens.choices import WANDB_MODES
from codi_lens.cli.flags import path
from codi_lens.cli.program import Program
from codi_lens.errors import UserError


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    parser.add_argument("run", metavar="RUN", type=path, help="folder of a finished run")
    sending = "online sends; offline writes below RUN/wandb, for `wandb sync`"
    parser.add_argument("--wandb", default="online", choices=WANDB_MODES[1:], help=sending)


def upload(arguments: argparse.Namespace) -> None:
    """Reads the run and sends it."""
    from codi_lens import plots
    from codi_lens.records.read import load, read_manifest
    from codi_lens.tracking import Tracker

    manifest, sweep = read_manifest(arguments.run), load(arguments.run)
    origin = {"origin": manifest["origin"]} if "origin" in manifest else {}
    tracker = Tracker(
        arguments.wandb,
        experiment=sweep.experiment.name,
        folder=arguments.run.resolve(),
        config=manifest["config"] | manifest["settings"] | origin,
        tags=["uploaded"],
    )
    if not tracker.finish(sweep, plots.gallery(sweep), record_files(arguments.run)):
        raise UserError(f"{arguments.run} was not sent")
    print(f"sent ({arguments.wandb}): {arguments.run}")


def record_files(folder: Path) -> list[Path]:
    """The files of a record, without what W&B itself keeps beside them."""
    return sorted(path for path in folder.iterdir() if path.is_file())


main = Program("upload", __doc__, add_flags, upload)
