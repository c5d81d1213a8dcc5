"""What is in the batch at which step, and that nothing measured depends on it."""

import pytest
import torch

from codi_lens import HookedCodi, Pair, Site, UserError, Variant, patch_positions
from codi_lens.model.hooks import replace
from codi_lens.patching import readout as reading
from codi_lens.patching.engine import run_batch
from codi_lens.patching.experiments import POSITIONS
from codi_lens.patching.interventions import from_run
from codi_lens.patching.outcomes import make_jobs, own_rows, run_jobs
from codi_lens.patching.schedule import Patch, Run, batches
from codi_lens.patching.sweep import make_settings
from tests.laws.oracle import captured
from tests.models.invented import CELL_METRICS
from tests.models.tiny import write_tiny

PAIRS = [
    Pair(0, Variant("12 plus 30?", 42), Variant("12 plus 31?", 43)),
    Pair(1, Variant("one plus two plus 3?", 6), Variant("12 plus 3?", 15)),
    Pair(2, Variant("5 plus 6?", 991234), Variant("5 plus 7?", 9955)),
]


def post(layer, step, source=1):
    return Patch(Site(f"blocks.{layer}.hook_resid_post", step), from_run(source))


# -- who is in the batch -----------------------------------------------------------------------------


def test_rows_join_at_their_first_patch():
    rows = [Run(0), Run(1), Run(0, (post(1, 2),)), Run(0, (post(1, 1), post(0, 2)))]
    found = batches(rows, 3)
    assert {step: len(batch.taken_from) for step, batch in found.items()} == {
        "bot": 2, 0: 2, 1: 3, 2: 4, "eot": 4,
    }  # fmt: skip
    # Until they join, rows are the plain run of their prompt.
    assert found[0].batch_index[2] == found[0].batch_index[3] == found[0].batch_index[0]
    assert found[1].joined == (False, False, False, True)
    assert found[1].taken_from[found[1].batch_index[3]] == found[0].batch_index[0]
    assert len(set(found["eot"].batch_index)) == 4


def test_a_row_that_is_never_touched_is_read_off_its_prompts_run():
    rows = [Run(0), Run(0), Run(1), Run(0, (post(0, "eot"),))]
    found = batches(rows, 2)
    assert found["eot"].batch_index[0] == found["eot"].batch_index[1]
    assert [len(batch.taken_from) for batch in found.values()] == [2, 2, 2, 3]


def test_a_plain_run_leaves_when_nobody_is_it_any_more():
    found = batches([Run(0, (post(0, 1),)), Run(0, (post(1, 1),))], 2)
    assert [len(batch.taken_from) for batch in found.values()] == [1, 1, 2, 2]


def test_rows_that_are_fed_join_one_step_after_the_row_that_feeds_them():
    rows = [
        Run(0),
        Run(1),
        Run(0, (post(1, 1),)),
        Run(0, thoughts_from=2),
        Run(0, thoughts_from=3),  # of a row that is itself fed
        Run(0, thoughts_from=0),  # the plain run's own: no difference
        Run(0, thoughts_from=1),  # another prompt's: from the first latent on
        Run(0, (post(1, 2),), thoughts_from=2),
    ]
    found = batches(rows, 4)
    first = [
        next((step for step, batch in found.items() if batch.joined[row]), None)
        for row in range(len(rows))
    ]
    assert first == [None, None, 1, 2, 3, None, 0, 2]


def test_a_thought_that_is_never_fed_makes_no_difference():
    rows = [Run(0), Run(0, (post(1, 2),)), Run(0, thoughts_from=1)]
    assert not batches(rows, 3)["eot"].joined[2]


def test_rows_that_feed_each_other_are_no_endless_loop():
    rows = [Run(0, (post(0, 0),), thoughts_from=1), Run(0, thoughts_from=0)]
    found = batches(rows, 3)
    assert found[0].joined == (True, False)
    assert found[1].joined == (True, True)


def test_rows_of_prompts_with_equally_many_lie_side_by_side():
    rows = [Run(p, (post(0, 0),) * patched) for p in (0, 2) for patched in (0, 1, 1)]
    rows += [Run(1), Run(3)]
    found = batches(rows, 1)
    prompt_at = {place: row.prompt for row, place in zip(rows, found[0].batch_index, strict=True)}
    assert [prompt_at[i] for i in range(8)] == [1, 3, 0, 0, 0, 2, 2, 2]


@pytest.mark.parametrize("step", ["prompt", "answer", 3, -1])
def test_a_step_at_which_rows_cannot_be_patched(tiny, step):
    for row in (Run(0, (post(0, step),)), Run(0, capture=(Site("hook_embed", step),))):
        with pytest.raises(UserError, match=f"no step {step!r} for a run"):
            run_batch(tiny, ["1 plus 2?"], [row], 3)


