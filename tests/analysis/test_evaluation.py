"""Accuracy on a data set: batches against one question at a time, judging, and the verdict beside a published figure."""

import pytest
import torch

from codi_lens import HookedCodi, UserError
from codi_lens.analysis.asking import Condition
from codi_lens.analysis.evaluation import answered, evaluate, evaluated, make_exam, verdict
from codi_lens.checkpoint import known
from codi_lens.checkpoint.known import PublishedScore, published_score
from codi_lens.data.datasets import Dataset, as_tested, load_dataset

QUESTIONS = ("  12 plus 34?", "one plus 2?", "5 plus 6 plus 7  plus 8? ", "3 plus 3?", "1?")
DATA = Dataset("made", QUESTIONS, (46, 3, 26, 6, 1), tuple("abcde"))
NAMES = ["3 latents", "2 latents", "1 latent", "0 latents", "no wrapper"]


@pytest.mark.parametrize(("batch", "prepare"), [(1, True), (2, False), (128, True)])
def test_batches_give_what_each_question_gives_alone(tiny, batch, prepare):
    found = evaluate(tiny, DATA, batch=batch, prepare=prepare)
    asked = list(map(as_tested, QUESTIONS)) if prepare else list(QUESTIONS)
    assert list(found.conditions) == NAMES
    for count in range(4):
        texts = tuple(tiny.generate(question, num_latents=count) for question in asked)
        assert found.with_latents(count).texts == texts
    bare = (tiny.decode_without_wrapper([question])[0] for question in asked)
    assert found.conditions["no wrapper"].texts == tuple(map(tiny.tokens.text, bare))
    for condition in found.conditions.values():
        judged = zip(condition.texts, DATA.answers, strict=True)
        assert condition.correct == tuple(tiny.tokens.is_right(*both) for both in judged)
    assert found.with_latents() is found.with_latents(3)


@pytest.mark.parametrize(
    "frame",
    [
        {"begin": ("eos", "bot"), "end": ("eot", "eos"), "forbid_eot": False},
        {"begin": (), "end": ()},
        {"begin": (), "end": (), "num_latents": 0},
        {"question_suffix": " ?", "answer_stem": ""},
    ],
)
def test_batches_give_the_same_whatever_is_around_the_thoughts(tiny_folder, frame):
    codi = HookedCodi.from_pretrained(tiny_folder, dtype=torch.float64, **frame)
    found = evaluate(codi, DATA, batch=3)
    for count in range(codi.config.num_latents + 1):
        texts = tuple(codi.generate(as_tested(q), num_latents=count) for q in QUESTIONS)
        assert found.with_latents(count).texts == texts


def test_the_questions_matter_to_the_letter(tiny):
    """Or the test above could not tell whether they were prepared."""
    one, other = (evaluate(tiny, DATA, prepare=prepare) for prepare in (True, False))
    assert one.with_latents().texts[0] != other.with_latents().texts[0]
    assert one.with_latents().texts[1] == other.with_latents().texts[1]


def test_answers_that_were_cut_are_counted(tiny):
    short = evaluate(tiny, DATA, max_new_tokens=2)
    long = evaluate(tiny, DATA)
    for name, condition in short.conditions.items():
        tokens = [len(tiny.tokens.tokenizer.encode(t)) for t in long.conditions[name].texts]
        assert condition.texts != long.conditions[name].texts or max(tokens) <= 3
        assert sum(short.cut[name]) >= sum(long.cut[name])
    assert any(map(any, short.cut.values()))


def test_the_longest_questions_go_first_and_what_is_done_is_not_asked_again(tiny):
    exam = make_exam(tiny, DATA, batch=2)
    parts = list(answered(tiny, exam))
    assert [part.indices for part in parts] == [(2, 0), (1, 3), (4,)]
    rest = list(answered(tiny, exam, done={2, 0, 3}))
    assert [part.indices for part in rest] == [(1, 4)]
    stops = iter([False, True])
    assert len(list(answered(tiny, exam, stopped=lambda: next(stops)))) == 1
    whole = evaluated(tiny, exam, parts[::-1])
    assert whole.conditions == evaluate(tiny, DATA).conditions


def test_scarce_memory_makes_smaller_batches_of_the_same_answers(tiny, monkeypatch):
    whole = evaluate(tiny, DATA)
    monkeypatch.setattr("codi_lens.memory.free_memory", lambda _: 2**17)
    parts = list(answered(tiny, make_exam(tiny, DATA)))
    assert 1 < len(parts) <= len(QUESTIONS)
    assert evaluated(tiny, make_exam(tiny, DATA), parts).conditions == whole.conditions


def test_the_call_s_judge_comes_before_the_data_s(tiny):
    texts = evaluate(tiny, DATA).with_latents().texts
    own = Dataset("own", tuple(map(as_tested, QUESTIONS)), texts, DATA.ids, judge="exact")
    assert evaluate(tiny, own).with_latents().accuracy == 1
    other = Dataset("other", own.questions, tuple(t + "?" for t in texts), own.ids, judge="exact")
    assert evaluate(tiny, other).with_latents().accuracy == 0
    with pytest.raises(UserError, match=r"^no judge 'close'; known are number, text, exact"):
        evaluate(tiny, own, judge="close")
    with pytest.raises(UserError, match='question a of own: the judge "number" cannot judge'):
        evaluate(tiny, own, judge="number")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"questions": (*QUESTIONS[:4], "1 Tom?")}, r"question e of made: .*not know every word"),
        ({"questions": (*QUESTIONS[:4], "1?" * 200)}, r"question e of made: .*context has 256"),
    ],
)
def test_a_question_that_cannot_be_asked_is_named_before_any_is(tiny, change, message):
    with pytest.raises(UserError, match=message):
        evaluate(tiny, Dataset("made", change["questions"], DATA.answers, DATA.ids))


def test_the_embedded_model_reaches_its_score():
    codi = HookedCodi.from_pretrained("toy")
    found = evaluate(codi, load_dataset("toy-heldout", 100))
    assert found.with_latents().accuracy >= 0.95
    assert found.with_latents(0).accuracy <= 0.2
    low, high = found.with_latents().interval
    assert 0.9 < low < found.with_latents().accuracy <= high


@pytest.mark.parametrize(("right", "word"), [(40, "agrees with"), (20, "below"), (60, "above")])
def test_the_verdict_says_which_side_the_published_figure_is_on(right, word):
    condition = Condition("6 latents", ("",) * 100, (True,) * right + (False,) * (100 - right))
    said = verdict(condition, PublishedScore(0.437, "a paper"))
    low, high = condition.interval
    assert said == (
        f"{word} the published 43.7% (a paper): {right}.0% (n = 100, 95% interval {low:.1%} – {high:.1%})"
    )


def test_a_perfect_score_agrees_with_a_perfect_one():
    for n in range(1, 200):
        condition = Condition("6 latents", ("",) * n, (True,) * n)
        assert verdict(condition, PublishedScore(1.0, "x")).startswith("agrees with"), n


def test_published_scores_are_those_of_the_table(monkeypatch):
    table = {"checkpoints": {"a/b": {"published": {"gsm8k": {"accuracy": 0.5, "source": "x"}}}}}
    monkeypatch.setattr(known, "_table", lambda: table)
    assert published_score("a/b", "gsm8k") == PublishedScore(0.5, "x")
    assert published_score("a/b", "prosqa") is None
    assert published_score("a/b", None) is None
    assert published_score("c/d", "gsm8k") is None


def test_no_gradients_are_kept(tiny):
    assert torch.is_grad_enabled()
    evaluate(tiny, DATA)
    assert torch.is_grad_enabled()
