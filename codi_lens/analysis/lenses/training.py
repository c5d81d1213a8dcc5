"""How a tuned lens is trained: on the states of the model's own runs, which are collected once.

The maps begin at zero, which is the logit lens, and are trained to bring the distribution that is read close to the
model's final one at the same position: KL(final ‖ lens). At bot and at the latents, the final distribution is what the
final state says, before the projection makes a thought of it. The last layer's map stays the identity.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.analysis.lenses.logit import log_shares, read_out, resid_names, steps_of
from codi_lens.analysis.lenses.tuned import HeldOut, TunedLens, identity, moved
from codi_lens.errors import UserError, whole_number
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import Step

HELD_OUT = 4
"""One question in so many is not learned from."""
QUESTIONS = 64
"""Side by side in a run of the model."""
POSITIONS = 512
"""Read at a time, and in a learning step."""

States = dict[Step, Float[Tensor, "layer pos d_model"]]
"""Step -> every layer's output at all positions of the step, over questions."""
Map = tuple[Float[Tensor, "d_model d_model"], Float[Tensor, " d_model"]]
"""W and b."""


def train_tuned_lens(
    codi: HookedCodi,
    questions: Sequence[str],
    *,
    per_step: bool = False,
    steps: Sequence[Step] | None = None,
    num_latents: int | None = None,
    learning_steps: int = 400,
    lr: float = 2e-3,
    seed: int = 0,
) -> TunedLens:
    """Trains a tuned lens on the model's own runs, its greedy answers included.

    Args:
        codi: the model.
        questions: any; every fourth, of those that differ, is held out.
        per_step: a map for each layer and step, instead of one for each layer.
        steps: whose positions are learned from; None: bot, the latents, eot and the answer.
        num_latents: thoughts of the runs; the model's own if None.
        learning_steps: of Adam for each map, on up to 512 positions; none leave the logit lens.
        lr: its learning rate at the start, which falls to zero.
        seed: of the order of positions.

    Raises:
        UserError: too few questions, or a step that the runs do not have.
    """
    whole_number(learning_steps, "learning_steps")
    asked = list(dict.fromkeys(questions))
    if len(asked) < HELD_OUT:
        raise UserError(f"{len(asked)} different questions; give at least {HELD_OUT}")
    learned = [question for i, question in enumerate(asked) if i % HELD_OUT]
    states = _collect(codi, learned, steps, num_latents)
    groups = [[step] for step in states] if per_step else [list(states)]
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for group in groups:
        together = torch.cat([states[step] for step in group], dim=1)
        batches = list(_batches(together.shape[1], learning_steps, generator))
        maps.append([_fit(codi, layer, together[-1], batches, lr) for layer in together[:-1]])
    weights, biases = (
        torch.stack([torch.stack([*(one[i] for one in group), _zero(codi)[i]]) for group in maps])
        for i in (0, 1)
    )
    held_out = _collect(codi, asked[::HELD_OUT], tuple(states), num_latents)
    kl = _measure(codi, held_out, weights, biases, len(asked[::HELD_OUT]))
    return TunedLens(weights, biases, per_step, identity(codi), kl)


@torch.no_grad()
def _collect(
    codi: HookedCodi, questions: Sequence[str], steps: Sequence[Step] | None, latents: int | None
) -> States:
    """The states of the model's own runs, at all positions of the steps that are no padding."""
    names = resid_names(codi)
    found: dict[Step, list[Tensor]] = {}
    for start in range(0, len(questions), QUESTIONS):
        part = list(questions[start : start + QUESTIONS])
        _, cache = codi.run_with_cache(part, num_latents=latents, names_filter=names)
        for step in steps or (*steps_of(cache), "answer"):
            if step not in cache.positions:
                known = ", ".join(map(str, cache.positions))
                raise UserError(f"the runs have no step {step!r}; they have {known}")
            where = cache.positions[step]
            real = cache.mask[:, where].bool()
            found.setdefault(step, []).append(
                torch.stack([cache[n][:, where][real] for n in names])
            )
    states = {step: torch.cat(parts, dim=1) for step, parts in found.items()}
    # A model may have no tokens between thoughts and answer, or nothing to answer.
    there = {step: own for step, own in states.items() if own.shape[1]}
    if steps and len(there) < len(states):
        raise UserError(
            f"the runs have no position at one of the steps {', '.join(map(str, steps))}"
        )
    return there


def _zero(codi: HookedCodi) -> Map:
    """The map that changes nothing, in single precision at least: half would not learn."""
    width, dtype = codi.cfg.d_model, torch.promote_types(codi.cfg.dtype, torch.float32)
    whole = torch.zeros(width + 1, width, dtype=dtype, device=codi.device)
    return whole[:-1], whole[-1]


def _batches(count: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Positions of each learning step; all of them are seen before one is seen again."""
    order = torch.randperm(count, generator=generator)
    for _ in range(steps):
        if len(order) < min(POSITIONS, count):
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        yield order[:POSITIONS]
        order = order[POSITIONS:]


def _fit(
    codi: HookedCodi,
    states: Float[Tensor, "pos d_model"],
    final: Float[Tensor, "pos d_model"],
    batches: Sequence[Tensor],
    lr: float,
) -> Map:
    """The map from one layer's states to the last layer's that makes what is read closest."""
    weight, bias = (part.clone().requires_grad_() for part in _zero(codi))
    optimizer = torch.optim.Adam([weight, bias], lr=lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, max(1, len(batches)))
    for batch in batches:
        with torch.enable_grad():
            loss = divergence(codi, final[batch], moved(states[batch], weight, bias)).mean()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        schedule.step()
    return weight.detach(), bias.detach()


def divergence(
    codi: HookedCodi, final: Float[Tensor, "pos d_model"], states: Float[Tensor, "pos d_model"]
) -> Float[Tensor, " pos"]:
    """KL in nats, at each position, of what the last layer's states say from what `states` say."""
    p, q = (log_shares(read_out(codi, each[None])[0]) for each in (final, states))
    return (p.exp() * (p - q)).sum(-1)


@torch.no_grad()
def _measure(
    codi: HookedCodi,
    states: States,
    weights: Float[Tensor, "group layer d_model d_model"],
    biases: Float[Tensor, "group layer d_model"],
    questions: int,
) -> HeldOut:
    """The divergence of the logit lens, and of these maps, on these states."""
    tables: list[list[list[float]]] = [[], []]
    for i, own in enumerate(states.values()):
        group = i % len(weights)  # one for all steps, or as many as steps
        mapped = moved(own, weights[group], biases[group][:, None])
        for table, read in zip(tables, (own, mapped), strict=True):
            table.append([_mean_divergence(codi, own[-1], layer) for layer in read])
    logit, tuned = (torch.tensor(table, dtype=torch.float64).T for table in tables)
    return HeldOut(tuple(states), logit, tuned, questions)


def _mean_divergence(codi: HookedCodi, final: Tensor, states: Tensor) -> float:
    """The mean over positions, as many at a time as a vocabulary's width allows."""
    both = zip(final.split(POSITIONS), states.split(POSITIONS), strict=True)
    return float(torch.cat([divergence(codi, *part) for part in both]).double().mean())
