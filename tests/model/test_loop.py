"""The latent loop against an independent implementation, and the laws of its hooks."""

import pytest
import torch
from safetensors.torch import load_file

from codi_lens import HookedCodi, Site, UserError
from codi_lens.model.hooks import HookNeverFired, ablate, add, capture, replace
from tests.models.tiny import LLAMA3_ROPE, PlainCodi, tiny_config, write_tiny

QUESTION = "The answer is: 12 plus 34?"
BATCH = [QUESTION, "one plus 2?", "5 plus 6 plus 7 plus two plus one?"]
SHAPES = {
    "full heads": {"kv_heads": 4, "tied": False},
    "grouped heads, tied": {"kv_heads": 2, "tied": True},
    "single kv head": {"kv_heads": 1, "tied": True},
    "eos kept": {"config": tiny_config(remove_eos=False), "tied": False},
    "no layer norm": {"layer_norm": False, "seed": 3},
    "no projection": {"projection_dim": None, "config": tiny_config(has_projection=False)},
    "llama3 rope": {"rope": LLAMA3_ROPE},
}


@pytest.fixture(scope="module", params=SHAPES)
def both(request, tmp_path_factory):
    """A HookedCodi and the plain implementation of the same files."""
    folder = write_tiny(tmp_path_factory.mktemp("shape"), **SHAPES[request.param])
    codi = HookedCodi.from_pretrained(folder, dtype=torch.float64)
    plain = PlainCodi(folder, load_file(folder / "model.safetensors"), codi.config)
    # Both libraries take llama3's frequencies in float32, each with roundings of its own.
    return codi, plain, 2e-4 if "llama3" in request.param else 1e-9


def test_the_loop_is_that_of_plain_transformers(both):
    codi, plain, tolerance = both
    expected = plain.run(QUESTION, codi.tokens.answer(45), 3)
    run = codi.run_with_hooks(QUESTION, 45)
    torch.testing.assert_close(run.thoughts[0], expected["thoughts"], atol=tolerance, rtol=0)
    torch.testing.assert_close(
        run.final_states[0], expected["final_states"], atol=tolerance, rtol=0
    )
    torch.testing.assert_close(run.logits[0], expected["logits"], atol=tolerance, rtol=0)


def test_every_layer_at_every_step_is_that_of_plain_transformers(both):
    codi, plain, tolerance = both
    expected = plain.run(QUESTION, codi.tokens.answer(45), 3)
    _, cache = codi.run_with_cache(QUESTION, 45)
    layers = codi.model.cfg.n_layers
    residuals = torch.stack([cache["resid_pre", layer][0] for layer in range(layers)])
    torch.testing.assert_close(residuals, expected["hidden"][:layers], atol=tolerance, rtol=0)
    normed = codi.model.ln_final(cache["resid_post", layers - 1])[0]
    torch.testing.assert_close(normed, expected["hidden"][layers], atol=tolerance, rtol=0)


def test_greedy_tokens_are_those_of_plain_transformers(both):
    codi, plain, _ = both
    for question in BATCH:
        expected = plain.greedy(question, 3, 10)
        assert codi.generate(question, max_new_tokens=10) == codi.tokens.text(expected)


def test_greedy_answers_stop_at_eos_and_never_say_eot(tmp_path):
    texts = []
    for seed in range(6):
        folder = write_tiny(tmp_path / str(seed), seed=seed, layers=1)
        codi = HookedCodi.from_pretrained(folder, dtype=torch.float64)
        plain = PlainCodi(folder, load_file(folder / "model.safetensors"), codi.config)
        expected = [plain.greedy(question, 3, 40) for question in BATCH]
        texts += [ids for ids in expected if len(ids) < 40]
        ids = codi.decode(codi.think(BATCH, 3), max_new_tokens=40)
        assert ids == expected
        assert not any(codi.ids.eot in row or codi.ids.eos in row for row in ids)
    assert texts, "no answer of these models ended by itself, so stopping was not tested"


@pytest.mark.parametrize("latents", [0, 1, 3, 5])
def test_any_number_of_latents(both, latents):
    codi, plain, tolerance = both
    expected = plain.run(QUESTION, codi.tokens.answer(7), latents)
    run = codi.run_with_hooks(QUESTION, 7, num_latents=latents)
    assert run.thoughts.shape[1] == latents + 1
    torch.testing.assert_close(run.logits[0], expected["logits"], atol=tolerance, rtol=0)


def test_a_padded_batch_equals_batch_one(both):
    codi, _, _ = both
    answers = [4, 1234, 56]
    together = codi.run_with_hooks(BATCH, answers)
    for row, (question, answer) in enumerate(zip(BATCH, answers, strict=True)):
        alone = codi.run_with_hooks(question, answer)
        length = alone.logits.shape[1]
        for name, width in (("thoughts", 4), ("final_states", 4), ("logits", length)):
            batched = getattr(together, name)[row, :width]
            torch.testing.assert_close(batched, getattr(alone, name)[0], atol=1e-10, rtol=0)
    assert codi.generate(BATCH) == [codi.generate(question) for question in BATCH]


