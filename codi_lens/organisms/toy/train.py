"""The recipe of the embedded models: from random weights to a model that needs its thoughts.

1. *Base*: a plain causal LM learns to solve the problems by written-out steps. Its last step is left
   out, as in CODI's official default, so the model does that one in its head.
2. *CODI* (Shen et al., arXiv 2502.21074): the same weights act as teacher, which writes its steps, and as
   student, which thinks in latents. Loss: teacher cross-entropy + student cross-entropy + 20 × the
   distance of their hidden states in every layer at the token before the answer number.

Three things differ from the paper. For half of the problems, in training only, the answer tokens may not attend to
the question, nor to the first few thoughts (`Stage.sealed`): CODI alone lets a small model read the last operand
from the question, sealing makes the thoughts carry it all. A third stage unlearns answering from the question (`Stage.swapped`). And all
weights are trained, not just low-rank adapters, as a model this small does not learn the task otherwise; the
checkpoint's layout is the official one.

The model in Coconut's layout (Hao et al., arXiv 2412.06769) is trained in the same way, in Coconut's sequence and without a
projection. Coconut's own training has a curriculum instead: written steps give way to thoughts, one after the other.
"""

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from codi_lens.errors import one_of
from codi_lens.organisms.toy import task
from codi_lens.organisms.toy.family import FAMILIES, Family, Size
from codi_lens.organisms.toy.forward import (
    Batch,
    Prefix,
    encode,
    greedy_answers,
    lent,
    own,
    read_question,
    student_states,
    teacher_states,
    think,
)

EMPTY_WEIGHT = 0.25
"""Of the loss without thoughts, which has nothing to learn from and would drown the others."""


@dataclass(frozen=True)
class Stage:
    """One optimisation run: AdamW under a cosine schedule with a short warm-up."""

    name: str
    steps: int
    batch: int
    lr: float
    clip: float = 1.0
    weight_decay: float = 0.1
    sealed: float = 0.0
    """Share of problems whose answer tokens may not attend to the question."""
    swapped: bool = False
    """Whether each question is also to give another one's answer: on its thoughts, and on none."""
    codi: bool = True
    """Whether there is a student; without one this is plain training on written-out steps."""


@dataclass(frozen=True)
class Recipe:
    """Everything that the trained weights depend on."""

    seed: int = 0
    family: str = "toy"
    """Name in `FAMILIES`."""
    size: Size = field(default_factory=Size)
    stages: tuple[Stage, ...] = (
        Stage("base", steps=1500, batch=64, lr=4e-3, codi=False),
        Stage("codi", steps=6500, batch=64, lr=2e-3, clip=2.0, sealed=0.5),
        Stage("swap", steps=1500, batch=64, lr=1e-3, clip=2.0, sealed=0.5, swapped=True),
    )
    distill: float = 20.0
    kind_weights: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(task.KINDS, 1.0) | {"mul_add": 2.0, "mul_sub": 2.0}
    )
    """How often each kind is drawn, relative to the others; those that start with a product are the hardest."""


def recipe_of(family: str, seed: int = 0) -> Recipe:
    """The recipe of a shipped model, by its name in `FAMILIES`."""
    known = FAMILIES[one_of(family, FAMILIES, "family")]
    return Recipe(seed=seed, family=family, size=known.size)


@dataclass(frozen=True)
class Progress:
    """A line of the training curve."""

    stage: str
    step: int
    seconds: float
    teacher_loss: float
    student_loss: float
    distill_loss: float
    accuracy: float
    """Share of held-out problems answered right, by the student where there is one."""


@dataclass
class Trained:
    """Weights on the way and at the end of a run."""

    recipe: Recipe
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    projection: nn.Module
    base: dict[str, Tensor] = field(default_factory=dict)
    """State dict of the model after its last stage without a student."""
    curve: list[Progress] = field(default_factory=list)

    @property
    def family(self) -> Family:
        """What tells the model from the others."""
        return FAMILIES[self.recipe.family]


