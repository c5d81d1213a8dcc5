"""Changes that are followed, on problems whose counterfactual is known by construction, and every kind that is refused."""

import random
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codi_lens.data.answers import spell
from codi_lens.data.changes import Change
from codi_lens.data.counterfactuals import Fit, Reason, fitting, gsm8k_pairs, prosqa_pairs
from codi_lens.data.counterfactuals.arithmetic import literals, parse, values
from codi_lens.data.counterfactuals.change import ordered_as_before, values_for
from codi_lens.data.counterfactuals.follow import Substitution, follow
from codi_lens.data.counterfactuals.numbers import mentions, readings
from codi_lens.data.counterfactuals.prosqa import walk
from codi_lens.data.counterfactuals.solutions import read_solution
from codi_lens.data.pairs import Pair, Variant, load_pairs, write_pairs
from codi_lens.errors import UserError
from tests.models.llama3_tokenizer import llama3_tokenizer


def problem(question: str, *steps: str) -> dict[str, str]:
    """A problem in GSM8K's format, with the calculations of the annotations in the text too."""
    lines = [f"That is {s.partition('=')[0]} = <<{s}>>{s.partition('=')[2]} in all." for s in steps]
    answer = steps[-1].partition("=")[2]
    return {"question": question, "answer": "\n".join([*lines, f"#### {answer}"])}


OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


@dataclass(frozen=True)
class Plan:
    """A chain of operations on numbers; each is done with the result before, or between two numbers."""

    numbers: tuple[int, ...]
    operators: tuple[str, ...]

    def results(self, numbers: tuple[int, ...]) -> list[int]:
        """Every result, computed without annotations."""
        found, now = [], numbers[0]
        for operator, number in zip(self.operators, numbers[1:], strict=True):
            now = OPERATIONS[operator](now, number)
            found.append(now)
        return found

    @property
    def problem(self) -> dict[str, str]:
        """The problem, told in both ways."""
        told = ", ".join(f"{number:,} nuts" for number in self.numbers)
        left = [self.numbers[0], *self.results(self.numbers)]
        rows = zip(left, self.operators, self.numbers[1:], left[1:], strict=False)
        steps = [f"{a}{operator}{b}={result}" for a, operator, b, result in rows]
        return problem(f"Rex sees {told}. How many?", *steps)


plans = st.integers(1, 4).flatmap(
    lambda steps: st.builds(
        Plan,
        st.lists(st.integers(11, 4000), min_size=steps + 1, max_size=steps + 1).map(tuple),
        st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=steps, max_size=steps).map(tuple),
    )
)


@settings(max_examples=60, deadline=None)
@given(plans, st.integers(0, 9), st.booleans())
def test_what_is_followed_is_what_the_changed_problem_comes_to(
    plan: Plan, seed: int, minimal: bool
) -> None:
    made = gsm8k_pairs([plan.problem], changes=3, minimal=minimal, seed=seed)
    places = [mention.start for mention in mentions(plan.problem["question"])]
    for pair in made.pairs:
        change = pair.change
        assert change is not None
        at = places.index(change.places[0])
        new = int(change.corrupted.replace(",", ""))
        numbers = (*plan.numbers[:at], new, *plan.numbers[at + 1 :])
        for variant, told in ((pair.clean, plan.numbers), (pair.corrupted, numbers)):
            assert [*variant.intermediates, variant.answer] == plan.results(told)
            assert variant.question == Plan(told, plan.operators).problem["question"]
        assert (change.steps, change.enters) == (len(plan.operators), max(at, 1))
        assert (pair.pair_id, len(made.refused)) == (made.pairs.index(pair), 0)
        if minimal:
            zeros = len(str(plan.numbers[at])) - len(str(plan.numbers[at]).rstrip("0"))
            assert abs(new - plan.numbers[at]) == 10 ** max(zeros - 1, 0)


