"""Mistakes that published work has made with these checkpoints: each is impossible here, or refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import processors

from codi_lens import HookedCodi, Site, UserError
from codi_lens.checkpoint.config import CONFIG_NAME
from codi_lens.checkpoint.tensor_files import SAFETENSORS, CheckpointError
from codi_lens.data.answers import answer_tokens
from tests.models.tiny import TARGETS, PlainCodi, tiny_tokenizer

QUESTION, OTHER = "one plus two?", "two plus two plus two?"
LAST = 2  # the last layer of the tiny model


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "tiny")


def configure(folder, **values):
    path = folder / CONFIG_NAME
    known = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in known.items() if value is not None}))


class TestLoadingInPart:
    """`load_state_dict(strict=False)` with alpha 16, four LoRA targets and no projection."""

    def test_four_targets_of_seven(self, folder):
        configure(folder, lora_targets=TARGETS[:4])
        with pytest.raises(CheckpointError, match=r"adapters found for .*'up_proj'.*; expected \["):
            HookedCodi.from_pretrained(folder)

    def test_no_projection(self, folder):
        configure(folder, has_projection=False, projection_dim=None, projection_layer_norm=None)
        with pytest.raises(CheckpointError, match=r"prj\.\* keys found; expected none"):
            HookedCodi.from_pretrained(folder)

    def test_no_alpha_stands_in_for_one_that_is_not_given(self, folder):
        configure(folder, lora_alpha=None)
        with pytest.raises(UserError, match=r"no value for lora_alpha, .* pass alpha=…"):
            HookedCodi.from_pretrained(folder)

    def test_the_alpha_given_is_the_one_used(self, folder):
        plain = PlainCodi(folder, load_file(folder / SAFETENSORS), tiny_settings(folder, 16.0))
        codi = HookedCodi.from_pretrained(folder, alpha=16.0, dtype=torch.float64)
        expected = plain.run(QUESTION, codi.tokens.answer(5), 3)["logits"]
        assert (codi.run_with_hooks(QUESTION, 5).logits[0] - expected).abs().max() < 1e-10
        trained = HookedCodi.from_pretrained(folder, dtype=torch.float64)
        assert (trained.run_with_hooks(QUESTION, 5).logits[0] - expected).abs().max() > 0.1


def tiny_settings(folder, alpha):
    return HookedCodi.from_pretrained(folder, alpha=alpha).config


class TestPlaceholdersInsteadOfThoughts:
    """Pad tokens in place of latents, in one forward pass: no recurrence, and "iterative" = "parallel"."""

    def test_what_is_fed_is_the_projected_final_state_of_the_step_before(self, tiny):
        fed = []
        hooks = [
            (Site("hook_embed", k), lambda x, hook: fed.append(x[0, 0].clone())) for k in range(3)
        ]
        run = tiny.run_with_hooks(QUESTION, 5, fwd_hooks=hooks)
        for k in range(3):
            assert torch.equal(fed[k], tiny.projection(run.final_states[0, k]))
            # … and no token's embedding.
            assert (tiny.model.W_E - fed[k]).norm(dim=-1).min() > 0.1

    def test_a_patch_at_one_thought_changes_the_thoughts_after_it(self, tiny):
        base = tiny.run_with_hooks(QUESTION, 5)
        patched = tiny.run_with_hooks(QUESTION, 5, fwd_hooks=[(_post(0, LAST), _scale)])
        changed = (patched.thoughts - base.thoughts).abs().amax(dim=-1)[0]
        assert changed[0] == 0  # z_0 was there before latent 0 was patched
        assert (changed[1:] > 1e-3).all()

    def test_the_last_layer_is_not_without_effect_by_construction(self, tiny):
        base = tiny.run_with_hooks(QUESTION, 5).logits
        for step in range(2):
            hooks = [(_post(step, LAST), _scale)]
            patched = tiny.run_with_hooks(QUESTION, 5, fwd_hooks=hooks).logits
            assert (patched - base).abs().max() > 1e-3
        # At the last latent it is: the state there feeds only the thought that nobody reads.
        hooks = [(_post(2, LAST), _scale)]
        assert torch.equal(tiny.run_with_hooks(QUESTION, 5, fwd_hooks=hooks).logits, base)

    def test_all_at_once_is_not_one_after_the_other(self, tiny):
        """The state at latent 1 depends on what was patched at latent 0."""
        states = []
        hooks = [(_post(1, 1), lambda x, hook: states.append(x.clone()))]
        tiny.run_with_hooks(QUESTION, 5, fwd_hooks=hooks)
        tiny.run_with_hooks(QUESTION, 5, fwd_hooks=[(_post(0, 1), _scale), *hooks])
        assert (states[0] - states[1]).abs().max() > 1e-3


def _post(step, layer):
    return Site(f"blocks.{layer}.hook_resid_post", step)


def _scale(activation, hook):
    return activation * 2 + 1


class TestReadingTheAnswerAtEot:
    """The logits at eot predict the stem's first word, "The", and not the number."""

    def test_logits_are_labelled_by_the_token_that_they_predict(self, tiny):
        run = tiny.run_with_hooks(QUESTION, 3600)
        tokens = answer_tokens(tiny.tokens.tokenizer, tiny.config.answer_stem, 3600)
        assert len(tokens.answer) == 2
        assert run.answer_tokens == ((*tokens.stem, *tokens.answer),)
        assert run.logits.shape[1] == 1 + len(tokens.stem) + len(tokens.answer)

    def test_the_number_is_predicted_behind_the_stem(self, tiny):
        """What comes before a number's first token does not know which number is forced."""
        stem = len(answer_tokens(tiny.tokens.tokenizer, tiny.config.answer_stem, 5).stem)
        one, other = (tiny.run_with_hooks(QUESTION, answer).logits[0] for answer in (5, 7))
        assert torch.equal(one[: stem + 1], other[: stem + 1])
        assert (one[stem + 1] - other[stem + 1]).abs().max() > 1e-3
        # Nor is the position behind the stem another reading of eot.
        assert (one[stem] - one[0]).abs().max() > 1e-3