@pytest.mark.parametrize("positions", [None, ("bot", 0, 1, 2)])
def test_the_batch_grows_as_rows_join(tiny, positions):
    settings = make_settings(tiny, positions=positions)
    jobs, _ = make_jobs(POSITIONS, tiny, PAIRS[:2], settings)
    sizes = []

    def look(activation, hook):
        sizes.append(tuple(activation.shape[:2]))

    with torch.no_grad(), tiny.model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", look)]):
        run_jobs(tiny, jobs, settings)
    prompt = max(
        len(tiny.tokens.prompt(v.question)) for p in PAIRS[:2] for v in (p.clean, p.corrupted)
    )
    stem = len(jobs[0].answer.stem)
    # Prompts, three latents with 3 more cells each per pair, eot with the stem; bot with the prompts, but for
    # rows that are patched there.
    prompts, first = ([(4, prompt)], 4) if positions is None else ([(4, prompt - 1), (10, 1)], 10)
    latents = [(first + more, 1) for more in (6, 12, 18)]
    assert sizes == [*prompts, *latents, (first + 18, 1 + stem)]


# -- equality with the plain path -------------------------------------------------------------------


@torch.no_grad()
def test_the_engine_equals_user_hooks_on_the_plain_path(tiny):
    """All cells, all logits at the clean answer, against `run_with_hooks` on stock attention."""
    settings = make_settings(tiny, positions=["bot", 0, 1, 2, "eot"], layers=["thought", 0, 1, 2])
    jobs, _ = make_jobs(POSITIONS, tiny, PAIRS, settings)
    run, answers = run_jobs(tiny, jobs, settings)
    worst = 0.0
    for index, (job, runs) in enumerate(zip(jobs, own_rows(run, jobs), strict=True)):
        readout = answers.logits(index, runs)
        base, clean = job.pair.corrupted.question, job.pair.clean
        for row, what in enumerate(job.plan.runs):
            hooks = [
                (patch.site, replace(captured(tiny, clean.question, patch.site, 3)))
                for patch in what.patches
            ]
            question = clean.question if what.prompt % 3 == 1 else base
            plain = tiny.run_with_hooks(question, clean.answer, fwd_hooks=hooks).logits[0]
            start, length = len(job.answer.stem), readout.clean.shape[1]
            there = plain[start : start + length]
            if len(there) < length:  # closed by eos, which the plain run did not feed
                continue
            worst = max(worst, float((readout.clean[row] - there).abs().max()))
    assert worst < 1e-12


def test_chunks_of_logits_change_nothing(tiny, monkeypatch):
    whole = patch_positions(tiny, PAIRS, controls=True)
    monkeypatch.setattr(reading, "LOGIT_BYTES", 1)
    one_by_one = patch_positions(tiny, PAIRS, controls=True)
    for name in CELL_METRICS:
        torch.testing.assert_close(
            whole.values(name), one_by_one.values(name), atol=1e-12, rtol=0, equal_nan=True
        )


def test_no_tensor_holds_the_logits_of_all_rows(tiny, monkeypatch):
    """Rows × positions × vocabulary is never there at once when that exceeds the limit."""
    vocabulary = tiny.model.cfg.d_vocab
    monkeypatch.setattr(reading, "LOGIT_BYTES", 5 * 8 * 8 * vocabulary)
    largest = 0

    def look(activation, hook):
        nonlocal largest
        largest = max(largest, activation.shape[0])

    # The greedy texts of the unpatched runs are unembedded one position at a time, and come last.
    with (
        tiny.model.hooks(fwd_hooks=[("unembed.hook_out", look)]),
        pytest.warns(UserWarning, match="unembed.hook_out"),
    ):
        patch_positions(tiny, PAIRS[:1])
    assert largest <= 5 + 2


def test_latent_steps_unembed_nothing(tiny):
    fired = []
    with (
        torch.no_grad(),
        tiny.model.hooks(fwd_hooks=[("unembed.hook_in", lambda x, hook: fired.append(1))]),
    ):
        run_batch(tiny, [PAIRS[0].clean.question], [Run(0)], 3)
    assert not fired


def test_half_precision_is_measured_in_float32(tmp_path):
    folder = write_tiny(tmp_path, spread=0.1)  # a model that amplifies rounding little
    one, other = (
        patch_positions(HookedCodi.from_pretrained(folder, dtype=dtype), PAIRS[:1])
        for dtype in (torch.float32, torch.bfloat16)
    )
    for name in ("kl_divergence", "l2_difference", "clean_answer_score"):
        assert other.metrics[name].dtype == torch.float32
    torch.testing.assert_close(
        other.metrics["logprob_clean"], one.metrics["logprob_clean"], atol=0.2, rtol=0
    )
    # bfloat16 has 8 bits: a log-probability that it rounded itself would be a multiple of 2⁻⁶ here.
    assert (other.metrics["logprob_clean"] % 2**-6).abs().max() > 1e-4