def test_most_plain_problems_give_a_pair() -> None:
    rng = random.Random(0)
    told = [Plan(tuple(rng.sample(range(11, 1500), 3)), ("+", rng.choice("+*"))) for _ in range(40)]
    assert len(gsm8k_pairs([plan.problem for plan in told]).pairs) >= 36


def test_both_formats_and_words_and_percents_give_the_same() -> None:
    question = "Ida sells 40 lemons and Bo six. Some are bad, 25% of all sour. How many are sour?"
    told = problem(question, "40+6=46", "46*0.25=11.5")
    bare = {"question": question, "steps": ["<<40+6=46>>", "<<46*.25=11.5>>"], "answer": "11.5"}
    one, other = (gsm8k_pairs([row], changes=500).pairs for row in (told, bare))
    assert one == other
    by_change = {(p.change.clean, p.change.corrupted): p.corrupted for p in one if p.change}
    assert by_change["25", "30"].answer == 13.8
    assert by_change["six", "four"].intermediates == (44,)
    assert by_change["six", "four"].question == question.replace("six", "four")
    assert {clean for clean, _ in by_change} == {"40", "six", "25"}


@given(
    st.recursive(
        st.integers(0, 60).map(str),
        lambda deeper: st.builds("({}{}{})".format, deeper, st.sampled_from("+-*/"), deeper),
        max_leaves=8,
    )
)
def test_expressions_are_evaluated_as_python_does(text: str) -> None:
    tree = parse(text.removeprefix("(").removesuffix(")") if text.count("(") == 1 else text)
    try:
        expected = eval(text, {}, {})  # of digits, operators and brackets that this test made
    except ZeroDivisionError:
        with pytest.raises(ZeroDivisionError):
            values(tree, literals(tree))
        return
    assert float(values(tree, literals(tree))[-1]) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "3+", "(3", "3)", "x*2", "+3", "3--2", "3 4", "1,000*2", "."])
def test_what_is_no_expression(text: str) -> None:
    with pytest.raises(ValueError, match=r"expression|number|bracket|Fraction"):
        parse(text)


