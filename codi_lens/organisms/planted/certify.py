"""Does an organism do what its card says? Its accuracy, and every rule of its mechanism, on held-out problems.

Measured on the loaded model through the latent loop that everything else uses, by whole greedy answers.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.analysis.asking import right
from codi_lens.analysis.subspaces import Example
from codi_lens.errors import one_of
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.organisms.planted.mechanism import KV, PARTS, THOUGHT, Rule
from codi_lens.organisms.planted.task import WORDINGS, Problem
from codi_lens.organisms.planted.truth import Truth

BAR_ACCURACY, BAR_RULES = 0.99, 0.98
"""What an organism must reach to be shipped."""
PROBLEMS = 1000
"""On which it is measured."""
BATCH = 250
ANSWER_TOKENS = 6
"""Two more than an answer has: what goes on after the number is wrong."""


@dataclass(frozen=True)
class Certificate:
    """What was measured."""

    n: int
    accuracy: float
    rules: Mapping[str, float]
    """Rule, in words -> share of interchanges after which the answer is what the rule says."""

    @property
    def holds(self) -> bool:
        """Whether all bars are met."""
        return self.accuracy >= BAR_ACCURACY and min(self.rules.values()) >= BAR_RULES


class Interchanges:
    """Interchanges between problems: each takes what it is lent from the next one of its batch.

    Args:
        codi: the organism.
        truth: the truth about it.
        batches: problems; those of a batch have one wording.
    """

    def __init__(
        self, codi: HookedCodi, truth: Truth, batches: Sequence[Sequence[Problem]]
    ) -> None:
        self.codi, self.truth, self.batches = codi, truth, batches

    @cached_property
    def accuracy(self) -> float:
        """Share of problems answered right without any interchange."""
        return self.rate(Rule(()))

    def rate(self, rule: Rule) -> float:
        """Share of interchanges after which the answer is what the rule says."""
        given: list[bool] = []
        for batch in self.batches:
            texts = self._answers(batch, rule)
            given += right(self.codi, texts, counterfactuals(self.truth, batch, rule))
        return sum(given) / len(given)

    @torch.no_grad()
    def _answers(self, batch: Sequence[Problem], rule: Rule) -> list[str]:
        """Greedy answers under a rule. Behind the rows that are changed run those that lend, as they are.

        Keys and values are exchanged when their step is done: a latent that attended to another's would move its own
        state as well.
        """
        codi, rows = self.codi, list(range(len(batch)))
        lenders = [len(rows) + (row + 1) % len(rows) for row in rows]
        read = codi.read_to_share([problem.question for problem in batch], through_bot=True)
        state = read.select([*rows, *rows])
        for step in range(self.truth.num_latents):
            state.thoughts[-1] = self._fed(state.thoughts[-1], lenders, rule, step)
            codi.loop.latent_step(state, step)
            if (KV, step) in rule.exchanged:
                state.lend(step, rows, lenders)
        tokens = codi.decode(state.select(rows), ANSWER_TOKENS)
        return [codi.tokens.text(ids) for ids in tokens]

    def _fed(
        self, thoughts: Float[Tensor, "row d_model"], lenders: Sequence[int], rule: Rule, step: int
    ) -> Float[Tensor, "row d_model"]:
        """The thoughts that are fed at a step, with what the rule exchanges there."""
        own, kept = thoughts[: len(lenders)], thoughts[len(lenders) :]
        other, halves = thoughts[torch.tensor(lenders)], self.truth.halves
        for part, at in rule.exchanged:
            if at == step and part == THOUGHT:
                own = other
            elif at == step and part != KV:
                assert halves is not None
                own = halves.exchanged(own, other, PARTS.index(part) - PARTS.index("half 0"))
        return torch.cat([kept if step in rule.held else own, kept])


def counterfactuals(truth: Truth, batch: Sequence[Problem], rule: Rule) -> list[int]:
    """The answers that an interchange of a rule must give, each problem lent to by the next."""
    task = truth.planted.task
    return [
        task.counterfactual(problem, {i: other.values[i] for i in rule.sets})[-1]
        for problem, other in zip(batch, [*batch[1:], batch[0]], strict=True)
    ]


def heldout(truth: Truth, problems: int, seed: int = 2) -> list[list[Problem]]:
    """Held-out problems in batches, half of them in either wording."""
    rng, each = random.Random(seed), problems // len(WORDINGS)
    samples = [truth.planted.task.sample(rng, each, wording, heldout=True) for wording in WORDINGS]
    return [sample[i : i + BATCH] for sample in samples for i in range(0, each, BATCH)]


def examples(truth: Truth, result: str, count: int = 400, seed: int = 3) -> list[Example]:
    """Interchanges of one result between held-out problems, each with the answer that follows; for `align`."""
    index, found = truth.variables.index(one_of(result, truth.variables, "result")), []
    for batch in heldout(truth, count, seed):
        answers = counterfactuals(truth, batch, Rule((), (index,)))
        for problem, other, answer in zip(batch, [*batch[1:], batch[0]], answers, strict=True):
            found.append(Example(problem.question, other.question, answer))
    return found


def certify(codi: HookedCodi, truth: Truth, problems: int = PROBLEMS) -> Certificate:
    """Measures an organism on held-out problems.

    Args:
        codi: the organism.
        truth: what it is said to do.
        problems: how many, half of them in either wording.
    """
    found = Interchanges(codi, truth, heldout(truth, problems))
    rules = {rule.name: found.rate(rule) for rule in truth.planted.rules}
    return Certificate(sum(map(len, found.batches)), found.accuracy, rules)


def interchange_accuracy(
    codi: HookedCodi, truth: Truth, problems: int = 200
) -> dict[str, list[float]]:
    """Result -> for each thought, the share of interchanges of the thought that set that result (IIA).

    A thought without the result still gives the answer expected where two problems agree: about one in ten.
    """
    found = Interchanges(codi, truth, heldout(truth, problems))
    return {
        name: [found.rate(Rule(((THOUGHT, k),), (result,))) for k in range(truth.num_latents)]
        for result, name in enumerate(truth.variables)
    }
