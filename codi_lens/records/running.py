"""Running an experiment so that nothing is lost: what a program calls and what a notebook calls.

    from codi_lens import records
    sweep = records.run(codi, pairs, "position_patching", "results/my-run")

Every finished pair is in the folder's journal at once. The same call again goes on where a run was stopped,
and reads a finished one back.
"""

import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tqdm.auto import tqdm

from codi_lens.choices import ANSWERS, Answers
from codi_lens.data.pairs import Pair
from codi_lens.errors import UserError, one_of
from codi_lens.files import expand
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.checks import check_pairs
from codi_lens.patching.jobs import Saved
from codi_lens.patching.plans import Settings
from codi_lens.patching.result import PairOutcome, Sweep
from codi_lens.patching.runner import Decode, sweep_pairs
from codi_lens.patching.sweep import make_settings, make_sweep
from codi_lens.records.journal import Journal, check_same, read_header, remove_parts
from codi_lens.records.journal_lines import Entry
from codi_lens.records.manifest import JOURNAL, MANIFEST, describe_run, tensors_digest
from codi_lens.records.processes import ALONE, Processes
from codi_lens.records.read import load, read_manifest, verify
from codi_lens.records.stopping import CtrlC, Interrupted
from codi_lens.records.top_answers import TopCells
from codi_lens.records.write import write_record

NOTHING: Mapping[str, Any] = MappingProxyType({})
DECODE: dict[Answers, Decode] = {"none": "none", "top": "last", "all": "all"}
"""Answers asked for -> those that are decoded at once; "top" where cells are not outlined."""


@dataclass(frozen=True)
class Work:
    """What is to be run, and how; arguments as in `run`."""

    experiment: Any
    codi: HookedCodi
    pairs: Sequence[Pair]
    settings: Settings
    batch_rows: int | None
    answers: Answers
    saved: Saved | None
    here: Processes

    @property
    def name(self) -> str:
        """The experiment's name."""
        return str(getattr(self.experiment, "name", self.experiment))

    def header(self) -> Entry:
        """What the journal says is run."""
        described = describe_run(self.name, self.codi, self.pairs, self.settings)
        return described | {
            "batch_rows": self.batch_rows,
            "answers": self.answers,
            "activations": None if self.saved is None else tensors_digest(self.saved),
        }


def run(
    codi: HookedCodi,
    pairs: Sequence[Pair],
    experiment: Any,
    folder: str | Path,
    resume: bool = True,
    *,
    settings: Settings | None = None,
    batch_rows: int | None = None,
    answers: Answers = "none",
    saved: Saved | None = None,
    progress: bool = True,
    pages: Callable[[Sweep], Mapping[str, str]] = lambda _: NOTHING,
    on_pair: Callable[[PairOutcome, int], None] = lambda *_: None,
    config: Mapping[str, Any] = NOTHING,
    call: Mapping[str, Any] = NOTHING,
    processes: Processes = ALONE,
) -> Sweep:
    """Runs an experiment over pairs and leaves its record in `folder`.

    The first Ctrl-C finishes the batch in flight and writes the record of the pairs that are done.

    Args:
        codi: the model.
        pairs: clean and corrupted questions; their prompts may differ in length.
        experiment: its name, such as "position_patching".
        folder: for the record; made if need be.
        resume: whether a run in `folder` is gone on with, or read back if it is finished.
        settings: as `make_settings` makes them; None: all layers and latents, and the defaults.
        batch_rows: runs side by side, at most; None: as many as fit in memory.
        answers: patched answers to decode: of no cell, of the five top ones, of all.
        saved: for each pair the source activations to patch in, instead of the source run's own.
        progress: whether to show a progress bar.
        pages: makes further files of the record (name -> text) from the sweep, such as figures.
        on_pair: called with every pair's outcome, and how many are done with it.
        config: what the user asked for, for the manifest.
        call: how a program was called, for the journal: what `--resume` knows its flags from.
        processes: those that share the run. The record is there when `run` returns in any of them.

    Raises:
        UserError: input that cannot be used, or a folder that holds something else.
        RecordError: the run in `folder` is not the same one (says what differs), or is damaged.
        Interrupted: Ctrl-C; what is finished is in the folder.
    """
    started = time.perf_counter()
    folder = expand(folder)
    settings = settings or make_settings(codi)
    check_pairs(codi, pairs, settings.num_latents)
    one_of(answers, ANSWERS, "answers")
    work = Work(experiment, codi, pairs, settings, batch_rows, answers, saved, processes)
    header = work.header() | dict(call)
    found = processes.from_first("" if processes.index else _found(folder, resume))
    if found == "finished":
        check_same(folder, read_header(folder), header)
        return load(folder)
    with _journal(work, folder, header, resume=found == "begun") as journal:
        sweep, whole = _swept(work, journal, on_pair, progress)
        processes.wait()  # until all have read what the first now puts away
        if processes.index == 0:
            journal.absorb()
            if sweep is not None:
                about = {"out": str(folder), "seconds": round(time.perf_counter() - started, 2)}
                about |= {"processes": processes.count}
                _write(work, folder, sweep, pages(sweep), {**config, **about}, whole)
    processes.wait()
    if sweep is None or not whole:
        done = len(sweep.outcomes) if sweep else 0
        raise Interrupted(f"interrupted: {done} of {len(pairs)} pairs are done", sweep)
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


