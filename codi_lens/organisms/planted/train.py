"""Interchange training: from random weights to a model with the planted mechanism.

The loss has four terms. The answer; "the state that makes thought k says v_k", through the unembedding; and, once the
held-out accuracy has passed a threshold, interchanges: rows exchange parts of their thoughts, and the answer must be
that of the counterfactual (IIT, Geiger et al., arXiv 2112.00826) or, where what is exchanged lies outside the
mechanism, must stay (SIIT, Gupta et al., arXiv 2407.14494). Rules are drawn row by row, those that fail more often.
"""

import math
import random
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from codi_lens.errors import UserError
from codi_lens.organisms.planted.interchange import think_alone
from codi_lens.organisms.planted.losses import (
    Trained,
    answer_logits,
    cross_entropy,
    interchange_loss,
    make_pool,
    rates,
    says_loss,
    start,
    take_weights,
)
from codi_lens.organisms.planted.recipe import EVERY, Progress, Recipe, State
from codi_lens.organisms.planted.task import WORDINGS


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
        loss.backward()
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
        answer = cross_entropy(answer_logits(run, pool.batch, alone.prefix), pool.batch.answer)
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

    def train(self, report: Callable[[Progress, list[float]], None], every: int = EVERY) -> Trained:
        """To the end; `report` gets a line of the curve, and the rate of every rule, every so many steps."""
        run, now = self.run, self.progress
        began = time.perf_counter() - (run.curve[-1].seconds if run.curve else 0.0)
        while not self.done:
            losses = self.train_step()
            now.sums = [total + loss for total, loss in zip(now.sums, losses, strict=True)]
            if now.step % every == 0 or self.done:
                answer, says, exchanged = (s / ((now.step - 1) % every + 1) for s in now.sums)
                accuracy, kept = self.check()
                seconds, worst = time.perf_counter() - began, min(kept) if now.exchanges else 0.0
                line = Progress(now.step, seconds, answer, says, exchanged, accuracy, worst)
                run.curve.append(line)
                now.sums, now.failing = [0.0, 0.0, 0.0], [1 - rate for rate in kept]
                now.exchanges = now.exchanges or accuracy >= run.recipe.threshold
                report(line, kept)
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