APART = "A dog has 14 bones and digs up 5 more. How many bones does it have?"
REFUSED: list[tuple[Reason, dict[str, str]]] = [
    (Reason.NO_ANNOTATION, {"question": APART, "answer": "14+5=19\n#### 19"}),
    (Reason.NO_ANNOTATION, {"question": APART, "answer": "It has <<19=19>>19\n#### 19"}),
    (Reason.UNREADABLE, {"question": APART, "answer": "<<14+x=19>>19\n#### 19"}),
    (Reason.UNREADABLE, {"question": APART, "answer": "<<+19=19>>19\n#### 19"}),
    (Reason.NOT_COMPUTING, {"question": APART, "answer": "<<14+5=20>>20\n#### 20"}),
    (Reason.OTHER_ANSWER, {"question": APART, "answer": "<<14+5=19>>19 So 18\n#### 18"}),
    (Reason.OTHER_ANSWER, {"question": APART, "answer": "<<14+5=19>>19\n#### many"}),
    (
        Reason.UNANNOTATED,
        {
            "question": "Ivo eats 3/5 of 40 plums. How many are left?",
            "answer": "1 - 3/5 = 2/5 are left.\nThat is 40*2/5=<<40*2/5=16>>16\n#### 16",
        },
    ),
    (
        Reason.UNANNOTATED,
        {"question": APART, "answer": "It digs up 10-5=5, so 14+5=<<14+5=19>>19\n#### 19"},
    ),
    (Reason.CONDITION, problem("Rides cost 9 coins, at least 20 a day. What do 4 cost?", "9*4=36")),
    (Reason.CONDITION, problem("The price rose from 40 to 52 coins. By how much?", "52-40=12")),
    (
        Reason.CONDITION,
        problem("If you buy 4 nuts you get one more. How many for 9 buys?", "9*5=45"),
    ),
    (
        Reason.UNUSED_NUMBER,
        problem("Of 16 people 6 are men and 10 women. 4 men go. How many men?", "6-4=2"),
    ),
    (
        Reason.UNUSED_NUMBER,
        problem("Ten barns hold 20 cows each, so twenty cows in each. How many?", "10*20=200"),
    ),
    (
        Reason.TWICE_IN_QUESTION,
        problem("Zoe has 6 hens. Each lays six eggs. How many eggs?", "6*6=36"),
    ),
    (
        Reason.TWICE_IN_QUESTION,
        problem("A cow eats 12 bales, a sheep a dozen. How many?", "12+12=24"),
    ),
    (
        Reason.CONSTRAINED,
        problem("Uma gives a dozen nuts each to 3 aunts: Ada, Bea, Cleo. How many?", "12*3=36"),
    ),
    (
        Reason.CONSTRAINED,
        problem("Ada and Bea are two sisters with a dozen nuts each. How many?", "12*2=24"),
    ),
    (
        Reason.CONSTRAINED,
        problem(
            "A dozen nuts are for the first, as many for the last of 3 rats. How many?", "12*3=36"
        ),
    ),
    (
        Reason.CONSTRAINED,
        problem("A cake of a dozen slices is shared 3 ways. How many each?", "12/3=4"),
    ),
    (
        Reason.UNTRACED,
        problem("Kai has 40 nuts and Lou thrice as many. How many nuts?", "120+40=160"),
    ),
    (
        Reason.AMBIGUOUS,
        problem(
            "A cook fills 6 trays with two rolls each. A roll has a dozen seeds. How many?",
            "6*2=12",
            "12*12=144",
        ),
    ),
    (
        Reason.AMBIGUOUS,
        problem(
            "A hen lays 50 eggs, half of them white. How many percent is that?",
            "50*.5=25",
            "25*2=50",
        ),
    ),
    (
        Reason.USED_TWICE,
        problem(
            "Pia runs 3 miles each on Monday and Wednesday and Friday. How many miles?", "3*3=9"
        ),
    ),
    (
        Reason.NOT_USED,
        problem(
            "Rex has 3 bowls and a dozen nuts, and finds a hundred nuts. How many nuts?",
            "12+100=112",
        ),
    ),
    (
        Reason.SAME_ANSWER,
        problem(
            "Rex has 7 bowls of a hundred nuts, and a thousand seeds. How many seeds and nuts in a bowl?",
            "7*100=700",
            "100+1000=1100",
        ),
    ),
    (
        Reason.RESULT_NOT_USED,
        problem(
            "Rex has 7 nuts, a dozen more, and a hundred. Or double. How many?",
            "7+12=19",
            "19*2=38",
            "19+100=119",
        ),
    ),
    (
        Reason.NOT_WHOLE,
        problem("Tom swims once every 7 nights. How often in a fortnight?", "14/7=2"),
    ),
    (
        Reason.NO_CHANGE,
        problem(
            "An ant goes a dozen steps a minute for 2 minutes and rests 1 minute. How many?",
            "12*2=24",
        ),
    ),
]


@pytest.mark.parametrize(("reason", "given_problem"), REFUSED)
def test_a_kind_that_is_refused(reason: Reason, given_problem: dict[str, str]) -> None:
    made = gsm8k_pairs([given_problem], changes=2)
    assert [(one.id, one.reason) for one in made.refused] == [(0, reason)], made.pairs


@pytest.mark.parametrize(
    "number",
    ["at 8:30", "on May 14", "on 14/5", "in 1998", "in Room 14", "on bus B14", "14th", "3/4 of them", "1", "at 9 a.m."],
)  # fmt: skip
def test_a_number_in_a_time_a_date_a_name_or_a_fraction_is_left_alone(number: str) -> None:
    question = f"A cat sees mice {number}. A dozen mice hide. How many mice does the cat see?"
    value = mentions(question)[0].value
    steps = [f"{value.numerator}+12={value.numerator + 12}"]
    assert gsm8k_pairs([problem(question, *steps)]).pairs == ()