class TestPrompt:
    """A prompt without BOS, or in a chat template, is not what the model was trained on."""

    def test_begins_with_one_bos_and_ends_with_bot(self, tiny):
        tokenizer = tiny.tokens.tokenizer
        bos = tokenizer.bos_token_id
        prompt = tiny.tokens.prompt(QUESTION)
        assert prompt[0] == bos
        assert prompt.count(bos) == 1
        assert prompt[1:-1] == tokenizer.encode(QUESTION, add_special_tokens=False)
        assert prompt[-1] == tiny.ids.bot

    def test_bos_is_put_there_where_the_tokenizer_does_not(self, folder):
        expected = HookedCodi.from_pretrained(folder).tokens.prompt(QUESTION)
        tokenizer = tiny_tokenizer()
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()
        tokenizer.save_pretrained(folder)
        codi = HookedCodi.from_pretrained(folder)
        assert codi.tokens.tokenizer(QUESTION)["input_ids"][0] != codi.tokens.tokenizer.bos_token_id
        assert codi.tokens.prompt(QUESTION) == expected

    def test_a_chat_template_is_not_applied(self, folder):
        expected = HookedCodi.from_pretrained(folder).tokens.prompt(QUESTION)
        path = folder / "tokenizer_config.json"
        template = {"chat_template": "one one one {{ messages[0]['content'] }}"}
        path.write_text(json.dumps(json.loads(path.read_text()) | template))
        codi = HookedCodi.from_pretrained(folder)
        assert codi.tokens.tokenizer.chat_template
        assert codi.tokens.prompt(QUESTION) == expected