def test_the_cached_loop_equals_one_pass_over_the_whole_sequence(both):
    codi, _, _ = both
    answers = [4, 1234, 56]
    run = codi.run_with_hooks(BATCH, answers)
    logits, cache = codi.run_with_cache(BATCH, answers)
    end = cache.positions["eot"].stop - 1
    for row, tokens in enumerate(run.answer_tokens):
        spliced = logits[row, end : end + 1 + len(tokens)]
        torch.testing.assert_close(spliced, run.logits[row, : 1 + len(tokens)], atol=1e-10, rtol=0)
    for step in range(3):
        fed = cache["hook_embed"][:, cache.positions[step]][:, 0]
        torch.testing.assert_close(fed, run.thoughts[:, step], atol=0, rtol=0)
        state = codi.model.ln_final(cache["resid_post", 2])[:, cache.positions[step]][:, 0]
        torch.testing.assert_close(state, run.final_states[:, step + 1], atol=1e-10, rtol=0)


def test_the_cache_is_transformer_lens_own(tiny):
    logits, cache = tiny.run_with_cache(QUESTION, 45)
    length = logits.shape[1]
    assert cache["pattern", 0].shape == (1, 4, length, length)
    residuals, labels = cache.accumulated_resid(return_labels=True)
    assert residuals.shape[0] == len(labels) == 4
    parts = cache.decompose_resid(layer=3)
    torch.testing.assert_close(parts.sum(0), cache["resid_post", 2], atol=1e-10, rtol=0)
    ends = [cache.positions[step].stop for step in ("prompt", "bot", 0, 1, 2, "eot", "answer")]
    assert ends == sorted(ends)
    assert ends[-1] == length


def test_without_an_answer_the_cache_holds_the_greedy_one(tiny):
    logits, cache = tiny.run_with_cache(BATCH)
    assert logits.shape[1] == cache.positions["answer"].stop
    start = cache.positions["eot"].stop - 1
    for row, ids in enumerate(tiny.decode(tiny.think(BATCH, 3))):
        chosen = logits[row, start : start + len(ids)].clone()
        chosen[:, tiny.ids.eot] = -torch.inf
        assert chosen.argmax(-1).tolist() == ids


def test_a_hook_sees_the_positions_of_its_step(tiny):
    seen = {}

    def look(step):
        return (
            Site("blocks.1.hook_resid_post", step),
            lambda activation, hook: seen.__setitem__(step, tuple(activation.shape)),
        )

    tiny.run_with_hooks(
        QUESTION, 45, fwd_hooks=[look(s) for s in ("prompt", "bot", 1, "eot", "answer")]
    )
    prompt = len(tiny.tokens.prompt(QUESTION))
    answer = len(tiny.tokens.answer(45))
    shapes = {"prompt": prompt - 1, "bot": 1, 1: 1, "eot": 1, "answer": answer}
    assert seen == {step: (1, width, 32) for step, width in shapes.items()}


def test_a_bare_name_means_every_step_as_in_transformer_lens(tiny):
    seen: list[torch.Tensor] = []
    tiny.run_with_hooks(QUESTION, 45, fwd_hooks=[("blocks.0.hook_resid_pre", capture(seen))])
    assert len(seen) == 7  # prompt, bot, three latents, eot, answer


def test_hooks_that_leave_the_activation_change_nothing_and_others_do(tiny):
    plain = tiny.run_with_hooks(QUESTION, 45)
    site = Site("blocks.1.hook_resid_post", 1)
    left = tiny.run_with_hooks(QUESTION, 45, fwd_hooks=[(site, lambda activation, hook: None)])
    assert torch.equal(plain.logits, left.logits)
    zero = torch.zeros(32, dtype=torch.float64)
    added = tiny.run_with_hooks(QUESTION, 45, fwd_hooks=[(site, add(zero))])
    assert torch.equal(plain.logits, added.logits)
    for hook in (ablate(), add(zero + 1), replace(zero + 1)):
        changed = tiny.run_with_hooks(QUESTION, 45, fwd_hooks=[(site, hook)])
        assert (changed.logits - plain.logits).abs().max() > 1e-3


def test_a_patch_leaves_earlier_steps_bit_identical(tiny):
    plain = tiny.run_with_hooks(BATCH, [4, 5, 6])
    site = Site("blocks.0.hook_resid_post", 1)
    patched = tiny.run_with_hooks(BATCH, [4, 5, 6], fwd_hooks=[(site, ablate())])
    assert torch.equal(plain.thoughts[:, :2], patched.thoughts[:, :2])
    assert (plain.thoughts[:, 2:] - patched.thoughts[:, 2:]).abs().min(-1).values.max() > 0


