"""What ships does what its card says: recomputed in plain transformers."""

import copy
import json
import random
import re

import pytest

from codi_lens import load_pairs
from codi_lens.organisms.planted.certify import Interchanges
from codi_lens.organisms.planted.mechanism import MECHANISMS
from codi_lens.organisms.planted.task import WORDINGS, is_heldout
from codi_lens.organisms.planted.truth import read_truth
from codi_lens.organisms.scorecard import load_organism
from codi_lens.shipped import ORGANISMS
from tests.organisms.planted.plain_loop import Plain

PROBLEMS = 100
"""Of each wording; the command measures 1,000 in all."""


def sampled(name):
    """Held-out problems, a list of each wording."""
    task = MECHANISMS[read_truth(ORGANISMS[name]).mechanism].task
    return [task.sample(random.Random(7), PROBLEMS, w, heldout=True) for w in WORDINGS]


def plain_rates(name):
    """Accuracy, and the share of interchanges that do what each rule says."""
    plain = Plain(ORGANISMS[name])
    mechanism = MECHANISMS[plain.truth["mechanism"]]
    right, kept = [], {rule.name: [] for rule in mechanism.rules}
    for problems in sampled(name):
        others = [*problems[1:], problems[0]]
        own = plain.think([problem.question for problem in problems])
        said = plain.answers(copy.deepcopy(own[0]))
        right += [text == f"= {p.values[-1]}" for text, p in zip(said, problems, strict=True)]
        for rule in mechanism.rules:
            entry = {"exchanged": [list(one) for one in rule.exchanged], "held": rule.held}
            said = plain.answers(plain.think([p.question for p in problems], own, entry)[0])
            for text, problem, other in zip(said, problems, others, strict=True):
                given = {i: other.values[i] for i in rule.sets}
                wanted = mechanism.task.values(problem.numbers, problem.operations, given)[-1]
                kept[rule.name].append(text == f"= {wanted}")
    return sum(right) / len(right), {k: sum(v) / len(v) for k, v in kept.items()}


@pytest.mark.parametrize("name", ORGANISMS)
def test_every_rule_holds_and_is_measured_as_in_plain_transformers(name):
    accuracy, rules = plain_rates(name)
    assert accuracy >= 0.99
    assert min(rules.values()) >= 0.98, rules
    organism = load_organism(name)
    found = Interchanges(organism.codi, organism.truth, sampled(name))
    assert found.accuracy == accuracy
    assert {rule.name: found.rate(rule) for rule in organism.truth.planted.rules} == rules


@pytest.mark.parametrize("name", ORGANISMS)
def test_what_ships_is_whole_and_small(name):
    """Card, truth and pairs agree with the mechanism; both sides of every pair are right and held out."""
    folder = ORGANISMS[name]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 10**6
    organism = load_organism(name)
    mechanism, truth = organism.truth.planted, organism.truth
    assert truth.text == mechanism.text
    card = (folder / "README.md").read_text()
    shares = re.findall(r"^\| .* \| ([01]\.\d{3}) \| ≥ (0\.\d+) \|$", card, flags=re.MULTILINE)
    assert len(shares) == 1 + len(mechanism.rules)
    assert all(float(share) >= float(bar) for share, bar in shares)
    recipe = json.loads((folder / "training.json").read_text())["recipe"]
    assert f"Seed {recipe['seed']}" in card
    pairs = load_pairs(f"organism:{name}")
    assert len(pairs) == 48
    for pair in pairs:
        assert pair.clean.answer != pair.corrupted.answer
        differing = [
            a != b for a, b in zip(pair.clean.operands, pair.corrupted.operands, strict=True)
        ]
        assert sum(differing) == 1
        assert mechanism.task.operands[differing.index(True)] == pair.operand
    questions = [side.question for pair in pairs for side in (pair.clean, pair.corrupted)]
    answers = [side.answer for pair in pairs for side in (pair.clean, pair.corrupted)]
    assert organism.codi.generate(questions) == [f"= {answer}" for answer in answers]


def test_all_together_are_small():
    files = [path for folder in ORGANISMS.values() for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) <= 8 * 10**6


def test_pairs_are_of_held_out_problems():
    for name in ORGANISMS:
        task = load_organism(name).truth.planted.task
        for pair in load_pairs(f"organism:{name}"):
            for side in (pair.clean, pair.corrupted):
                operations = re.findall(r"(?<= )(?:\+|-|plus|minus)(?= )", side.question)
                signs = tuple({"plus": "+", "minus": "-"}.get(o, o) for o in operations)
                assert is_heldout(side.operands, signs)
                values = task.values(side.operands, signs, {})
                assert values == (*side.intermediates, side.answer)