def test_heads_are_not_slices_of_what_o_proj_gives(tiny):
    """A head's output is hook_z; o_proj mixes all heads into every coordinate of its output."""
    _, cache = tiny.run_with_cache(QUESTION, 5, names_filter=lambda name: ".1." in name)
    z, out = cache["blocks.1.attn.hook_z"], cache["blocks.1.hook_attn_out"]
    heads = torch.einsum("bphd,hdm->bphm", z, tiny.model.W_O[1])
    assert (heads.sum(dim=2) - out).abs().max() < 1e-10
    d_head = tiny.model.cfg.d_head
    for head in range(tiny.model.cfg.n_heads):
        own = slice(head * d_head, (head + 1) * d_head)
        # Outside "its" slice the head writes as well, and inside it others do.
        outside = torch.cat([heads[:, :, head, : own.start], heads[:, :, head, own.stop :]], dim=-1)
        assert outside.abs().max() > 1e-2
        assert (heads[:, :, head, own] - out[..., own]).abs().max() > 1e-2


class TestBranches:
    """Cache objects changed in place: one branch's patch leaks into the next."""

    def test_a_run_leaves_nothing_behind(self, tiny):
        before = tiny.run_with_hooks(QUESTION, 5).logits
        tiny.run_with_hooks(QUESTION, 5, fwd_hooks=[(_post(0, 0), _scale)])
        assert torch.equal(tiny.run_with_hooks(QUESTION, 5).logits, before)

    def test_copies_of_one_state_do_not_see_each_other(self, tiny):
        state = tiny.think([QUESTION], 3)
        kept = [
            (entry.past_keys.clone(), entry.past_values.clone()) for entry in state.cache.entries
        ]
        end, answer = torch.tensor([tiny.tokens.end()]), torch.tensor([tiny.tokens.answer(5)])
        logits = []
        for disturb in (False, True, False):
            branch = state.copy()
            hooks = [("blocks.0.hook_resid_post", _scale)] if disturb else []
            tiny.loop.feed_tokens(branch, end, hooks)
            logits.append(tiny.loop.feed_tokens(branch, answer))
        assert torch.equal(logits[0], logits[2])
        assert (logits[0] - logits[1]).abs().max() > 1e-3
        assert state.cache.entries[0].past_keys.shape[1] == state.mask.shape[1]
        for entry, (keys, values) in zip(state.cache.entries, kept, strict=True):
            assert torch.equal(entry.past_keys, keys)
            assert torch.equal(entry.past_values, values)


class TestFinalNorm:
    """TransformerLens fires `ln_final.hook_normalized` before the gain; the projection reads after it."""

    def test_the_projection_reads_the_state_with_the_gain(self, tiny):
        normalized = []
        hooks = [
            (
                Site("ln_final.hook_normalized", 1),
                lambda x, hook: normalized.append(x[0, 0].clone()),
            )
        ]
        run = tiny.run_with_hooks(QUESTION, 5, fwd_hooks=hooks)
        final, gain = run.final_states[0, 2], tiny.model.ln_final.w
        assert (normalized[0] * gain - final).abs().max() < 1e-12
        assert (normalized[0] - final).abs().max() > 1e-2
        assert torch.equal(tiny.projection(final), run.thoughts[0, 2])
        assert (tiny.projection(normalized[0]) - run.thoughts[0, 2]).abs().max() > 1e-3

    def test_the_gain_is_not_folded_away(self, tiny, tiny_folder):
        gain = load_file(tiny_folder / SAFETENSORS)["codi.base_model.model.model.norm.weight"]
        assert torch.equal(tiny.model.ln_final.w, gain.double())
        assert (gain - 1).abs().max() > 0.05


def test_padding_is_masked_at_every_step(tiny, tiny_folder):
    """The official batched evaluation drops the mask after the prompt; batch 1 is what counts."""
    questions, answers = [QUESTION, OTHER], [5, 3600]
    run = tiny.run_with_hooks(questions, answers)
    plain = PlainCodi(tiny_folder, load_file(tiny_folder / SAFETENSORS), tiny.config)
    for row, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        tokens = tiny.tokens.answer(answer)
        expected = plain.run(question, tokens, 3)
        found = run.logits[row, : 1 + len(tokens)]
        assert (found - expected["logits"]).abs().max() < 1e-10
        assert (run.thoughts[row] - expected["thoughts"]).abs().max() < 1e-10
    assert tiny.generate(questions) == [tiny.generate(question) for question in questions]
