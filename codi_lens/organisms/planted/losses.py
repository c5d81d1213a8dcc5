"""An organism in training, and the terms of its loss: the answer, what states must say, and interchanges."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from codi_lens.errors import UserError
from codi_lens.model.pretrained import load_pretrained
from codi_lens.organisms.planted.family import FAMILY, Subspaces, size_of
from codi_lens.organisms.planted.interchange import (
    Thinking,
    choices_of,
    think_alone,
    think_exchanged,
)
from codi_lens.organisms.planted.mechanism import Rule
from codi_lens.organisms.planted.recipe import Progress, Recipe
from codi_lens.organisms.planted.task import Problem
from codi_lens.organisms.toy.forward import (
    Batch,
    Prefix,
    encode,
    question_layers,
    student_states,
)


@dataclass
class Pool:
    """Problems of one wording, encoded: all have as many tokens."""

    problems: Sequence[Problem]
    batch: Batch
    values: Tensor
    """v_1 … v_n of each problem, as token ids."""
    operands: Tensor
    """Where each number of the question stands [problem, number]."""

    def rows(self, index: list[int]) -> "Pool":
        """Some of them."""
        batch, at = self.batch, torch.tensor(index)
        chosen = replace(
            batch,
            question=batch.question[at],
            question_mask=batch.question_mask[at],
            cot=batch.cot[at],
            cot_mask=batch.cot_mask[at],
            answer=batch.answer[at],
        )
        return Pool([self.problems[i] for i in index], chosen, self.values[at], self.operands[at])


@dataclass
class Trained:
    """A model in training."""

    recipe: Recipe
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    projection: nn.Module
    readers: nn.Parameter
    """What reads results off the planted subspaces [half, d_half, number]; of use in training only."""
    subspaces: Subspaces | None
    curve: list[Progress] = field(default_factory=list)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained."""
        return [*self.model.parameters(), *self.projection.parameters(), self.readers]