def start(recipe: Recipe) -> Trained:
    """Random weights that depend on the recipe's seed alone; global random state stays as it was."""
    family, size = FAMILIES[recipe.family], recipe.size
    tokenizer = family.make_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = family.make_base(size, len(tokenizer) + len(family.layout.extra_tokens))
        projection = family.make_projection(size)
    return Trained(recipe, tokenizer, model, projection)


def _cross_entropy(logits: Tensor, targets: Tensor, keep: Tensor | None = None) -> Tensor:
    if keep is not None:
        logits, targets = logits[keep], targets[keep]
    return F.cross_entropy(rearrange(logits, "... vocab -> (...) vocab"), targets.flatten())


def _teacher_loss(
    model: PreTrainedModel, batch: Batch, prefix: Prefix, last: Tensor, all_layers: bool
) -> tuple[Tensor, list[Tensor]]:
    """Cross-entropy of the steps and the answer; states of each layer before the answer number."""
    layers = teacher_states(model, batch, prefix, all_layers=all_layers)
    # The first step's first token comes after `last`.
    states = torch.cat([rearrange(last, "batch d_model -> batch 1 d_model"), layers[-1]], dim=1)
    targets = torch.cat([batch.cot, batch.answer], dim=1)
    # A state is kept if the token that it predicts is real; padding sits between steps and answer, so the
    # answer's first token is predicted by the last real token before it and not by its left neighbour.
    width = batch.cot.shape[1]
    n_steps = batch.cot_mask.sum(1)
    source = torch.arange(targets.shape[1]).expand(targets.shape).clone()
    source[:, width] = n_steps
    states = states.gather(
        1, repeat(source, "batch pos -> batch pos d_model", d_model=states.shape[-1])
    )
    keep = torch.cat([batch.cot_mask, torch.ones_like(batch.answer, dtype=torch.bool)], dim=1)
    return _cross_entropy(model.lm_head(states[keep]), targets[keep]), [h[:, -2] for h in layers]


def _seal(prefix: Prefix, n_latents: int, share: float, generator: torch.Generator) -> Prefix:
    """Hide question, bot and the first 0..N-2 thoughts from what comes next, for a share of the rows."""
    n_rows, n_keys = prefix.visible.shape
    sealed = torch.rand(n_rows, 1, generator=generator) < share
    first_seen = torch.randint(0, max(n_latents - 1, 1), (n_rows, 1), generator=generator)
    hidden = torch.arange(n_keys) < n_keys - n_latents + first_seen
    return Prefix(prefix.cache, prefix.visible & ~(sealed & hidden), prefix.state)


def _swapped_loss(run: Trained, batch: Batch, prefix: Prefix, thoughts: Tensor) -> Tensor:
    """Trains each question to give the next one's answer, with the next one's thoughts and with none.

    The first makes the answer follow the thoughts wherever question and thoughts disagree. The second cannot
    be learned, since nothing there tells the next one's answer; it unlearns answering from the question.
    """
    other = replace(batch, answer=batch.answer.roll(-1, dims=0))
    loss = torch.zeros(())
    for n_latents, weight in ((run.recipe.size.n_latents, 1.0), (0, EMPTY_WEIGHT)):
        fed = thoughts.roll(-1, dims=0)
        thinking, _ = think(run.model, lent(fed), batch, prefix, n_latents)
        states = student_states(run.model, other, thinking, n_latents)[-1]
        loss = loss + weight * _cross_entropy(run.model.lm_head(states), other.answer)
    return loss


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    """CODI's distance of two hidden states: smooth L1, in units of the teacher's standard deviation."""
    target = teacher.detach()
    return F.smooth_l1_loss(student, target) / target.std()


