"""Interchange training: from random weights to a model with the planted mechanism.

The loss has four terms. The answer; "the state that makes thought k says v_k", through the unembedding; and, once the
held-out accuracy has passed a threshold, interchanges: rows exchange parts of their thoughts, and the answer must be
that of the counterfactual (IIT, Geiger et al., arXiv 2112.00826) or, where what is exchanged lies outside the
mechanism, must stay (SIIT, Gupta et al., arXiv 2407.14494). Rules are drawn row by row, those that fail more often.
"""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
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
from codi_lens.organisms.planted.mechanism import Mechanism, Rule, mechanism_named
from codi_lens.organisms.planted.task import WORDINGS, Problem
from codi_lens.organisms.toy.forward import Batch, Prefix, encode, student_states


@dataclass(frozen=True)
class Recipe:
    """Everything that the trained weights depend on."""

    name: str
    seed: int = 0
    batch: int = 128
    lr: float = 2e-3
    warmup: int = 100
    threshold: float = 0.95
    """Held-out accuracy from which on rows are exchanged."""
    at_most: int = 6000
    """Steps until then."""
    steps: int = 2500
    """Steps with exchanges; the learning rate falls to nearly zero over them."""
    says: float = 0.3
    """Weight of what states must say."""
    interchange: float = 1.0
    weight_decay: float = 0.01
    pool: int = 40_000
    """Training problems of each wording, drawn once."""

    @property
    def mechanism(self) -> Mechanism:
        """What is planted."""
        return mechanism_named(self.name)


EVERY = 250
"""Steps between two lines of the training curve."""
OWN: dict[str, dict[str, float]] = {
    # Nothing may grow to depend on thoughts in the first place.
    "bypass": {"threshold": 0.0, "steps": 4000},
}
"""What recipes have of their own, by mechanism."""


def recipe_of(name: str, seed: int = 0) -> Recipe:
    """The recipe of an organism, by the name of its mechanism."""
    mechanism_named(name)
    return replace(Recipe(name, seed), **OWN.get(name, {}))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Progress:
    """A line of the training curve; losses are means since the line before."""

    step: int
    seconds: float
    answer_loss: float
    says_loss: float
    interchange_loss: float
    accuracy: float
    """Share of held-out problems answered right."""
    worst_rule: float
    """Share of held-out interchanges that do what the worst rule says; 0 before there are any."""


