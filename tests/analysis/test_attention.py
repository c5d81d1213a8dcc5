"""Attention of steps against softmax(q k / √d) written out, and its sums over groups."""

import pytest
import torch

from codi_lens import UserError, Variant, attention_of, mean_attention
from codi_lens.analysis.positions import positions_of
from tests.laws import plain
from tests.models.architectures import MODELS, load

QUESTIONS = [Variant("one plus 2 plus 34?", 6), Variant("12 plus 31?", 4315), Variant("one?", 7)]


@pytest.fixture(scope="module", params=["llama, grouped", "gpt2"])
def codi(request, tmp_path_factory):
    return load(MODELS[request.param], tmp_path_factory.mktemp("attention"))


@pytest.fixture(scope="module")
def cache(codi):
    """Of three questions of unequal length, so padded on both sides."""
    return codi.run_with_cache([q.question for q in QUESTIONS], [q.answer for q in QUESTIONS])[1]


def rotated(x):
    """[pos, head, d_head], rotated by its position: halves of a vector are pairs (Su et al. 2021, as in LLaMA)."""
    half = x.shape[-1] // 2
    angles = torch.arange(len(x))[:, None] * 10000.0 ** (-torch.arange(half).double() / half)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    return torch.cat(
        [x[..., :half] * cos - x[..., half:] * sin, x[..., half:] * cos + x[..., :half] * sin], -1
    )


def written_out(codi, asked):
    """[layer, head, pos, pos] of one question alone, from the residual stream of a plain run."""
    model, tokens = codi.model, codi.tokens.answer(asked.answer)
    kept, patterns = plain.run(codi, asked.question, tokens).kept, []
    rotary = model.cfg.positional_embedding_type == "rotary"
    for layer, block in enumerate(model.blocks):
        x = kept[f"blocks.{layer}.hook_resid_pre"][0]
        x = x if rotary else x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + model.cfg.eps).sqrt() * block.ln1.w
        x = x if rotary else x + block.ln1.b
        own = block.attn.state_dict()
        prefix = "_" if "_W_K" in own else ""
        q = torch.einsum("pm,hmd->phd", x, own["W_Q"]) + own["b_Q"]
        k = torch.einsum("pm,hmd->phd", x, own[f"{prefix}W_K"]) + own[f"{prefix}b_K"]
        q, k = (rotated(q), rotated(k)) if rotary else (q, k)
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        scores = torch.einsum("phd,shd->hps", q, k) / q.shape[-1] ** 0.5
        later = torch.ones(scores.shape[1:]).triu(1).bool()
        patterns.append(scores.masked_fill(later, -torch.inf).softmax(-1))
    return torch.stack(patterns)


def test_weights_are_the_softmax_written_out(codi, cache):
    for row, asked in enumerate(QUESTIONS):
        expected = written_out(codi, asked)
        found = attention_of(codi, cache, asked.question, asked.answer, row=row)
        labels = codi.to_str_tokens(asked.question, asked.answer)
        assert list(found.positions.labels) == labels
        at = [labels.index(name) for name in ("<bot>", "z0", "z1", "z2", "<eot>")]
        at.append(
            len(labels) - len(codi.tokens.answer(asked.answer)[len(codi.tokens.stem()) :]) - 1
        )
        assert found.steps == ("bot", 0, 1, 2, "eot", "answer")
        torch.testing.assert_close(found.weights, expected[:, :, at], atol=1e-9, rtol=0)
        torch.testing.assert_close(found.of(1, 2), expected[1, 2, at], atol=1e-9, rtol=0)
        torch.testing.assert_close(found.of(layer=0), expected[0].mean(0)[at], atol=1e-9, rtol=0)
        torch.testing.assert_close(found.of(), expected.mean((0, 1))[at], atol=1e-9, rtol=0)


def test_a_group_has_the_sum_of_its_tokens_and_all_sum_to_one(codi, cache):
    parts = [
        attention_of(codi, cache, asked.question, asked.answer, row=row)
        for row, asked in enumerate(QUESTIONS)
    ]
    mean = mean_attention(codi, QUESTIONS)
    sums = torch.zeros_like(mean.weights)
    for one in parts:
        for g, group in enumerate(one.groups):
            own = [i for i, name in enumerate(one.positions.groups) if name == group]
            torch.testing.assert_close(one.by_group()[..., g], one.weights[..., own].sum(-1))
            sums[..., mean.groups.index(group)] += one.weights[..., own].sum(-1)
    torch.testing.assert_close(mean.weights, sums / 3, atol=1e-9, rtol=0)
    torch.testing.assert_close(mean.weights.sum(-1), torch.ones_like(mean.weights[..., 0]))
    assert (mean.n, mean.steps) == (3, parts[0].steps)


def test_groups_are_those_of_the_labels(codi):
    found = positions_of(codi, QUESTIONS[0].question, 6)
    bos = [("<bos>", "frame")] if codi.tokens.bos else []
    named = {name.strip(): group for name, group in zip(found.labels, found.groups, strict=True)}
    assert [*zip(found.labels, found.groups, strict=True)][: len(bos)] == bos
    assert {"2": "numbers", "34": "numbers", "one": "words", "?": "words"}.items() <= named.items()
    assert {"<bot>": "bot", "z0": "z0", "z2": "z2", "<eot>": "eot", "answer": "answer"}.items() <= (
        named.items()
    )
    assert found.labels[found.read_at + 1].strip() == "6"


def test_the_most_attended_tokens_are_the_largest_weights_with_their_labels(codi, cache):
    asked = QUESTIONS[1]
    found = attention_of(codi, cache, asked.question, asked.answer, row=1)
    top = found.most_attended(layer=1, head=3, count=4)
    for step, listed in top.items():
        weights = found.of(1, 3)[found.steps.index(step)]
        assert [one.weight for one in listed] == weights.topk(4).values.tolist()
        for one in listed:
            assert float(weights[one.position]) == one.weight
            assert found.positions.labels[one.position] == one.label
    short = found.most_attended(count=99, leave_out=("frame", "numbers", "words"))
    assert {one.label for one in short[1]} == {"<bot>", "z0", "z1"}


def test_the_answer_is_the_models_own_if_none_is_given(codi):
    question = QUESTIONS[0].question
    _, cache = codi.run_with_cache(question, num_latents=2)
    found = attention_of(codi, cache, question, steps=["prompt", 1, "eot"])
    assert list(found.positions.labels) == codi.to_str_tokens(question, num_latents=2)
    assert found.weights.shape[2:] == (3, len(found.positions.labels))
    prompt = attention_of(codi, cache.remove_batch_dim(), question, steps=["prompt"])
    torch.testing.assert_close(prompt.weights, found.weights[:, :, :1])


def test_what_is_not_there_is_refused(codi, cache):
    asked = QUESTIONS[0]
    with pytest.raises(UserError, match=r"the cache has .* give those that the cache was made of"):
        attention_of(codi, cache, asked.question, asked.answer, row=1)
    with pytest.raises(UserError, match="no step 3 in this sequence; it has prompt, bot, 0, 1, 2"):
        attention_of(codi, cache, asked.question, asked.answer, steps=[3])
    found = attention_of(codi, cache, asked.question, asked.answer)
    with pytest.raises(UserError, match="no layer 2; layers are 0 to 1"):
        found.of(2)
    with pytest.raises(UserError, match="no group 'bos'; known are frame"):
        found.most_attended(leave_out=["bos"])
    with pytest.raises(UserError, match="no questions"):
        mean_attention(codi, [])