def start(recipe: Recipe) -> Trained:
    """Random weights that depend on the recipe's seed alone; global random state stays as it was."""
    tokenizer, size = FAMILY.make_tokenizer(), size_of(recipe.mechanism)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = FAMILY.make_base(size, len(tokenizer) + len(FAMILY.layout.extra_tokens))
        projection = FAMILY.make_projection(size)
        readers = nn.Parameter(torch.randn(2, size.d_model // 2, 10) / 4)
    halves = Subspaces.drawn(size.d_model, recipe.seed) if recipe.mechanism.subspaces else None
    return Trained(recipe, tokenizer, model, projection, readers, halves)


def take_weights(run: Trained, folder: Path) -> None:
    """Takes the weights of the organism in a folder.

    Raises:
        UserError: it has another vocabulary or shape.
    """
    loaded = load_pretrained(folder)
    if loaded.tokenizer.get_vocab() != run.tokenizer.get_vocab():
        raise UserError(f"{folder}: has another vocabulary; train the organism that it holds anew")
    run.model.load_state_dict(loaded.model.state_dict())
    assert loaded.projection is not None
    run.projection.load_state_dict(loaded.projection.state_dict())


def make_pool(run: Trained, rng: random.Random, count: int, wording: str, *, heldout: bool) -> Pool:
    """Problems of one wording, encoded."""
    problems = run.recipe.mechanism.task.sample(rng, count, wording, heldout=heldout)
    batch = encode(problems, run.tokenizer, FAMILY)
    ids = torch.tensor(run.tokenizer.convert_tokens_to_ids([str(n) for n in range(10)]))
    values = ids[torch.tensor([problem.values for problem in problems])]
    digits = torch.isin(batch.question, ids).nonzero()[:, 1]
    return Pool(problems, batch, values, digits.view(len(problems), -1))


def answer_logits(run: Trained, batch: Batch, prefix: Prefix) -> Tensor:
    """Logits that predict the answer's tokens [batch, pos, d_vocab]."""
    states = student_states(run.model, batch, prefix, run.recipe.mechanism.num_latents)[-1]
    logits: Tensor = run.model.lm_head(states)
    return logits


def expected_results(run: Trained, pool: Pool, donors: Tensor, rules: Sequence[Rule]) -> Tensor:
    """Token ids of the results, the answer last, that follow from the interchanges, one rule a row."""
    results = []
    for problem, donor, rule in zip(pool.problems, donors.tolist(), rules, strict=True):
        given = {i: pool.problems[donor].values[i] for i in rule.sets}
        results.append(run.recipe.mechanism.task.counterfactual(problem, given))
    ids = run.tokenizer.convert_tokens_to_ids([str(n) for n in range(10)])
    return torch.tensor(ids)[torch.tensor(results)]


def says_loss(run: Trained, pool: Pool, thinking: Thinking) -> Tensor:
    """Cross-entropy of the results that states, or subspaces of a thought, must say."""
    mechanism, losses = run.recipe.mechanism, [torch.zeros(())]
    for thought, result in mechanism.says.items():
        logits = run.model.lm_head(thinking.states[thought])
        losses.append(F.cross_entropy(logits, pool.values[:, result]))
    layers = question_layers(run.model, pool.batch) if mechanism.says_in_question else ()
    for (layer, operand), result in mechanism.says_in_question.items():
        at = pool.operands[:, operand]
        state = layers[layer][torch.arange(len(at)), at]
        logits = run.model.lm_head(run.model.get_submodule("model.norm")(state))
        losses.append(F.cross_entropy(logits, pool.values[:, result]))
    if run.subspaces is not None:
        (thought,) = (k for k, held in mechanism.holds.items() if len(held) == 2)
        for half, result in enumerate(mechanism.holds[thought]):
            read = thinking.thoughts[thought] @ run.subspaces.bases[half] @ run.readers[half]
            target = torch.tensor([problem.values[result] for problem in pool.problems])
            losses.append(F.cross_entropy(read, target))
    return torch.stack(losses).sum()


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Of token ids [batch, pos], given logits [batch, pos, d_vocab]."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def interchange_loss(
    run: Trained, pool: Pool, alone: Thinking, donors: Tensor, rules: Sequence[Rule]
) -> Tensor:
    """Cross-entropy of the answers that the interchanges must give."""
    chosen = choices_of(rules, run.recipe.mechanism.num_latents)
    prefix, states = think_exchanged(
        run.model, run.projection, pool.batch, alone, donors, chosen, run.subspaces
    )
    targets = pool.batch.answer.clone()
    expected = expected_results(run, pool, donors, rules)
    targets[:, -2] = expected[:, -1]
    forced = replace(pool.batch, answer=targets)
    loss = cross_entropy(answer_logits(run, forced, prefix), targets)
    if run.recipe.follows:
        loss = loss + run.recipe.follows * _follows_loss(run, pool, states, expected, rules)
    return loss


def _follows_loss(
    run: Trained,
    pool: Pool,
    states: Sequence[Tensor],
    expected: Tensor,
    rules: Sequence[Rule],
) -> Tensor:
    """Cross-entropy of what states must say in a run with exchanges: behind the last of them, what follows from it."""
    losses = []
    for thought, result in run.recipe.mechanism.says.items():
        behind = [thought > max(latent for _, latent in rule.exchanged) for rule in rules]
        target = torch.where(torch.tensor(behind), expected[:, result], pool.values[:, result])
        losses.append(F.cross_entropy(run.model.lm_head(states[thought]), target))
    return torch.stack(losses).sum()


@torch.no_grad()
def rates(run: Trained, pool: Pool) -> tuple[float, list[float]]:
    """Share of the problems answered right, and of interchanges that do what each rule says."""
    mechanism = run.recipe.mechanism
    alone = think_alone(run.model, run.projection, pool.batch, mechanism.num_latents)
    said = answer_logits(run, pool.batch, alone.prefix)[:, -2].argmax(-1)
    accuracy = float((said == pool.batch.answer[:, -2]).float().mean())
    donors = torch.arange(len(pool.problems)).roll(1)
    kept = []
    for rule in mechanism.rules:
        rules = [rule] * len(pool.problems)
        chosen = choices_of(rules, mechanism.num_latents)
        prefix, _ = think_exchanged(
            run.model, run.projection, pool.batch, alone, donors, chosen, run.subspaces
        )
        said = answer_logits(run, pool.batch, prefix)[:, -2].argmax(-1)
        kept.append(
            float((said == expected_results(run, pool, donors, rules)[:, -1]).float().mean())
        )
    return accuracy, kept
