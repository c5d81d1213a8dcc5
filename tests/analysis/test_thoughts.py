"""One question, thought by thought: every number against a plain computation."""

import pytest
import torch

from codi_lens import HookedCodi, Site, UserError, load_pairs, patch_positions, read_thoughts
from codi_lens.analysis.lenses import logit_lens
from codi_lens.analysis.thoughts import other_numbers
from codi_lens.data.answers import last_number


@pytest.fixture(scope="module")
def codi():
    return HookedCodi.from_pretrained("toy", dtype=torch.float64)


@pytest.fixture(scope="module")
def pair():
    return load_pairs("toy")[5]


@pytest.fixture(scope="module")
def found(codi, pair):
    return read_thoughts(codi, pair)


def answer_probability(codi, question, answer, **options):
    """Of the tokens behind the stem, one after the other."""
    logits = codi.run_with_hooks(question, answer, **options).logits[0]
    stem, tokens = len(codi.tokens.stem()), codi.tokens.answer(answer)
    product = 1.0
    for i in range(stem, len(tokens)):
        product *= float(logits[i].softmax(-1)[tokens[i]])
    return product


def test_what_it_says_and_what_is_known(codi, pair, found):
    _, cache = codi.run_with_cache(pair.clean.question, pair.clean.answer)
    own = logit_lens(codi, cache).softmax(-1)
    others = [logit_lens(codi, codi.run_with_cache(o)[1]).softmax(-1) for o in found.others]
    control = sum(others) / len(others)
    reading = found.readings["logit lens"]
    decode = codi.tokenizer.decode
    for layer, row in enumerate(reading.said):
        for step, cell in enumerate(row):
            best = own[layer, step].argsort(descending=True, stable=True)[: len(cell)]
            assert [token.text for token in cell] == [decode([i]) for i in best.tolist()]
            for token, i in zip(cell, best, strict=True):
                assert token.share == pytest.approx(float(own[layer, step, i]), abs=1e-12)
                assert token.control == pytest.approx(float(control[layer, step, i]), abs=1e-12)
    assert [result.value for result in reading.results] == [18, 36, 54]
    for result in reading.results:
        first = codi.tokens.answer(result.value)[len(codi.tokens.stem())]
        torch.testing.assert_close(result.share, own[..., first])
        torch.testing.assert_close(result.control, control[..., first])
        assert torch.equal(result.rank, (own > own[..., first, None]).sum(-1) + 1)
        if result.readable:
            layer, step = result.readable
            assert result.rank[layer, step] == 1
            assert (result.rank[:, :step] > 1).all()
            assert (result.rank[:layer, step] > 1).all()


def test_what_it_looks_at(codi, pair, found):
    _, cache = codi.run_with_cache(pair.clean.question, pair.clean.answer)
    positions = [cache.positions[step].stop - 1 for step in found.steps]
    rows = torch.stack([cache["pattern", layer][0][:, positions] for layer in range(3)])
    torch.testing.assert_close(found.attention.weights, rows)
    assert found.attention.steps == found.steps


def test_what_it_does(codi, pair, found):
    question, answer = pair.clean.question, pair.clean.answer
    thoughts = [codi.run_with_hooks(other).thoughts[0] for other in found.others]
    for k in range(codi.num_latents()):

        def after(value, k=k):
            hook = (Site("hook_embed", k), lambda activation, hook: value.expand_as(activation))
            return answer_probability(codi, question, answer, fwd_hooks=[hook])

        zero = after(torch.zeros(1).double())
        swapped = sum(after(own[k]) for own in thoughts) / len(thoughts)
        assert float(found.zero[k]) == pytest.approx(zero, abs=1e-9)
        assert float(found.resample[k]) == pytest.approx(swapped, abs=1e-9)
    layers = ["thought", 0, 1, 2]
    recovered = patch_positions(codi, [pair], layers=layers).values("recovery")
    torch.testing.assert_close(found.recovery.values("recovery"), recovered)


def test_where_it_stops(codi, pair, found):
    question = pair.clean.question
    for k, stop in enumerate(found.stops):
        assert stop.text == codi.generate(question, num_latents=k)
        own, final = (
            answer_probability(codi, question, answer, num_latents=k)
            for answer in (stop.answer, found.answer)
        )
        assert stop.own == pytest.approx(own, abs=1e-9)
        assert stop.final == pytest.approx(final, abs=1e-9)
    assert found.answer == found.expected == 54
    assert found.stops[0].answer != 54


def test_other_numbers_are_other_numbers(codi, pair):
    others = other_numbers(codi, pair.clean.question, 54)
    assert len(set(others)) == 4
    for other in others:
        changed = zip(pair.clean.question.split(), other.split(), strict=True)
        assert all((a == b) != any(c.isdigit() for c in a) for a, b in changed)
    assert other_numbers(codi, "How many?", 54) == ()


def test_no_control_has_the_answer_that_is_controlled_for(codi, pair):
    first = other_numbers(codi, pair.clean.question, 54)[0]
    answer = int(last_number(codi.generate(first)))
    others = other_numbers(codi, pair.clean.question, answer)
    assert len(others) == 4
    assert str(answer) not in {last_number(codi.generate(other)) for other in others}


def test_a_question_without_numbers_has_no_controls_and_an_empty_one_is_refused(codi):
    found = read_thoughts(
        codi, "There are people in a club. How big is the club that Leo leads?", num_latents=2
    )
    assert (found.others, found.resample, found.recovery) == ((), None, None)
    assert found.readings["logit lens"].said[0][0][0].control is None
    with pytest.raises(UserError, match="the question is empty"):
        read_thoughts(codi, " ")