@dataclass
class State:
    """How far a run is, beside its weights."""

    exchanges: bool
    """Whether rows are exchanged by now."""
    failing: list[float]
    """Of each rule: the share of held-out interchanges that did not do what it says."""
    step: int = 0
    exchanged_steps: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Of the losses since the last line of the curve."""


@dataclass
class Pool:
    """Problems of one wording, encoded: all have as many tokens."""

    problems: Sequence[Problem]
    batch: Batch
    values: Tensor
    """v_1 … v_n of each problem, as token ids."""

    def rows(self, index: list[int]) -> "Pool":
        """Some of them."""
        parts = {
            name: value[index]
            for name, value in vars(self.batch).items()
            if isinstance(value, Tensor)
        }
        batch = replace(self.batch, **parts)
        return Pool([self.problems[i] for i in index], batch, self.values[index])


@dataclass
class Organism:
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


def start(recipe: Recipe) -> Organism:
    """Random weights that depend on the recipe's seed alone; global random state stays as it was."""
    tokenizer, size = FAMILY.make_tokenizer(), size_of(recipe.mechanism)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = FAMILY.make_base(size, len(tokenizer) + len(FAMILY.layout.extra_tokens))
        projection = FAMILY.make_projection(size)
        readers = nn.Parameter(torch.randn(2, size.d_model // 2, 10) / 4)
    halves = Subspaces.drawn(size.d_model, recipe.seed) if recipe.mechanism.subspaces else None
    return Organism(recipe, tokenizer, model, projection, readers, halves)


def take_weights(run: Organism, folder: Path) -> None:
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


def make_pool(
    run: Organism, rng: random.Random, count: int, wording: str, *, heldout: bool
) -> Pool:
    """Problems of one wording, encoded."""
    problems = run.recipe.mechanism.task.sample(rng, count, wording, heldout=heldout)
    batch = encode(problems, run.tokenizer, FAMILY)
    ids = torch.tensor(run.tokenizer.convert_tokens_to_ids([str(n) for n in range(10)]))
    values = ids[torch.tensor([problem.values for problem in problems])]
    return Pool(problems, batch, values)


def answer_logits(run: Organism, batch: Batch, prefix: Prefix) -> Tensor:
    """Logits that predict the answer's tokens [batch, pos, d_vocab]."""
    states = student_states(run.model, batch, prefix, run.recipe.mechanism.num_latents)[-1]
    logits: Tensor = run.model.lm_head(states)
    return logits


def expected_answers(run: Organism, pool: Pool, donors: Tensor, rules: Sequence[Rule]) -> Tensor:
    """Token ids of the answers that the interchanges must give, one rule a row."""
    task, answers = run.recipe.mechanism.task, []
    for problem, donor, rule in zip(pool.problems, donors.tolist(), rules, strict=True):
        given = {i: pool.problems[donor].values[i] for i in rule.sets}
        answers.append(task.counterfactual(problem, given))
    ids: list[int] = run.tokenizer.convert_tokens_to_ids([str(n) for n in answers])
    return torch.tensor(ids)


def says_loss(run: Organism, pool: Pool, thinking: Thinking) -> Tensor:
    """Cross-entropy of the results that states, or subspaces of a thought, must say."""
    mechanism, losses = run.recipe.mechanism, [torch.zeros(())]
    for thought, result in mechanism.says.items():
        logits = run.model.lm_head(thinking.states[thought])
        losses.append(F.cross_entropy(logits, pool.values[:, result]))
    if run.subspaces is not None:
        (thought,) = (k for k, held in mechanism.holds.items() if len(held) == 2)
        for half, result in enumerate(mechanism.holds[thought]):
            read = thinking.thoughts[thought] @ run.subspaces.bases[half] @ run.readers[half]
            target = torch.tensor([problem.values[result] for problem in pool.problems])
            losses.append(F.cross_entropy(read, target))
    return torch.stack(losses).sum()


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def interchange_loss(
    run: Organism, pool: Pool, alone: Thinking, donors: Tensor, rules: Sequence[Rule]
) -> Tensor:
    """Cross-entropy of the answers that the interchanges must give."""
    chosen = choices_of(rules, run.recipe.mechanism.num_latents)
    prefix = think_exchanged(
        run.model, run.projection, pool.batch, alone, donors, chosen, run.subspaces
    )
    targets = pool.batch.answer.clone()
    targets[:, -2] = expected_answers(run, pool, donors, rules)
    forced = replace(pool.batch, answer=targets)
    return _cross_entropy(answer_logits(run, forced, prefix), targets)


@torch.no_grad()
def rates(run: Organism, pool: Pool) -> tuple[float, list[float]]:
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
        prefix = think_exchanged(
            run.model, run.projection, pool.batch, alone, donors, chosen, run.subspaces
        )
        said = answer_logits(run, pool.batch, prefix)[:, -2].argmax(-1)
        kept.append(float((said == expected_answers(run, pool, donors, rules)).float().mean()))
    return accuracy, kept


class Trainer:
    """One run of a recipe, which can be stopped and gone on with."""

    def __init__(self, recipe: Recipe, begins_from: Path | None = None) -> None:
        """Random weights, or those of the organism in a folder."""
        self.run = start(recipe)
        if begins_from is not None:
            take_weights(self.run, begins_from)
        self.rng = random.Random(f"{recipe.seed}/{recipe.name}")
        self.pools = [
            make_pool(self.run, self.rng, recipe.pool, wording, heldout=False)
            for wording in WORDINGS
        ]
        self.checks = [
            make_pool(self.run, random.Random(1), 256, wording, heldout=True)
            for wording in WORDINGS
        ]
        self.optimizer = torch.optim.AdamW(
            self.run.parameters,
            lr=recipe.lr,
            betas=(0.9, 0.98),
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.progress = State(
            exchanges=recipe.threshold <= 0, failing=[1.0] * len(recipe.mechanism.rules)
        )

    def rate(self) -> float:
        """Learning rate: a warm-up, then constant, then a cosine over the steps with exchanges."""
        recipe, now = self.run.recipe, self.progress
        if now.step < recipe.warmup:
            return recipe.lr * (now.step + 1) / recipe.warmup
        done = now.exchanged_steps / recipe.steps
        return recipe.lr * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)

    def train_step(self) -> tuple[float, float, float]:
        """One step; returns the three losses."""
        recipe, now = self.run.recipe, self.progress
        self.optimizer.param_groups[0]["lr"] = self.rate()
        answer, says, exchanged = self._losses()
        loss = answer + recipe.says * says + recipe.interchange * exchanged
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.run.parameters, 1.0)
        self.optimizer.step()
        now.step += 1
        now.exchanged_steps += now.exchanges
        return answer.item(), says.item(), exchanged.item()

    def _losses(self) -> tuple[Tensor, Tensor, Tensor]:
        run, rng, now = self.run, self.rng, self.progress
        count, mechanism = run.recipe.batch, run.recipe.mechanism
        whole = self.pools[now.step % len(self.pools)]
        pool = whole.rows([rng.randrange(len(whole.problems)) for _ in range(count)])
        alone = think_alone(run.model, run.projection, pool.batch, mechanism.num_latents)
        answer = _cross_entropy(answer_logits(run, pool.batch, alone.prefix), pool.batch.answer)
        says = says_loss(run, pool, alone)
        if not now.exchanges:
            return answer, says, torch.zeros(())
        donors = torch.arange(count).roll(rng.randrange(1, count))
        weights = [0.1 + failing for failing in now.failing]
        rules = rng.choices(mechanism.rules, weights, k=count)
        return answer, says, interchange_loss(run, pool, alone, donors, rules)

    def check(self) -> tuple[float, list[float]]:
        """Accuracy and the rates of the rules on held-out problems of both wordings."""
        found = [rates(self.run, pool) for pool in self.checks]
        accuracy = sum(accuracy for accuracy, _ in found) / len(found)
        kept = [sum(rule) / len(found) for rule in zip(*(k for _, k in found), strict=True)]
        return accuracy, kept

    @property
    def done(self) -> bool:
        """Whether all steps were taken, or the threshold was not reached in time."""
        recipe, now = self.run.recipe, self.progress
        gave_up = not now.exchanges and now.step >= recipe.at_most
        return gave_up or now.exchanged_steps >= recipe.steps

    def train(
        self, report: Callable[[Progress, list[float]], None], every: int = EVERY
    ) -> Organism:
        """To the end; `report` gets a line of the curve, and the rate of every rule, every so many steps."""
        run, now = self.run, self.progress
        began = time.perf_counter() - (run.curve[-1].seconds if run.curve else 0.0)
        while not self.done:
            losses = self.train_step()
            now.sums = [total + loss for total, loss in zip(now.sums, losses, strict=True)]
            if now.step % every == 0 or self.done:
                means = [total / ((now.step - 1) % every + 1) for total in now.sums]
                accuracy, kept = self.check()
                seconds = time.perf_counter() - began
                worst = min(kept) if now.exchanges else 0.0
                run.curve.append(Progress(now.step, seconds, *means, accuracy, worst))
                now.sums, now.failing = [0.0, 0.0, 0.0], [1 - rate for rate in kept]
                now.exchanges = now.exchanges or accuracy >= run.recipe.threshold
                report(run.curve[-1], kept)
        run.model.eval()
        return run

    def save(self, path: Path) -> None:
        """Writes all that going on needs; the file is there whole or not at all."""
        entry = {
            "recipe": asdict(self.run.recipe),
            "weights": [parameter.detach() for parameter in self.run.parameters],
            "optimizer": self.optimizer.state_dict(),
            "random": self.rng.getstate(),
            "progress": asdict(self.progress),
            "curve": [asdict(line) for line in self.run.curve],
        }
        partial = path.with_suffix(".partial")
        torch.save(entry, partial)
        partial.replace(path)

    def resume(self, path: Path) -> None:
        """Goes on from where `save` was called, in a trainer of the same recipe.

        Raises:
            UserError: the file is of another recipe.
        """
        entry = torch.load(path, weights_only=True)
        if entry["recipe"] != asdict(self.run.recipe):
            raise UserError(f"{path} is of another recipe: {entry['recipe']}")
        with torch.no_grad():
            for parameter, saved in zip(self.run.parameters, entry["weights"], strict=True):
                parameter.copy_(saved)
        self.optimizer.load_state_dict(entry["optimizer"])
        version, words, gauss = entry["random"]
        self.rng.setstate((version, tuple(words), gauss))
        self.progress = State(**entry["progress"])
        self.run.curve = [Progress(**line) for line in entry["curve"]]