def test_a_hook_touches_only_its_rows_and_never_the_callers_tensor(tiny):
    before: list[torch.Tensor] = []
    after: list[torch.Tensor] = []
    value = torch.full((32,), 0.5, dtype=torch.float64)
    site = Site("blocks.1.hook_resid_post", 1)
    hooks = [(site, capture(before)), (site, replace(value, rows=[1])), (site, capture(after))]
    tiny.run_with_hooks(BATCH, [4, 5, 6], fwd_hooks=hooks)
    assert torch.equal(before[0][[0, 2]], after[0][[0, 2]])
    assert torch.equal(after[0][1, -1], value)
    assert torch.equal(value, torch.full((32,), 0.5, dtype=torch.float64))


def test_replacing_the_last_layers_output_replaces_the_next_thought(tiny):
    """The last layer's resid_post at latent i is the input of latent i + 1, and nothing else."""
    value = torch.linspace(-1, 1, 32, dtype=torch.float64)
    patched = tiny.run_with_hooks(
        QUESTION, 45, fwd_hooks=[(Site("blocks.2.hook_resid_post", 1), replace(value))]
    )
    thought = tiny.projection(tiny.model.ln_final(value[None, None]))[0, 0]
    fed = tiny.run_with_hooks(QUESTION, 45, fwd_hooks=[(Site("hook_embed", 2), replace(thought))])
    torch.testing.assert_close(patched.logits, fed.logits, atol=1e-12, rtol=0)


def test_a_patch_is_that_of_a_forward_hook_in_plain_transformers(both):
    codi, plain, tolerance = both
    value = torch.linspace(-1, 1, 32, dtype=torch.float64)
    for layer, step in ((0, 0), (1, 1), (2, 1)):
        expected = plain.run(QUESTION, codi.tokens.answer(45), 3, patch=(layer, step, value))
        site = Site(f"blocks.{layer}.hook_resid_post", step)
        run = codi.run_with_hooks(QUESTION, 45, fwd_hooks=[(site, replace(value))])
        torch.testing.assert_close(run.logits[0], expected["logits"], atol=tolerance, rtol=0)


def hooks_left(codi: HookedCodi) -> int:
    return sum(len(p.fwd_hooks) + len(p._forward_hooks) for p in codi.model.hook_dict.values())


def test_no_hook_is_left_behind_even_after_an_exception(tiny):
    def broken(activation, hook):
        raise RuntimeError("broken on purpose")

    plain = tiny.run_with_hooks(QUESTION, 45)
    for step in ("prompt", "bot", 1, "eot", "answer"):
        with pytest.raises(RuntimeError, match="on purpose"):
            tiny.run_with_hooks(
                QUESTION, 45, fwd_hooks=[(Site("blocks.1.hook_resid_post", step), broken)]
            )
        assert hooks_left(tiny) == 0
    assert torch.equal(tiny.run_with_hooks(QUESTION, 45).logits, plain.logits)


@pytest.mark.parametrize(
    ("site", "message"),
    [
        (Site("blocks.7.hook_resid_post", 0), "no hook point matches 'blocks.7.hook_resid_post'"),
        (Site("blocks.0.hook_resid_post", 3), "no step 3; this run has .* latent steps 0..2"),
        (Site("blocks.0.hook_resid_post", "thought"), "no step 'thought'"),
    ],
)
def test_an_address_that_does_not_exist_is_an_error(tiny, site, message):
    with pytest.raises(UserError, match=message):
        tiny.run_with_hooks(QUESTION, 45, fwd_hooks=[(site, ablate())])


def test_a_hook_that_never_fires_is_an_error(tiny):
    site = Site("blocks.0.attn.hook_result", 0)  # off unless the config asks for it
    with pytest.raises(HookNeverFired, match="hook_result"):
        tiny.run_with_hooks(QUESTION, 45, fwd_hooks=[(site, ablate())])
    assert hooks_left(tiny) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda activation: activation[:, :, :4], "returned shape"),
        (lambda activation: activation.float(), "returned dtype torch.float32"),
    ],
)
def test_a_hook_that_returns_another_tensor_is_an_error(tiny, change, message):
    hook = (Site("blocks.0.hook_resid_post", 0), lambda activation, hook: change(activation))
    with pytest.raises(UserError, match=message):
        tiny.run_with_hooks(QUESTION, 45, fwd_hooks=[hook])
    assert hooks_left(tiny) == 0


def test_questions_that_cannot_be_asked(tiny):
    for question, message in (("  ", "empty"), ("The moon is?", "does not know every word")):
        with pytest.raises(UserError, match=message):
            tiny.generate(question)
    with pytest.raises(UserError, match="context has 256"):
        tiny.generate("1 plus " * 200)
    with pytest.raises(UserError, match="num_latents is -1"):
        tiny.generate(QUESTION, num_latents=-1)
    with pytest.raises(UserError, match="3 questions and 2 answers"):
        tiny.run_with_hooks(BATCH, [1, 2])
