"""Direct logit attribution against the same sums written out on a plain run, and against what sweeps report."""

import pytest
import torch

from codi_lens import Pair, UserError, Variant, attribute_logits, patch_layers
from codi_lens.patching.readout import READOUTS, before_difference
from tests.laws import plain
from tests.models.architectures import MODELS, load
from tests.patching.test_places import EQUAL

LATER = Pair(8, Variant("one plus two?", 1245), Variant("12 plus two?", 1263))
"""Its answers part at a later token; lengths differ."""
PAIRS = [*EQUAL, LATER]


@pytest.fixture(scope="module", params=["llama, grouped", "gpt2", "qwen3"])
def codi(request, tmp_path_factory):
    """With gains far from 1, and every bias that the architecture has far from 0."""
    codi = load(MODELS[request.param], tmp_path_factory.mktemp("gains"))
    generator = torch.Generator().manual_seed(0)
    has_biases = codi.model.cfg.normalization_type == "LN"
    for name, parameter in codi.model.named_parameters():
        drawn = torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype)
        if ".ln" in f".{name}" and name.endswith(".w"):
            parameter.copy_(0.5 + 3 * drawn)
        elif has_biases and name.split(".")[-1].startswith("b"):
            parameter.copy_(drawn - 0.5)
    return codi


