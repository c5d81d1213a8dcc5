"""HookedCodi answers what a TransformerLens user asks of a model: calls, labels, hooks in both passes, gradients."""

from functools import partial

import pytest
import torch

from codi_lens import HookedCodi, Site
from codi_lens.model.hooks import HookNeverFired, ablate, add, capture, replace
from tests.models.tiny import tiny_config, write_tiny

QUESTION = "The answer is: 12 plus 34?"
BATCH = [QUESTION, "one plus 2?", "5 plus 6 plus 7 plus two plus one?"]
ANSWERS = [4, 1234, 56]
NAME = "blocks.1.hook_resid_post"
STEPS = ("prompt", "bot", 0, 1, 2, "eot", "answer")
POINTS = (
    "hook_embed",
    "blocks.0.ln1.hook_scale",
    "blocks.0.attn.hook_k",
    "blocks.1.attn.hook_v",
    "blocks.1.attn.hook_rot_q",
    "blocks.1.attn.hook_attn_scores",
    "blocks.1.attn.hook_pattern",
    "blocks.1.attn.hook_z",
    "blocks.1.mlp.hook_post",
    "blocks.2.hook_resid_post",
    "ln_final.hook_normalized",
)


def test_calling_it_gives_the_logits_that_run_with_cache_gives(tiny):
    assert torch.equal(tiny(BATCH), tiny.run_with_cache(BATCH)[0])
    assert torch.equal(tiny(BATCH, ANSWERS), tiny.run_with_cache(BATCH, ANSWERS)[0])
    fewer = tiny.run_with_cache(QUESTION, num_latents=1)[0]
    assert torch.equal(tiny(QUESTION, num_latents=1), fewer)


# -- labels --------------------------------------------------------------------------------------


def test_every_position_has_its_label(tiny):
    labels = tiny.to_str_tokens("one plus 2?", 45)
    prompt = ["<bos>", "one", " plus", " ", "2", "?"]
    answer = ["The", " answer", " is", ":", " ", "45"]
    assert labels == [*prompt, "<bot>", "z0", "z1", "z2", "<eot>", *answer]


@pytest.mark.parametrize("answer", [None, 1234])
@pytest.mark.parametrize("remove_eos", [True, False])
def test_there_are_as_many_labels_as_positions_and_steps_are_where_they_say(
    tmp_path, remove_eos, answer
):
    folder = write_tiny(tmp_path, config=tiny_config(remove_eos=remove_eos))
    codi = HookedCodi.from_pretrained(folder)
    labels = codi.to_str_tokens(QUESTION, answer, num_latents=2)
    _, cache = codi.run_with_cache(QUESTION, answer, num_latents=2)
    assert len(labels) == cache["hook_embed"].shape[1]
    at = {step: labels[positions] for step, positions in cache.positions.items()}
    assert (at["bot"], at[0], at[1]) == (["<bot>"], ["z0"], ["z1"])
    assert at["eot"] == (["<eot>"] if remove_eos else ["<eot>", "<eos>"])
    assert at["prompt"][-1] == ("?" if remove_eos else "<eos>")
    said = "".join(at["answer"]).replace("<unk>", "")
    assert said == ("The answer is: 1234" if answer else codi.generate(QUESTION, num_latents=2))


# -- hooks in the loop and in the cached pass ----------------------------------------------------


def in_both(codi, hooks, **options):
    """The answer's logits of run_with_hooks, and those of run_with_cache, under the same hooks."""
    run = codi.run_with_hooks(BATCH, ANSWERS, fwd_hooks=hooks, **options)
    logits, cache = codi.run_with_cache(BATCH, ANSWERS, fwd_hooks=hooks, **options)
    start = cache.positions["eot"].stop - 1
    for row, tokens in enumerate(run.answer_tokens):  # behind a row's answer is padding
        width = 1 + len(tokens)
        yield run.logits[row, :width], logits[row, start : start + width]


@pytest.mark.parametrize("name", POINTS)
def test_run_with_cache_and_run_with_hooks_agree_under_the_same_hooks(tiny, name):
    plain = tiny.run_with_hooks(BATCH, ANSWERS).logits
    for step in STEPS:
        for hook in (lambda activation, hook: activation * 1.5, replace(torch.tensor(0.25))):
            hooks = [((name, step), hook)]
            for expected, found in in_both(tiny, hooks):
                torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    bare = [(name, lambda activation, hook: activation * 1.5)]
    for expected, found in in_both(tiny, bare, num_latents=2):
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    assert not torch.equal(tiny.run_with_hooks(BATCH, ANSWERS, fwd_hooks=bare).logits, plain)


def test_a_hook_sees_in_the_cached_pass_what_it_sees_in_the_loop(tiny):
    for name in POINTS:
        for step in STEPS:
            seen, expected = [], []
            tiny.run_with_cache(BATCH, ANSWERS, fwd_hooks=[((name, step), capture(seen))])
            tiny.run_with_hooks(BATCH, ANSWERS, fwd_hooks=[((name, step), capture(expected))])
            real = slice(None) if step != "prompt" else slice(2, None)  # the row without padding
            torch.testing.assert_close(seen[-1][real], expected[0][real], atol=1e-9, rtol=0)


