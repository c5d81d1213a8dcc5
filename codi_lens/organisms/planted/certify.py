"""Does an organism do what its card says? Its accuracy, and every rule of its mechanism, on held-out problems.

Measured on the loaded model through the latent loop that everything else uses, by whole greedy answers.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from codi_lens.analysis.asking import right
from codi_lens.analysis.subspaces import Example
from codi_lens.errors import one_of
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import AddressedHook, HookFn, Site, capture, replace
from codi_lens.organisms.planted.mechanism import KV, THOUGHT, Rule
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
        self._kept = [self._capture(batch) for batch in batches]

    @cached_property
    def accuracy(self) -> float:
        """Share of problems answered right without any interchange."""
        given = [
            self._right(batch, (), [problem.answer for problem in batch]) for batch in self.batches
        ]
        return _share(given)

    def rate(self, rule: Rule) -> float:
        """Share of interchanges after which the answer is what the rule says."""
        given = []
        for batch, kept in zip(self.batches, self._kept, strict=True):
            expected = counterfactuals(self.truth, batch, rule)
            given.append(self._right(batch, self._hooks(rule, kept), expected))
        return _share(given)

    def _sites(self) -> list[Site]:
        return [
            Site(name, step)
            for step in range(self.truth.num_latents)
            for name in ("hook_embed", *_keys_and_values(self.codi))
        ]

    def _capture(self, batch: Sequence[Problem]) -> dict[Site, Tensor]:
        """The thoughts, keys and values of a batch's own runs."""
        into: dict[Site, list[Tensor]] = {site: [] for site in self._sites()}
        hooks = [(site, capture(kept)) for site, kept in into.items()]
        questions, answers = [p.question for p in batch], [p.answer for p in batch]
        with torch.no_grad():
            self.codi.run_with_hooks(questions, answers, fwd_hooks=hooks)
        return {site: kept[0][:, -1] for site, kept in into.items()}

    def _hooks(self, rule: Rule, kept: Mapping[Site, Tensor]) -> list[AddressedHook]:
        hooks: list[AddressedHook] = []
        for part, step in rule.exchanged:
            names = _keys_and_values(self.codi) if part == KV else ["hook_embed"]
            for site in (Site(name, step) for name in names):
                other = _lent(kept[site])
                exchange = replace(other) if part in (KV, THOUGHT) else self._half(part, other)
                hooks.append((site, exchange))
        held = [Site("hook_embed", step) for step in rule.held]
        return [*hooks, *((site, replace(kept[site])) for site in held)]

    def _half(self, part: str, other: Tensor) -> HookFn:
        halves, half = self.truth.halves, int(part.removeprefix("half "))
        assert halves is not None

        def exchange(activation: Tensor, hook: object) -> Tensor:
            return halves.exchanged(activation[:, -1], other, half)[:, None]

        return exchange

    def _right(
        self, batch: Sequence[Problem], hooks: Sequence[AddressedHook], answers: Sequence[int]
    ) -> tuple[bool, ...]:
        questions = [problem.question for problem in batch]
        texts = self.codi.generate(questions, max_new_tokens=ANSWER_TOKENS, fwd_hooks=hooks)
        return right(self.codi, texts, answers)


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
        for problem, other in zip(batch, [*batch[1:], batch[0]], strict=True):
            given = {index: other.values[index]}
            answer = truth.planted.task.counterfactual(problem, given)[-1]
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


def _keys_and_values(codi: HookedCodi) -> list[str]:
    layers = range(codi.model.cfg.n_layers)
    return [f"blocks.{layer}.attn.{hook}" for layer in layers for hook in ("hook_k", "hook_v")]


def _lent(kept: Tensor) -> Tensor:
    return kept.roll(-1, dims=0)


def _share(given: Sequence[Sequence[bool]]) -> float:
    return sum(map(sum, given)) / sum(map(len, given))
