"""Lens maps and patchscopes against plain runs, one for every cell."""

import pytest
import torch

from codi_lens import HookedCodi, Site, UserError, load_pairs
from codi_lens.analysis.lenses import lens_map, patchscope, patchscope_map, train_tuned_lens
from codi_lens.data.answers import answer_tokens
from codi_lens.data.pairs import Pair, Variant
from tests.laws import plain
from tests.models.architectures import MODELS, load

ASKED = (
    Variant("12 plus 30?", 42, (), (12, 42)),
    Variant("one plus two plus 3?", 6, (), (3, 5)),
    Variant("5 plus 6?", 11, (), (12, 42)),
    Variant("1 plus 2?", 3),
)
A, B = ASKED[0].question, ASKED[1].question


@pytest.fixture(scope="module", params=["llama, grouped", "gpt2"])
def codi(request, tmp_path_factory):
    return load(MODELS[request.param], tmp_path_factory.mktemp("maps"))


def tokens(codi, result):
    """Behind the stem, and alone, where that is another."""
    behind = answer_tokens(codi.tokenizer, codi.config.answer_stem, result).answer[0]
    return sorted({behind, codi.tokenizer(str(result), add_special_tokens=False)["input_ids"][0]})


@pytest.mark.parametrize("tuned", [False, True])
def test_a_map_has_every_result_in_its_own_run_and_in_another_questions(codi, tuned):
    questions = [asked.question for asked in ASKED]
    lens = train_tuned_lens(codi, questions, learning_steps=3) if tuned else None
    found = lens_map(codi, ASKED, lens=lens, steps=["bot", 1, "eot"])
    values = {"v1": (12, 3, 12, None), "v2": (None, 5, 42, None), "answer": (42, 6, 11, 3)}
    raw = values | {"v2": (42, 5, 42, None)}
    assert list(found.results) == list(values)
    runs = [plain.run(codi, question) for question in questions]
    for name, decoded in found.results.items():
        assert decoded.questions == tuple(i for i, v in enumerate(values[name]) if v is not None)
        for place, (own, donor) in enumerate(zip(decoded.questions, decoded.donors, strict=True)):
            assert raw[name][donor] != values[name][own]
            spellings = tokens(codi, values[name][own])
            for whose, ranks, row in (
                (decoded.probability, decoded.rank, own),
                (decoded.control_probability, decoded.control_rank, donor),
            ):
                for layer in range(codi.cfg.n_layers):
                    for column, step in enumerate(("bot", 1, "eot")):
                        state = runs[row].at(f"blocks.{layer}.hook_resid_post", step)
                        if tuned:
                            state = state + lens.weights[0, layer] @ state + lens.biases[0, layer]
                        logits = codi.model.unembed(codi.model.ln_final(state[None, None]))[0, 0]
                        shares = logits.softmax(-1)
                        assert float(whose[place, layer, column]) == pytest.approx(
                            float(shares[spellings].sum()), abs=1e-9
                        )
                        above = int((shares > shares[spellings].max()).sum())
                        assert int(ranks[place, layer, column]) == above + 1
    best = found.results["answer"].best
    assert found.results["answer"].gap[best] == found.results["answer"].gap.max()


def test_pairs_are_both_their_questions_and_may_not_know_results_on_the_way(codi):
    pair = Pair(0, Variant(A, 42), Variant(B, 6))
    found = lens_map(codi, [pair])
    assert [variant.question for variant in found.variants] == [A, B]
    assert list(found.results) == ["answer"]
    assert found.results["answer"].donors == (1, 0)
    with pytest.raises(UserError, match=r"answer begins with ' ?42' in all 2 questions"):
        lens_map(codi, [Pair(0, Variant(A, 42), Variant(B, 42))])
    with pytest.raises(UserError, match="no questions"):
        lens_map(codi, [])


def test_a_state_put_where_it_was_changes_nothing(codi):
    own = codi.run_with_hooks(A)
    for row in patchscope_map(codi, A, ["thought", 0, 1, "1.0"], ["bot", 0, 2, "eot"], target=A):
        for said in row:
            assert said.text == codi.generate(A)
            torch.testing.assert_close(said.first, own.logits[0, 0].softmax(-1), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("place", "step", "target_place", "target_step"),
    [(1, 2, 0, "bot"), (0, "bot", 1, "eot"), ("thought", 1, "thought", 2), ("1.1", 0, "0.2", 1)],
)
def test_a_state_in_another_question_speaks_as_in_a_plain_run(
    codi, place, step, target_place, target_step
):
    def where(place):
        if place == "thought":
            return "hook_embed", None
        if isinstance(place, str):
            return f"blocks.{place[0]}.attn.hook_z", int(place[2])
        return f"blocks.{place}.hook_resid_post", None

    name, part = where(place)
    ran = plain.run(codi, A)
    state = ran.thoughts[step] if place == "thought" else ran.at(name, step, part)
    there, part = where(target_place)
    expected = plain.run(codi, B, edits=[(there, target_step, part, state)]).logits[0]
    said = patchscope(
        codi, A, place, step, target=B, target_place=target_place, target_step=target_step
    )
    torch.testing.assert_close(said.first, expected.softmax(-1), rtol=0, atol=1e-9)
    assert not torch.allclose(said.first, plain.run(codi, B).logits[0].softmax(-1))


def test_a_token_of_the_prompt_is_put_at_another(codi):
    kept = []
    site = Site("blocks.0.hook_resid_post", "prompt")
    codi.run_with_hooks(A, 42, fwd_hooks=[(site, lambda x, hook: kept.append(x[0, 1].clone()))])

    def put(activation, hook):
        out = activation.clone()
        out[:, -2] = kept[0]
        return out

    expected = codi.run_with_hooks(B, fwd_hooks=[(site, put)]).logits[0, 0].softmax(-1)
    said = patchscope(codi, A, 0, "prompt", target=B, position=1, target_position=-2)
    torch.testing.assert_close(said.first, expected, rtol=0, atol=1e-9)
    assert said.behind_stem is None  # a random model does not say it


def test_a_trained_model_says_the_stem_and_then_what_the_thought_makes_of_it():
    codi = HookedCodi.from_pretrained("toy")
    pair = load_pairs("toy")[9]
    clean, corrupted = pair.clean, pair.corrupted
    cells = patchscope_map(codi, clean.question, ["thought"], range(6), target=corrupted.question)[
        0
    ]
    for step, said in enumerate(cells):
        alone = patchscope(codi, clean.question, "thought", step, target=corrupted.question)
        assert said.text == alone.text
        assert codi.tokens.text([int(said.behind_stem.argmax())]) in said.text
    assert {int(said.text.split()[-1]) for said in cells} >= {clean.answer, corrupted.answer}


@pytest.mark.parametrize(
    ("cell", "options", "message"),
    [
        ((9, 0), {}, "no layer 9"),
        ((0, "answer"), {}, "give prompt, bot, a latent or eot"),
        ((0, 0), {"target_step": 7}, "no step 7"),
        ((0, 0), {"position": 3}, "no position 3 in step 0, which has 1"),
        ((0, "prompt"), {"target_position": 99}, "no position 99 in step 'prompt'"),
        ((0, 0), {"site": "kv"}, "hook_k and blocks.0.attn.hook_v, which is no state"),
        ((0, 0), {"site": "pattern"}, "hook_pattern, which is no state"),
        (("0.1", 0), {"target_place": 1}, "give places of one width"),
    ],
)
def test_a_state_that_cannot_be_put_is_refused(tiny, cell, options, message):
    with pytest.raises(UserError, match=message):
        patchscope(tiny, A, *cell, target=B, **options)