def _losses(
    run: Trained, stage: Stage, batch: Batch, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Teacher, student and distillation loss of a batch."""
    model, n_latents = run.model, run.recipe.size.n_latents
    prefix, last = read_question(model, batch)
    teacher_loss, teacher_layers = _teacher_loss(model, batch, prefix, last, stage.codi)
    if not stage.codi:
        return teacher_loss, torch.zeros(()), torch.zeros(())
    thinking, thoughts = think(model, own(run.projection), batch, prefix, n_latents)
    thinking = _seal(thinking, n_latents, stage.sealed, generator)
    layers = student_states(model, batch, thinking, n_latents, all_layers=True)
    student_loss = _cross_entropy(model.lm_head(layers[-1]), batch.answer)
    if stage.swapped:
        student_loss = student_loss + _swapped_loss(
            run, batch, prefix, torch.stack(thoughts, dim=1)
        )
    distances = [_distance(h[:, -2], t) for h, t in zip(layers, teacher_layers, strict=True)]
    return teacher_loss, student_loss, torch.stack(distances).mean()


def _schedule(step: int, stage: Stage) -> float:
    """Learning rate relative to the peak: linear warm-up over 4%, then a cosine to nearly zero."""
    warmup = max(1, stage.steps // 25)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, stage.steps - warmup)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2


def _batches(run: Trained, stage: Stage, rng: random.Random) -> Iterator[Batch]:
    for _ in range(stage.steps):
        problems = [task.sample_training(rng, run.recipe.kind_weights) for _ in range(stage.batch)]
        yield encode(problems, run.tokenizer, run.family)


@torch.no_grad()
def teacher_accuracy(run: Trained, problems: list[task.Problem]) -> float:
    """Share of problems whose answer the teacher gives right, its steps forced."""
    batch = encode(problems, run.tokenizer, run.family)
    prefix, _ = read_question(run.model, batch)
    states = teacher_states(run.model, batch, prefix)[-1][:, -2:]
    right = run.model.lm_head(states).argmax(-1) == batch.answer[:, -2:]
    return float(right.all(1).float().mean())


def student_accuracy(run: Trained, problems: list[task.Problem]) -> float:
    """Share of problems that the student answers right, decoding greedily."""
    batch = encode(problems, run.tokenizer, run.family)
    n_latents = run.recipe.size.n_latents
    answers = greedy_answers(run.model, run.projection, run.tokenizer, batch, n_latents)
    right = [answer == p.answer for answer, p in zip(answers, problems, strict=True)]
    return sum(right) / len(right)


def train_stage(
    run: Trained, stage: Stage, report: Callable[[Progress], None], every: int = 250
) -> None:
    """Train `run` in place through one stage; `report` gets a line of the curve every so many steps."""
    rng = random.Random(f"{run.recipe.seed}/{stage.name}")
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    parameters = [*run.model.parameters(), *(run.projection.parameters() if stage.codi else ())]
    optimizer = torch.optim.AdamW(
        parameters, lr=stage.lr, betas=(0.9, 0.98), weight_decay=stage.weight_decay, fused=True
    )
    validation = task.heldout_problems(seed=1, per_kind=50)
    began, sums = time.perf_counter(), torch.zeros(3)
    for step, batch in enumerate(_batches(run, stage, rng)):
        optimizer.param_groups[0]["lr"] = stage.lr * _schedule(step, stage)
        losses = _losses(run, stage, batch, generator)
        loss = losses[0] + losses[1] + run.recipe.distill * losses[2]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, stage.clip)
        optimizer.step()
        sums += torch.stack([term.detach() for term in losses])
        if (step + 1) % every == 0 or step + 1 == stage.steps:
            accuracy = (student_accuracy if stage.codi else teacher_accuracy)(run, validation)
            means = (sums / (step % every + 1)).tolist()
            seconds = time.perf_counter() - began
            line = Progress(stage.name, step + 1, seconds, means[0], means[1], means[2], accuracy)
            sums.zero_()
            run.curve.append(line)
            report(line)


def train(recipe: Recipe, report: Callable[[Progress], None]) -> Trained:
    """Run the whole recipe; `report` gets the training curve line by line."""
    run = start(recipe)
    for stage in recipe.stages:
        train_stage(run, stage, report)
        if not stage.codi:
            run.base = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    run.model.eval()
    return run