def _journal(work: Work, folder: Path, header: Entry, *, resume: bool) -> Journal:
    """This process' journal; the others wait until the first has its own, and the run's lock."""
    first = work.here.index == 0
    journal = Journal(folder, header, resume=resume) if first else None
    work.here.wait()
    return journal or Journal(folder, header, index=work.here.index)


def _swept(
    work: Work, journal: Journal, on_pair: Callable[[PairOutcome, int], None], progress: bool
) -> tuple[Sweep | None, bool]:
    """The sweep, as far as it came, and whether that is all of it; with the answers asked for."""
    done = journal.outcomes(work.pairs)
    axes = make_sweep(work.experiment, work.codi, work.settings, []).axes
    top = work.answers == "top" and "variant" in axes
    with CtrlC() as ctrl_c:
        outcomes = sweep_pairs(
            work.experiment,
            work.codi,
            work.pairs,
            work.settings,
            batch_rows=work.batch_rows,
            decode="none" if top else DECODE[work.answers],
            saved=work.saved,
            part=work.here.part(len(work.pairs)),
            done=frozenset(done),
            stopped=lambda: ctrl_c.pressed,
        )
        for outcome in _shown(outcomes, work, journal, done) if progress else outcomes:
            journal.add(outcome)
            done[outcome.pair.pair_id] = outcome
            on_pair(outcome, len(done))
        work.here.wait()
        if work.here.count > 1:
            done = journal.outcomes(work.pairs)
        if not done:
            return None, False
        in_order = [done[pair.pair_id] for pair in work.pairs if pair.pair_id in done]
        sweep = make_sweep(work.experiment, work.codi, work.settings, in_order)
        if len(done) < len(work.pairs):
            return sweep, False
        return _with_top_answers(sweep, work, journal, ctrl_c) if top else (sweep, True)


def _shown(
    outcomes: Iterator[PairOutcome], work: Work, journal: Journal, done: Collection[int]
) -> Iterator[PairOutcome]:
    """The outcomes, shown as they come; of several processes the first shows its part."""
    own = work.pairs[work.here.part(len(work.pairs))]
    if journal.resumed:
        torn = "; the journal's last line was torn and is dropped" if journal.torn else ""
        sys.stderr.write(f"going on: {len(done)} of {len(work.pairs)} pairs are there{torn}\n")
    yield from tqdm(
        outcomes,
        total=len(own),
        initial=sum(pair.pair_id in done for pair in own),
        unit="pair",
        desc=work.name.replace("_", " "),
        disable=work.here.index > 0,
    )


def _with_top_answers(
    sweep: Sweep, work: Work, journal: Journal, ctrl_c: CtrlC
) -> tuple[Sweep, bool]:
    """The sweep with the answers of its outlined cells, from a second run of those alone."""
    top = TopCells.of(sweep)
    if top is None:
        return sweep, True
    texts = journal.answers()
    again = sweep_pairs(
        work.experiment,
        work.codi,
        work.pairs,
        top.settings,
        batch_rows=work.batch_rows,
        decode="all",
        part=work.here.part(len(work.pairs)),
        done=frozenset(texts),
        stopped=lambda: ctrl_c.pressed,
    )
    for outcome in again:
        own = top.texts(outcome)
        journal.add_answers(outcome.pair.pair_id, own)
        texts[outcome.pair.pair_id] = own
    work.here.wait()
    if work.here.count > 1:
        texts = journal.answers()
    outcomes = [replace(o, texts=texts.get(o.pair.pair_id, {})) for o in sweep.outcomes]
    return replace(sweep, outcomes=tuple(outcomes)), len(texts) == len(sweep.outcomes)


def _write(
    work: Work,
    folder: Path,
    sweep: Sweep,
    pages: Mapping[str, str],
    config: dict[str, Any],
    whole: bool,
) -> None:
    """Writes the record; the tensors of single pairs go when it is whole."""
    write_record(
        folder, sweep, work.codi, config, pages=pages, planned=len(work.pairs), complete=whole
    )
    if whole:
        remove_parts(folder)
