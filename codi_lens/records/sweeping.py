"""The pairs of a run through the engine and into the journal, and from there into one sweep."""

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from tqdm.auto import tqdm

from codi_lens.choices import Answers
from codi_lens.data.pairs import Pair, pairs_digest
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.decoding import Decode
from codi_lens.patching.experiments import Experiment
from codi_lens.patching.outcomes import sweep_pairs
from codi_lens.patching.replacements import Replacement
from codi_lens.patching.result import PairOutcome, Sweep
from codi_lens.patching.settings import Settings
from codi_lens.patching.sweep import make_sweep
from codi_lens.records.journal import Journal
from codi_lens.records.journal_lines import Entry
from codi_lens.records.manifest import describe_run, tensors_digest
from codi_lens.records.processes import Processes
from codi_lens.records.stopping import CtrlC
from codi_lens.records.top_answers import TopCells

DECODE: dict[Answers, Decode] = {"none": "none", "top": "last", "all": "all"}
"""Answers asked for -> those that are decoded at once; "top" where cells are not outlined."""


@dataclass(frozen=True)
class Work:
    """What is to be run, and how; arguments as in `run`."""

    experiment: Experiment
    codi: HookedCodi
    pairs: Sequence[Pair]
    settings: Settings
    batch_rows: int | None
    answers: Answers
    replacement: Replacement | None
    here: Processes

    def header(self) -> Entry:
        """What the journal says is run."""
        described = describe_run(self.experiment.name, self.codi, self.pairs, self.settings)
        put_in = self.replacement
        return described | {
            "pair_ids": [pair.pair_id for pair in self.pairs],
            "batch_rows": self.batch_rows,
            "answers": self.answers,
            "activations": tensors_digest(put_in.saved) if put_in and put_in.saved else None,
            "data": pairs_digest(list(put_in.data)) if put_in and put_in.data else None,
        }


def swept(
    work: Work, journal: Journal, on_pair: Callable[[PairOutcome, int], None], progress: bool
) -> tuple[Sweep | None, bool]:
    """The sweep, as far as it came, and whether that is all of it; with the answers asked for."""
    done = journal.outcomes(work.pairs)
    top = work.answers == "top" and work.experiment.alone
    with CtrlC() as ctrl_c:
        outcomes = sweep_pairs(
            work.experiment,
            work.codi,
            work.pairs,
            work.settings,
            batch_rows=work.batch_rows,
            decode="none" if top else DECODE[work.answers],
            replacement=work.replacement,
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
        desc=work.experiment.name.replace("_", " "),
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
        replacement=work.replacement,
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