def written_out(codi, question, fed, direction):
    """Components' parts, and (head, position) -> part, each a sum over the residual stream's dimensions."""
    model, ran = codi.model, plain.run(codi, question, fed)
    kept = {name: value[0] for name, value in ran.kept.items()}
    centred = model.cfg.normalization_type == "LN"
    final = kept[f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"][-1]
    final = final - final.mean() if centred else final
    scale = (final.square().mean() + model.cfg.eps).sqrt()

    def part(vector):
        vector = vector - vector.mean() if centred else vector
        return float((vector / scale * model.ln_final.w * direction).sum())

    parts, sources = {"embed": part(model.W_E[(codi.tokens.end() + list(fed))[-1]])}, {}
    if centred:
        parts["pos_embed"] = part(model.pos_embed.W_pos[len(final_positions(ran)) - 1])
        parts["ln_final bias"] = float(model.ln_final.b @ direction)
    for layer, block in enumerate(model.blocks):
        v, pattern = (kept[f"blocks.{layer}.attn.hook_{name}"] for name in ("v", "pattern"))
        shared = len(pattern) // v.shape[1]
        for head in range(len(pattern)):
            name = f"{layer}.{head}"
            parts[name] = part(kept[f"blocks.{layer}.attn.hook_z"][-1, head] @ block.attn.W_O[head])
            for position in range(len(v)):
                moved = pattern[head, -1, position] * v[position, head // shared]
                sources[name, position] = part(moved @ block.attn.W_O[head])
        mlp = kept[f"blocks.{layer}.hook_mlp_out"][-1]
        if centred:
            parts[f"attn{layer} bias"] = part(block.attn.b_O)
            parts[f"mlp{layer} bias"] = part(block.mlp.b_out)
            mlp = mlp - block.mlp.b_out
        parts[f"mlp{layer}"] = part(mlp)
    return ran, parts, sources


def final_positions(ran):
    return [position for step in ran.where.values() for position in step]


@pytest.mark.parametrize("side", ["clean", "corrupted"])
def test_parts_are_those_of_the_plain_sum_and_sum_to_the_logits_that_sweeps_read(codi, side):
    found = attribute_logits(codi, PAIRS, side=side)
    direction = {"clean": "noise", "corrupted": "denoise"}[side]
    sweep = patch_layers(codi, PAIRS, layers=[0], direction=direction)
    for i, pair in enumerate(PAIRS):
        answer = READOUTS["stem"].answer(codi, pair)
        t, fed = answer.first_difference, before_difference(answer)
        tokens = answer.clean[t], answer.corrupted[t]
        split = codi.model.W_U[:, tokens[0]] - codi.model.W_U[:, tokens[1]]
        ran, parts, sources = written_out(codi, getattr(pair, side).question, fed, split)
        bias = codi.model.b_U[tokens[0]] - codi.model.b_U[tokens[1]]
        if bool(codi.model.b_U.any()):
            parts["unembed bias"] = float(bias)
        assert set(found.components) == set(parts)
        for name, value in zip(found.components, found.parts[i].tolist(), strict=True):
            assert value == pytest.approx(parts[name], abs=1e-9), name
        groups = groups_by_hand(ran)
        for head, row in zip(found.heads, found.by_source[i].tolist(), strict=True):
            for coarse, positions in groups.items():
                fine = zip(found.groups, row, strict=True)
                own = sum(v for g, v in fine if g == coarse or (coarse == "prompt" and g in PROMPT))
                by_hand = sum(sources[head, position] for position in positions)
                assert own == pytest.approx(by_hand, abs=1e-9), (head, coarse)
        total = float(ran.logits[-1, tokens[0]] - ran.logits[-1, tokens[1]])
        assert float(found.totals[i]) == pytest.approx(total, abs=1e-9)
        reported = sweep.outcomes[i].base.metrics["logit_diff"]
        assert float(found.totals[i]) == pytest.approx(reported, abs=1e-9)
    assert found.error < 1e-9
    torch.testing.assert_close(found.mean().sum(), found.totals.mean(), atol=1e-9, rtol=0)


PROMPT = ("frame", "numbers", "words")


def groups_by_hand(ran):
    return {name if isinstance(name, str) else f"z{name}": own for name, own in ran.where.items()}


def test_heads_of_a_layer_sum_to_its_attention(codi):
    found = attribute_logits(codi, PAIRS)
    layers = found.by_layer()
    heads = codi.model.cfg.n_heads
    torch.testing.assert_close(
        layers.by_source, found.by_source.unflatten(1, (-1, heads)).sum(2), atol=1e-9, rtol=0
    )
    assert layers.heads == ("attn0", "attn1")
    for layer in layers.heads:
        at = layers.components.index(layer)
        whole = layers.by_source[:, layers.heads.index(layer)].sum(1)
        torch.testing.assert_close(layers.parts[:, at], whole, atol=1e-9, rtol=0)
    assert layers.error < 1e-9


def test_a_single_question_is_split_into_its_answers_logit(codi):
    asked = LATER.clean
    found = attribute_logits(codi, [asked])
    tokens = codi.tokens.answer(asked.answer)
    answer = READOUTS["stem"].answer(codi, LATER)
    run = codi.run_with_hooks(asked.question, asked.answer)
    stem = len(answer.stem)
    expected = run.logits[0, stem, tokens[stem]]
    torch.testing.assert_close(found.totals[0], expected, atol=1e-9, rtol=0)
    assert found.error < 1e-9
    assert found.unit == "logit of the answer"


def test_at_eot_it_is_what_sweeps_read_there(codi):
    found = attribute_logits(codi, PAIRS, answer_start="eot", num_latents=1)
    sweep = patch_layers(
        codi, PAIRS, layers=[0], direction="noise", answer_start="eot", num_latents=1
    )
    for total, outcome in zip(found.totals, sweep.outcomes, strict=True):
        assert float(total) == pytest.approx(outcome.base.metrics["logit_diff"], abs=1e-9)
    assert found.error < 1e-9
    assert "answer" not in found.groups


def test_what_has_no_difference_is_refused(codi):
    same = Pair(3, LATER.clean, LATER.clean)
    with pytest.raises(UserError, match="pair 3 has the same answer on both sides"):
        attribute_logits(codi, [same])
    for examples in ([], [*PAIRS[:1], LATER.clean]):
        with pytest.raises(UserError, match="at least one example, and either pairs or single"):
            attribute_logits(codi, examples)
    with pytest.raises(UserError, match="no side 'both'; known are clean, corrupted"):
        attribute_logits(codi, PAIRS, side="both")