def test_steps_that_become_implausible() -> None:
    def followed(steps: list[str], old: Any, new: Any, *others: Any) -> object:
        told = problem("?", *steps)
        found = read_solution(told["answer"], "?")
        assert not isinstance(found, Reason)
        change = Substitution((Fraction(old),), (Fraction(new),))
        return follow(found, change, frozenset(map(Fraction, others)), frozenset())

    assert followed(["14-12=2"], 14, 12, 12) == Reason.NEGATIVE
    assert followed(["40/(14-12)=20"], 14, 12, 12, 40) == Reason.NEGATIVE
    assert followed(["40/8*2=10"], 8, 16, 40, 2) == Reason.NOT_WHOLE
    assert followed(["3/4=0.75", "0.75*40=30"], 3, 5, 4, 40) == Reason.IMPLAUSIBLE
    assert followed(["5/4=1.25"], 4, 3, 5) == Reason.TOO_MANY_DECIMALS
    assert followed(["6*7=42", "42/7=6", "6+1=7"], 6, 8, 7, 1) == Reason.AMBIGUOUS
    assert followed(["6+7=13", "13*0.13=1.69"], 6, 8, 7) == Reason.UNTRACED


def test_a_part_stays_below_its_whole() -> None:
    question = "Of 20 mice 12 are grey, and 30% of all old."
    whole, part, _ = mentions(question)
    assert ordered_as_before(question, part, Fraction(19), [])
    assert not ordered_as_before(question, part, Fraction(20), [])
    assert not ordered_as_before(question, whole, Fraction(40), [(Fraction(6), Fraction(41))])
    assert ordered_as_before(question, whole, Fraction(40), [(Fraction(6), Fraction(6))])
    crossing = [(Fraction(1), Fraction(4)), (Fraction(2), Fraction(3))]
    assert not ordered_as_before(question, whole, Fraction(21), crossing)


def test_the_values_that_a_number_may_take() -> None:
    def texts(question: str, minimal: bool = False) -> list[str]:
        return [text for _, text in values_for(mentions(question)[0], question, minimal)]

    assert texts("7 mice") == ["4", "5", "6", "8", "9"]
    assert texts("1,200 mice", minimal=True) == ["1,190", "1,210"]
    assert texts("$2.50 a mouse") == ["3.50", "4.50"]
    assert texts("Four mice") == ["Two", "Three", "Five", "Six", "Seven", "Eight"]
    assert texts("5 days a week") == ["3", "4", "6", "7"]
    assert texts("5 days a week, on 2 days not") == ["3", "4"]
    assert texts("58% of mice and 38% of rats", minimal=True) == ["57", "59"]
    assert texts("58% of mice and 41% of rats", minimal=True) == ["57"]


def test_the_readings_of_a_number() -> None:
    percent, fraction = mentions("20% of 3/5")
    assert set(map(float, readings(percent))) == {20, 0.2, 0.8, 1.2, 80, 120}
    assert set(map(float, readings(fraction))) == {0.6, 0.4, 1.6, 3, 5}
    assert [
        m.text for m in mentions("twenty-five mice, two thirds of them, five rats, one, 3/0")
    ] == [
        "3/0",
        "five",
    ]


def test_what_a_tokenizer_asks_of_pairs() -> None:
    tokenizer = llama3_tokenizer()
    row = problem("Ida has 640 nuts and Bo 130. How many?", "640+130=770")
    for flags in ({"single_tokens": True}, {"same_length": True}, {}):
        made = gsm8k_pairs([row], changes=200, fit=Fit(tokenizer, **flags))
        answers = {int(pair.corrupted.answer) for pair in made.pairs}
        assert (max(answers) < 1000) == bool(flags.get("single_tokens"))
    large = problem("Ida has 640 nuts and a thousand more. How many?", "640+1000=1640")
    fit = Fit(tokenizer, single_tokens=True)
    assert gsm8k_pairs([large], fit=fit).counts == {Reason.NOT_SINGLE_TOKENS: 1}
    uneven = Pair(3, Variant("99?", 99), Variant("1000?", 98))
    assert fitting([uneven], Fit(tokenizer, same_length=True)).counts == {Reason.OTHER_LENGTH: 1}
    assert fitting([uneven], None).pairs == (uneven,)


