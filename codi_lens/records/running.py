"""Running an experiment so that nothing is lost: what a program calls and what a notebook calls.

    from codi_lens import records
    sweep = records.run(codi, pairs, "position_patching", "results/my-run")

Every finished pair is in the folder's journal at once. The same call again goes on where a run was stopped,
and reads a finished one back.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from codi_lens.choices import ANSWERS, Answers
from codi_lens.data.pairs import Pair
from codi_lens.errors import UserError, one_of
from codi_lens.files import expand
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.checks import check_pairs
from codi_lens.patching.experiments import Experiment, experiment_named
from codi_lens.patching.replacements import Replacement
from codi_lens.patching.result import PairOutcome, Sweep
from codi_lens.patching.settings import Settings
from codi_lens.patching.sweep import make_settings
from codi_lens.records.journal import Journal, remove_parts
from codi_lens.records.journal_file import check_same, read_header
from codi_lens.records.journal_lines import Entry
from codi_lens.records.manifest import JOURNAL, MANIFEST
from codi_lens.records.processes import ALONE, Processes
from codi_lens.records.read import load, read_manifest, verify
from codi_lens.records.stopping import Interrupted
from codi_lens.records.sweeping import Work, swept
from codi_lens.records.write import write_record

NOTHING: Mapping[str, Any] = MappingProxyType({})


def run(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    experiment: Experiment | str,
    folder: str | Path,
    resume: bool = True,
    *,
    settings: Settings | None = None,
    batch_rows: int | None = None,
    answers: Answers = "none",
    replacement: Replacement | None = None,
    progress: bool = True,
    pages: Callable[[Sweep], Mapping[str, str | bytes]] = lambda _: NOTHING,
    on_pair: Callable[[PairOutcome, int], None] = lambda *_: None,
    config: Mapping[str, Any] = NOTHING,
    call: Mapping[str, Any] = NOTHING,
    go_on: str = "the same call",
    processes: Processes = ALONE,
) -> Sweep:
    """Runs an experiment over pairs and leaves its record in `folder`.

    The first Ctrl-C finishes the batch in flight and writes the record of the pairs that are done.

    Args:
        codi: the model.
        pairs: clean and corrupted questions; their prompts may differ in length.
        experiment: one of `patching.experiments`, or its name, such as "position_patching".
        folder: for the record; made if need be.
        resume: whether a run in `folder` is gone on with, or read back if it is finished.
        settings: as `make_settings` makes them; None: all layers and latents, and the defaults.
        batch_rows: runs side by side, at most; None: as many as fit in memory.
        answers: patched answers to decode: of no cell, of the five top ones, of all.
        replacement: what is put in (`patching.replacements`); None: what the settings name.
        progress: whether to show a progress bar.
        pages: makes further files of the record (name -> content) from the sweep, such as figures and tables.
        on_pair: called with every pair's outcome, and how many are done with it.
        config: what the user asked for, for the manifest.
        call: how a program was called, for the journal: what `--resume` knows its flags from.
        go_on: what goes on with the run, for the message when it is interrupted.
        processes: those that share the run. The record is there when `run` returns in any of them.

    Raises:
        UserError: input that cannot be used, or a folder that holds something else.
        RecordError: the run in `folder` is not the same one (says what differs), or is damaged.
        Interrupted: Ctrl-C; what is finished is in the folder.
    """
    started = time.perf_counter()
    folder = expand(folder)
    settings = settings or make_settings(codi, experiment)
    check_pairs(codi, pairs, settings.num_latents)
    one_of(answers, ANSWERS, "answers")
    work = Work(
        experiment_named(experiment),
        codi,
        pairs,
        settings,
        batch_rows,
        answers,
        replacement,
        processes,
    )
    header = work.header() | dict(call)
    found = processes.from_first("" if processes.index else _found(folder, resume))
    if found == "finished":
        check_same(folder, read_header(folder), header)
        return load(folder)
    with _journal(folder, header, found == "begun", processes) as journal:
        sweep, whole = swept(work, journal, on_pair, progress)
        processes.wait()  # until all have read what the first now puts away
        if processes.index == 0:
            journal.absorb()
            if sweep is not None:
                about = {"out": str(folder), "seconds": round(time.perf_counter() - started, 2)}
                about |= {"processes": processes.count}
                write_record(
                    folder,
                    sweep,
                    codi,
                    {**config, **about},
                    pages=pages(sweep),
                    planned=len(pairs),
                    complete=whole,
                )
            if whole:
                remove_parts(folder)
    processes.wait()
    if sweep is None or not whole:
        done = len(sweep.outcomes) if sweep else 0
        said = f"interrupted: {done} of {len(pairs)} pairs are done; go on with\n  {go_on}"
        raise Interrupted(said, sweep)
    return sweep


def clear_up(folder: Path) -> bool:
    """Whether the run in `folder` is finished; then nothing is left of it but its record."""
    finished = is_finished(folder)
    if finished:
        remove_parts(folder)
    return finished


def is_finished(folder: Path) -> bool:
    """Whether the run in `folder` has all its files.

    Raises:
        RecordError: it had, but some are gone or are not what was written.
    """
    if not (folder / MANIFEST).exists():
        return False
    manifest = read_manifest(folder, incomplete=True)
    if manifest["complete"]:
        verify(folder, manifest)
    return bool(manifest["complete"])


def _found(folder: Path, resume: bool) -> str:
    """What is in `folder`: a run that is "finished" or "begun", or nothing yet (it is made if need be)."""
    begun = (folder / JOURNAL).exists()
    if begun and not resume:
        raise UserError(f"there is a run in {folder} already; give a fresh folder, or resume it")
    if begun:
        return "finished" if clear_up(folder) else "begun"
    if (folder / MANIFEST).exists():
        raise UserError(f"{folder} holds a record without a {JOURNAL}; give a fresh folder")
    folder.mkdir(parents=True, exist_ok=True)
    return ""


def _journal(folder: Path, header: Entry, resume: bool, here: Processes) -> Journal:
    """This process' journal; the others wait until the first has its own, and the run's lock."""
    first = Journal(folder, header, resume=resume) if here.index == 0 else None
    here.wait()
    return first or Journal(folder, header, index=here.index)
