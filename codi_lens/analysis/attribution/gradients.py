"""Gradients of a metric of the answer at places in the loop, through later thoughts and through keys and values."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.choices import Direction
from codi_lens.data.answers import AnswerPair
from codi_lens.data.pairs import SIDES, Pair, Side, side_of
from codi_lens.errors import UserError, one_of
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import AddressedHook, HookFn, Site
from codi_lens.model.run import CodiRun
from codi_lens.patching.answer_logits import AnswerLogits, sides, top_1
from codi_lens.patching.metrics import METRICS, Measured
from codi_lens.patching.readout import READOUTS


@dataclass(frozen=True)
class Asked:
    """Pairs, and how their answers are measured."""

    codi: HookedCodi
    pairs: Sequence[Pair]
    direction: Direction
    metric: str
    num_latents: int

    def __post_init__(self) -> None:
        known = [name for name, metric in METRICS.items() if metric.compute is not None]
        one_of(self.metric, known, "metric")

    @property
    def base_side(self) -> Side:
        """Whose run is patched into."""
        return sides(self.direction)[0]

    @property
    def source_side(self) -> Side:
        """Whose activations are taken."""
        return sides(self.direction)[1]

    def questions(self, side: Side) -> list[str]:
        """The pairs' questions of one side."""
        return [side_of(pair, side).question for pair in self.pairs]

    @cached_property
    def answers(self) -> list[AnswerPair]:
        """The tokens of both answers of every pair."""
        return [READOUTS["stem"].answer(self.codi, pair) for pair in self.pairs]


@dataclass(frozen=True)
class Runs:
    """Runs of the same rows with the clean and with the corrupted answer forced."""

    logits: Mapping[Side, Float[Tensor, "row pos d_vocab"]]
    """At eot and at each token of stem and answer."""
    kept: Mapping[Side, Mapping[Site, Float[Tensor, "row ..."]]]
    """Activations at each site, at the last position of its step."""


def keep(into: dict[Site, Tensor], site: Site) -> HookFn:
    """Keeps the activation itself, so that its gradient can be asked for."""

    def hook_fn(activation: Tensor, hook: object) -> Tensor:
        if torch.is_grad_enabled() and not activation.requires_grad:
            activation = activation.detach().requires_grad_()
        into[site] = activation
        return activation

    return hook_fn


def run(
    asked: Asked,
    questions: Sequence[str],
    rows: Sequence[int],
    sites: Iterable[Site],
    hooks: Sequence[AddressedHook] = (),
) -> Runs:
    """Runs questions with either answer forced.

    Args:
        rows: for each question the pair that it belongs to.
        sites: hook points and steps whose activations are kept, whole.
        hooks: what is done to the runs before they are looked at.
    """
    places = list(dict.fromkeys(Site(site.name, site.step) for site in sites))
    logits: dict[Side, Tensor] = {}
    kept: dict[Side, dict[Site, Tensor]] = {}
    same = all(a.clean[:-1] == a.corrupted[:-1] for a in asked.answers)  # then nothing else is fed
    for side in SIDES[:1] if same else SIDES:
        into: dict[Site, Tensor] = {}
        told = [side_of(asked.pairs[row], side).answer for row in rows]
        done: CodiRun = asked.codi.run_with_hooks(
            questions,
            told,
            fwd_hooks=[*hooks, *((site, keep(into, site)) for site in places)],
            num_latents=asked.num_latents,
        )
        logits[side], kept[side] = done.logits, into
    if same:
        logits["corrupted"] = logits["clean"]
    return Runs(logits, kept)


def measured(
    asked: Asked, runs: Runs, rows: Sequence[int], plain: Mapping[Side, Tensor]
) -> Float[Tensor, " row"]:
    """The metric of every row, beside the pair's unpatched runs.

    Args:
        rows: for each row its pair.
        plain: logits [pair, (base, source), pos, d_vocab] of the unpatched runs, by the answer that is forced.
    """
    values: list[Tensor] = []
    for row, pair in enumerate(rows):
        both = {
            side: torch.cat([plain[side][pair], runs.logits[side][row : row + 1]]) for side in SIDES
        }
        values.append(_metric(asked, asked.answers[pair], both)[-1])
    return torch.stack(values)


def unpatched(asked: Asked, sites: Iterable[Site]) -> tuple[dict[Side, Tensor], Runs, Runs]:
    """Logits of the base and the source runs as `measured` takes them, and both runs."""
    rows, sites = range(len(asked.pairs)), list(sites)
    with torch.no_grad():
        base, source = (
            run(asked, asked.questions(side), rows, sites)
            for side in (asked.base_side, asked.source_side)
        )
    plain = {side: torch.stack([base.logits[side], source.logits[side]], dim=1) for side in SIDES}
    return plain, base, source


def _metric(asked: Asked, tokens: AnswerPair, logits: Mapping[Side, Tensor]) -> Tensor:
    """The metric of the runs of one pair, the base and the source first; [run]."""
    stem = len(tokens.stem)
    at = {side: logits[side][:, stem : stem + len(getattr(tokens, side))] for side in SIDES}
    read = AnswerLogits(top_1(logits["clean"][:, :stem]), at["clean"], at["corrupted"])
    compute = METRICS[asked.metric].compute
    assert compute is not None
    return compute(Measured(read, tokens, 0, 1, asked.direction, min_gap=0.0))


def gradients(
    asked: Asked, values: Float[Tensor, " row"], runs: Runs
) -> dict[Site, Float[Tensor, "row ..."]]:
    """The gradient of the sum of some values at every site that was kept.

    Raises:
        UserError: the metric has no gradient.
    """
    if not values.requires_grad and any(at.requires_grad for at in runs.logits.values()):
        raise UserError(
            f"the metric {asked.metric!r} has no gradient; one such as 'logit_diff' or 'kl_divergence' would do"
        )
    places = [(site, one) for run in runs.kept.values() for site, one in run.items()]
    kept = [one for _, one in places]
    # Nothing that is read may depend on the places: then there is no graph.
    found = (
        torch.autograd.grad(values.sum(), kept, allow_unused=True)
        if values.requires_grad
        else [None] * len(kept)
    )
    total: dict[Site, Tensor] = {}
    for (site, one), gradient in zip(places, found, strict=True):
        own = torch.zeros_like(one) if gradient is None else gradient
        total[site] = total[site] + own if site in total else own
    return total