def test_pairs_are_drawn_by_seed_and_read_back(tmp_path: Any) -> None:
    rows = [
        problem(f"Ida has {n} nuts and Bo 130. How many?", f"{n}+130={n + 130}")
        for n in range(140, 160)
    ]
    made = gsm8k_pairs(rows, seed=4)
    assert made == gsm8k_pairs(rows, seed=4) != gsm8k_pairs(rows, seed=5)
    drawn = made.sample(5, seed=1)
    assert len(drawn.pairs) == 5
    assert [p for p in made.pairs if p in drawn.pairs] == list(drawn.pairs)
    with pytest.raises(UserError, match="21 pairs were asked for, there are 20"):
        made.sample(21, seed=1)
    write_pairs(tmp_path / "pairs.json", made.pairs)
    assert load_pairs(tmp_path) == list(made.pairs)
    assert made.pairs[0].kind == "1 step"


GRAPH = "Every kip is a lop. Tom is a kip. Every lop is a mim. Every nop is a rop. Tom is a sop. "
PROSQA = {"question": f"{GRAPH}Is Tom a rop or mim?", "answer": "Tom is a mim."}


def test_a_graph_whose_words_are_exchanged() -> None:
    (pair,) = prosqa_pairs([PROSQA]).pairs
    facts = (
        "Every kip is a lop. Tom is a kip. Every lop is a rop. Every nop is a mim. Tom is a sop. "
    )
    assert pair.corrupted == Variant(
        f"{facts}Is Tom a rop or mim?", "Tom is a rop.", (), ("kip", "lop")
    )
    assert pair.clean.intermediates == ("kip", "lop")
    assert pair.change == Change("mim", "rop", (49, 69), 3, 3)
    assert walk(facts, "Tom", "mim") is None
    edges = {"idx_to_symbol": ["Tom", "kip", "lop", "mim", "nop", "rop", "sop"]}
    rows = [{**PROSQA, **edges, "edges": [[1, 2], [0, 1], [2, 3], [4, 5], [0, 6]]}]
    assert prosqa_pairs(rows).pairs == (pair,)


@pytest.mark.parametrize(
    "damage",
    [
        {"question": f"{GRAPH}Who is Tom?"},
        {"question": f"{GRAPH}Every kip is a rop. Is Tom a rop or mim?"},
        {"question": f"{GRAPH}It rains. Is Tom a rop or mim?"},
        {"question": f"{GRAPH}Is Ann a rop or mim?"},
        {"answer": "Tom is a rop."},
        {"answer": "mim"},
        {"idx_to_symbol": ["Tom", "kip"], "edges": [[0, 1]]},
        {"idx_to_symbol": ["Tom", "kip"], "edges": [[0, 7]]},
        {"idx_to_symbol": 3, "edges": [[0, 1, 2]]},
    ],
)
def test_graphs_that_do_not_say_what_the_answer_does(damage: dict[str, Any]) -> None:
    assert prosqa_pairs([{**PROSQA, **damage}]).counts == {Reason.GRAPH: 1}


def test_every_reason_has_been_seen() -> None:
    elsewhere = {
        "NEGATIVE",
        "IMPLAUSIBLE",
        "TOO_MANY_DECIMALS",
        "NOT_SINGLE_TOKENS",
        "OTHER_LENGTH",
        "GRAPH",
        "NO_NUMBER",
    }
    assert {reason.name for reason, _ in REFUSED} | elsewhere == set(Reason.__members__)
    assert gsm8k_pairs(
        [problem("How many are a dozen and a hundred?", "12+100=112"), 3]
    ).counts == {
        Reason.NO_NUMBER: 1,
        Reason.NO_ANNOTATION: 1,
    }
    assert spell(13.8) == "13.8"
