"""What a hook, a thread or a foreign hook can reach: its own run, and nothing that is kept or shared."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from codi_lens import (
    Site,
    patch_positions,
)
from codi_lens.model.hooks import ablate
from codi_lens.records.read import load
from codi_lens.records.write import write_record
from tests.models.runs import PAIRS

QUESTIONS = ["The answer is: 12 plus 34?", "one plus 2?", "5 plus 6 plus 7?"]


NAME = "blocks.1.hook_resid_post"


@pytest.fixture
def own(tiny):
    """A model that a test may leave hooks on."""
    return copy.deepcopy(tiny)


@pytest.mark.parametrize(
    "name", ["hook_embed", "blocks.0.hook_resid_pre", NAME, "ln_final.hook_normalized"]
)
def test_a_hook_that_writes_in_place_reaches_the_run_and_nothing_that_is_kept(tiny, name):
    """In place or in a copy: the same run, and what came before the hook is as it was."""

    def in_place(activation, hook):
        activation[:, -1] = 0
        return activation

    plain = tiny.run_with_hooks(QUESTIONS[0], 45)
    for step in range(3):
        found, expected = (
            tiny.run_with_hooks(QUESTIONS[0], 45, fwd_hooks=[(Site(name, step), hook)])
            for hook in (in_place, ablate())
        )
        for field in ("logits", "thoughts", "final_states"):
            assert torch.equal(getattr(found, field), getattr(expected, field)), (step, field)
        kept = (found.thoughts[:, : step + 1], plain.thoughts[:, : step + 1])
        torch.testing.assert_close(*kept, atol=0, rtol=0)


def test_a_copy_is_out_of_reach_of_another_copys_hooks(tiny):
    def in_place(activation, hook):
        activation.zero_()

    state = tiny.think(QUESTIONS, 1)
    other, expected = state.copy(), tiny.think(QUESTIONS, 2).thoughts
    plan = tiny.loop.plan([(Site("hook_embed", 1), in_place)], 2)
    tiny.loop.latent_step(other, 1, plan)
    tiny.loop.latent_step(state, 1)
    for found, thought in zip(state.thoughts, expected, strict=True):
        assert torch.equal(found, thought)


def test_threads_share_a_model_without_touching_each_others_runs(tiny):
    def run(i):
        hooks = [(Site(NAME, 1), ablate())] if i % 2 else []
        return tiny.run_with_hooks(QUESTIONS[i % 3], 45, fwd_hooks=hooks).logits

    expected = [run(i) for i in range(6)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(run, [i % 6 for i in range(36)]))
    for i, logits in enumerate(found):  # a thread may sum in another order than the first one's
        torch.testing.assert_close(logits, expected[i % 6], atol=1e-12, rtol=1e-12)


def test_a_hook_may_start_a_run_and_other_threads_wait_for_it(tiny):
    seen = []

    def asks(activation, hook):
        seen.append(tiny.generate(QUESTIONS[1], max_new_tokens=2))

    threads = [
        threading.Thread(
            target=tiny.run_with_hooks,
            args=(QUESTIONS[0], 45),
            kwargs={"fwd_hooks": [(NAME, asks)]},
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(seen)) == 1
    assert len(seen) == 14  # seven steps, in both threads


def test_a_sweep_names_foreign_hooks_and_its_record_keeps_them(own, tmp_path):
    clean = patch_positions(own, PAIRS[:2])
    assert clean.foreign_hooks == ()
    own.model.add_hook(NAME, lambda activation, hook: activation * 0.5)
    own.projection.register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match=r"blocks\.1\.hook_resid_post, projection"):
        left = patch_positions(own, PAIRS[:2])
    assert not torch.equal(left.values("logit_diff"), clean.values("logit_diff"))
    write_record(tmp_path, left, own, {}, pages={}, planned=2)
    assert load(tmp_path).foreign_hooks == (NAME, "projection")
