"""Interchange training: what is exchanged, that it is seeded, and that it can be stopped and gone on with."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from codi_lens.errors import UserError
from codi_lens.organisms.planted.export import write_weights
from codi_lens.organisms.planted.interchange import choices_of, think_alone, think_exchanged
from codi_lens.organisms.planted.losses import answer_logits, expected_results, start, take_weights
from codi_lens.organisms.planted.mechanism import MECHANISMS
from codi_lens.organisms.planted.recipe import Recipe, recipe_of
from codi_lens.organisms.planted.train import Trainer
from codi_lens.organisms.planted.truth import truth_of, write_truth
from tests.organisms.planted.plain_loop import Plain

CURVE = Path(__file__).parent / "first_steps.json"
SMALL = Recipe("sequential", batch=16, pool=200, steps=50, threshold=0, warmup=10)


def trained(recipe, stop=None):
    trainer = Trainer(recipe)
    lines = []
    for _ in range(stop or recipe.steps):
        lines.append(trainer.train_step())
    return trainer, lines


def test_fifty_steps_are_those_that_are_stored():
    """The three losses of the first steps; another machine may round otherwise."""
    _, lines = trained(SMALL)
    stored = json.loads(CURVE.read_text())
    for step, line in enumerate(lines):
        assert list(line) == pytest.approx(stored[step], rel=0.02, abs=0.01), step


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    recipe = replace(SMALL, name="subspace", batch=4, steps=6)
    whole, lines = trained(recipe)
    first, _ = trained(recipe, stop=3)
    first.save(tmp_path / "state.pt")
    second = Trainer(recipe)
    second.resume(tmp_path / "state.pt")
    assert [second.train_step() for _ in range(3)] == lines[3:]
    for one, other in zip(whole.run.parameters, second.run.parameters, strict=True):
        assert torch.equal(one, other)
    with pytest.raises(UserError, match="is of another recipe"):
        Trainer(replace(recipe, seed=1)).resume(tmp_path / "state.pt")


@pytest.mark.parametrize("name", MECHANISMS)
def test_exchanges_in_training_are_the_plain_ones(name, tmp_path):
    """Rules drawn row by row in one batch give the logits of plain transformers, where each rule has its own batch."""
    trainer = Trainer(replace(SMALL, name=name, batch=4, pool=6))
    run, mechanism = trainer.run, MECHANISMS[name]
    with torch.no_grad():
        for parameter in run.parameters:
            parameter.copy_(parameter.half())  # as they are stored
    write_weights(run, tmp_path)
    write_truth(truth_of(name, run.subspaces), tmp_path)
    plain = Plain(tmp_path)
    pool = trainer.pools[1]
    rows = torch.arange(len(pool.problems))
    rules = [mechanism.rules[i % len(mechanism.rules)] for i in rows]
    with torch.no_grad():
        alone = think_alone(run.model, run.projection, pool.batch, mechanism.num_latents)
        chosen = choices_of(rules, mechanism.num_latents)
        donors = rows.roll(-1)
        prefix, _ = think_exchanged(
            run.model, run.projection, pool.batch, alone, donors, chosen, run.subspaces
        )
        ours = answer_logits(run, pool.batch, prefix)[:, 0]
        questions = [problem.question for problem in pool.problems]
        own = plain.think(questions)
        for row, rule in enumerate(rules):
            entry = {"exchanged": [list(one) for one in rule.exchanged], "held": rule.held}
            cache, _ = plain.think(questions, own, entry)
            eot = torch.full((len(questions),), plain.eot)
            state = plain._feed(plain.model.get_input_embeddings()(eot)[:, None], cache)
            torch.testing.assert_close(
                ours[row], plain.model.lm_head(state)[row], rtol=1e-4, atol=1e-4
            )
    expected = expected_results(run, pool, donors, rules)
    for row, rule in enumerate(rules):
        given = {i: pool.problems[donors[row]].values[i] for i in rule.sets}
        problem = pool.problems[row]
        wanted = mechanism.task.values(problem.numbers, problem.operations, given)
        said = run.tokenizer.convert_ids_to_tokens(expected[row].tolist())
        assert said == [str(number) for number in wanted]


def test_weights_are_taken_from_an_organism_of_the_same_shape(tmp_path):
    run = start(replace(SMALL, seed=3))
    write_weights(run, tmp_path)
    other = start(SMALL)
    take_weights(other, tmp_path)
    for one, two in zip(run.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-3)  # half precision
    with pytest.raises(UserError, match="has another vocabulary"):
        take_weights(other, Path("toy"))


def test_recipes_are_known_by_name():
    assert recipe_of("redundant", 1).seed == 1
    with pytest.raises(UserError, match="no mechanism 'nothing'; known are dense, sequential"):
        recipe_of("nothing")