def test_the_cache_holds_what_the_hooks_leave(tiny):
    hooks = [((NAME, [0, 2]), ablate())]
    _, cache = tiny.run_with_cache(QUESTION, 45, fwd_hooks=hooks)
    kept = cache["resid_post", 1]
    for step in range(3):
        assert bool(kept[:, cache.positions[step]].any()) is (step == 1)


def test_the_own_answer_is_decoded_under_the_hooks(tiny):
    big = torch.linspace(-3, 3, 32, dtype=torch.float64)
    hooks = [((NAME, 1), add(big))]
    run = tiny.run_with_hooks(BATCH, fwd_hooks=hooks)
    texts = [tiny.tokens.text(ids) for ids in run.answer_tokens]
    assert texts == tiny.generate(BATCH, fwd_hooks=hooks) != tiny.generate(BATCH)
    assert run.logits.shape[1] == 1 + max(map(len, run.answer_tokens))
    logits, cache = tiny.run_with_cache(BATCH, fwd_hooks=hooks)
    start = cache.positions["eot"].stop - 1
    for row, tokens in enumerate(run.answer_tokens):
        own = run.logits[row, : 1 + len(tokens)]
        torch.testing.assert_close(own, logits[row, start : start + len(own)], atol=1e-9, rtol=0)
        own = own.clone()
        own[:, tiny.ids.eot] = -torch.inf
        assert own[: len(tokens)].argmax(-1).tolist() == list(tokens)


def test_a_list_of_steps_is_each_of_them(tiny):
    several = tiny.run_with_hooks(QUESTION, 45, fwd_hooks=[(Site(NAME, ["bot", 0, 2]), ablate())])
    each = [((NAME, step), ablate()) for step in ("bot", 0, 2)]
    assert torch.equal(several.logits, tiny.run_with_hooks(QUESTION, 45, fwd_hooks=each).logits)
    off = Site("blocks.0.attn.hook_result", [0, 1])
    with pytest.raises(HookNeverFired, match="step 0"):
        tiny.run_with_hooks(QUESTION, 45, fwd_hooks=[(off, ablate())])


# -- gradients -----------------------------------------------------------------------------------


def score(run):
    return run.logits[0, -2, 7] - run.logits[0, -2, 11]


def shift(activation, hook, by):
    return activation + by


def gradients(codi, sites, fwd_hooks=()):
    seen = {}

    def keep(site):
        return lambda gradient, hook: seen.__setitem__(site, gradient.clone())

    hooks = [(site, keep(site)) for site in sites]
    score(codi.run_with_hooks(QUESTION, 45, fwd_hooks=fwd_hooks, bwd_hooks=hooks)).backward()
    return seen


@pytest.mark.parametrize("name", ["hook_embed", NAME, "blocks.1.attn.hook_z"])
def test_a_backward_hook_gets_the_gradient_of_finite_differences(tiny, name):
    sites = [(name, step) for step in ("prompt", 0, 2)]
    found = gradients(tiny, sites)
    assert set(found) == set(sites)
    for site, gradient in found.items():
        toward = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0)).double()
        above, below = (
            score(tiny.run_with_hooks(QUESTION, 45, fwd_hooks=[(site, partial(shift, by=by))]))
            for by in (1e-5 * toward, -1e-5 * toward)
        )
        estimate = float(above - below) / 2e-5
        assert float((gradient * toward).sum()) == pytest.approx(estimate, rel=1e-5)
        assert abs(estimate) > 1e-3


def test_a_backward_hook_gets_the_gradient_of_what_forward_hooks_leave(tiny):
    """Halving an activation leaves the gradient of the half; what comes before gets half of that."""
    half = [((NAME, 1), lambda activation, hook: activation / 2)]
    site, before = (NAME, 1), ("blocks.1.hook_mlp_out", 1)
    found = gradients(tiny, [site, before], half)
    torch.testing.assert_close(found[before], found[site] / 2, atol=1e-12, rtol=0)


def test_what_a_backward_hook_returns_takes_the_gradients_place(tiny):
    seen = []
    hooks = [
        ((NAME, 2), lambda gradient, hook: gradient * 0),
        (("blocks.1.hook_mlp_out", 2), lambda gradient, hook: seen.append(gradient)),
    ]
    score(tiny.run_with_hooks(QUESTION, 45, bwd_hooks=hooks)).backward()
    assert not seen[0].any()
    assert not any(p._backward_hooks for p in tiny.model.hook_dict.values())


def test_the_gradients_of_loop_and_cached_pass_sum_to_that_of_the_run(tiny):
    site, parts = (NAME, 1), []
    expected = gradients(tiny, [site])[site]
    hooks = [(site, lambda gradient, hook: parts.append(gradient.clone()))]
    logits, cache = tiny.run_with_cache(QUESTION, 45, bwd_hooks=hooks)
    end = cache.positions["answer"].stop
    (logits[0, end - 2, 7] - logits[0, end - 2, 11]).backward()
    assert len(parts) == 2
    torch.testing.assert_close(sum(parts), expected, atol=1e-9, rtol=0)


# -- reprs ---------------------------------------------------------------------------------------


def test_reprs_are_one_line(tiny, tiny_folder):
    assert repr(tiny) == (
        f"HookedCodi({str(tiny_folder)!r}, 3 layers, d_model 32, 3 latent steps, float64 on cpu)"
    )
    run = tiny.run_with_hooks(BATCH, ANSWERS)
    shape = list(run.logits.shape)
    assert repr(run) == f"CodiRun(3 batch rows, 3 latent steps, logits {shape})"
