"""Direct logit attribution: what each component adds to the logits, where the answer is read.

The residual stream is a sum of what embedding, heads and MLPs write, and the final norm's scale is taken as it is in the
run, so that the logit difference of two tokens is a sum over components (Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits"). A head's output is again a sum, over the positions that it attends to. "Direct" leaves out what a
component does by way of later ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.analysis.positions import group_names, membership, positions_of
from codi_lens.data.pairs import Pair, Side, Variant, side_of
from codi_lens.errors import UserError, one_of
from codi_lens.model.cache import CodiCache
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.patching.readout import READOUTS

KEPT = ("embed", "attn.hook_pattern", "attn.hook_v", "hook_mlp_out", "ln_final.hook_scale")
"""Ends of the names of the hook points that are needed."""


@dataclass(frozen=True)
class LogitAttribution:
    """What components add to the logit difference of pairs, or to the answers' logits of single questions."""

    examples: tuple[Pair | Variant, ...]
    components: tuple[str, ...]
    """"embed", "2.1" (a head), "mlp2", and where the model has them "pos_embed" and biases such as "attn2 bias"."""
    parts: Float[Tensor, "example component"]
    """In logits; they sum to `totals`."""
    heads: tuple[str, ...]
    groups: tuple[str, ...]
    """Of positions that are attended to, as in `mean_attention`."""
    by_source: Float[Tensor, "example head group"]
    """Of each head's part, what comes from each group; sums to that part."""
    totals: Float[Tensor, " example"]
    """The logit difference, or logit, as the model computes it."""

    @property
    def unit(self) -> str:
        """What the parts sum to."""
        pairs = isinstance(self.examples[0], Pair)
        return "logit difference" if pairs else "logit of the answer"

    @property
    def error(self) -> float:
        """By how much the parts of an example miss its total, at most; in logits."""
        return float((self.parts.sum(1) - self.totals).abs().max())

    def mean(self) -> Float[Tensor, " component"]:
        """Mean part over examples."""
        return self.parts.mean(0)

    def mean_by_source(self) -> Float[Tensor, "head group"]:
        """Mean of `by_source` over examples."""
        return self.by_source.mean(0)

    def by_layer(self) -> "LogitAttribution":
        """With the heads of each layer summed, as one component such as "attn2"."""
        layer_of = {head: f"attn{head.split('.')[0]}" for head in self.heads}
        names = [layer_of.get(name, name) for name in self.components]
        layers = [layer_of[head] for head in self.heads]
        components, heads = tuple(dict.fromkeys(names)), tuple(dict.fromkeys(layers))
        return replace(
            self,
            components=components,
            parts=_summed(self.parts, names, components),
            heads=heads,
            by_source=_summed(self.by_source, layers, heads),
        )


@torch.no_grad()
def attribute_logits(
    codi: HookedCodi,
    examples: Sequence[Pair | Variant],
    *,
    side: Side = "clean",
    answer_start: str = "stem",
    num_latents: int | None = None,
) -> LogitAttribution:
    """Splits the logits where the answer is read into what each component, and each step seen through a head, adds.

    Args:
        codi: the model.
        examples: pairs, of which the logit of the clean answer's token minus that of the corrupted one's is
            split, where the two answers part: the `logit_diff` of sweeps. Or single questions, of which
            the logit of the answer's first token is.
        side: whose question is asked.
        answer_start: where the answer is read: "stem", behind the forced stem, or "eot".
        num_latents: number of thoughts; the model's own if None.

    Raises:
        UserError: no examples, pairs among single questions, or a pair with the same answer on both sides.
    """
    one_of(side, ("clean", "corrupted"), "side")
    one_of(answer_start, READOUTS, "answer_start")
    if not examples or len({isinstance(example, Pair) for example in examples}) > 1:
        raise UserError("give at least one example, and either pairs or single questions")
    count = codi.num_latents(num_latents)
    targets = [_target(codi, example, answer_start) for example in examples]
    found = [
        _one(codi, example, side, target, count)
        for example, target in zip(examples, targets, strict=True)
    ]
    by_source = torch.stack([one for _, one, _ in found])
    every = group_names(count)
    used = [i for i in range(len(every)) if bool(by_source[..., i].any())]
    return LogitAttribution(
        tuple(examples),
        tuple(found[0][0]),
        torch.stack([torch.stack([*parts.values()]) for parts, _, _ in found]),
        tuple(name for name in found[0][0] if "." in name),
        tuple(every[i] for i in used),
        by_source[..., used],
        torch.stack([total for _, _, total in found]),
    )


@dataclass(frozen=True)
class _Target:
    """The logit, or difference of two, that is split."""

    right: int
    wrong: int | None
    fed: int
    """Tokens that are fed behind the end of the thoughts where it is read."""

    def of(self, values: Float[Tensor, "*rows d_vocab"]) -> Float[Tensor, "*rows"]:
        """The value of the right token, minus that of the wrong one."""
        right = values[..., self.right]
        return right if self.wrong is None else right - values[..., self.wrong]


def _target(codi: HookedCodi, example: Pair | Variant, answer_start: str) -> _Target:
    """What is read of an example, where sweeps read it."""
    readout = READOUTS[answer_start]
    if isinstance(example, Variant):
        answer = readout.answer(codi, Pair(0, example, example))
        return _Target(answer.clean[0], None, len(answer.stem))
    answer = readout.answer(codi, example)
    t = answer.first_difference
    if t is None:
        raise UserError(
            f"pair {example.pair_id} has the same answer on both sides, so no logit difference; leave it out, or "
            "give its questions one by one"
        )
    return _Target(answer.clean[t], answer.corrupted[t], readout.fed(answer))


def _one(
    codi: HookedCodi, example: Pair | Variant, side: Side, target: _Target, count: int
) -> tuple[dict[str, Tensor], Float[Tensor, "head group"], Tensor]:
    """The part of every component of one example, the heads' parts by group, and the total."""
    asked = side_of(example, side) if isinstance(example, Pair) else example
    forced = example.clean.answer if isinstance(example, Pair) else example.answer
    positions = positions_of(codi, asked.question, forced, num_latents=count)
    logits, cache = codi.run_with_cache(
        asked.question, forced, num_latents=count, names_filter=lambda name: name.endswith(KEPT)
    )
    at, model = positions.steps["eot"].stop - 1 + target.fed, codi.model
    groups = membership(positions, group_names(count))
    outputs = _head_outputs(cache.remove_batch_dim(), at, groups)
    written = _written(cache, at, outputs.sum(2))

    def attributed(stack: Tensor) -> Tensor:
        return cache.logit_attrs(
            stack, target.right, target.wrong, pos_slice=at, has_batch_dim=False
        )

    parts = dict(zip(written, attributed(torch.stack([*written.values()])), strict=True))
    bias = getattr(model.ln_final, "b", None)
    if bias is not None and bool(bias.any()):
        parts["ln_final bias"] = bias @ target.of(model.W_U)
    if bool(model.b_U.any()):
        parts["unembed bias"] = target.of(model.b_U)
    by_source = attributed(outputs.flatten(0, 2)).view(-1, groups.shape[1])
    return parts, by_source, target.of(logits[0, at])


def _head_outputs(
    cache: CodiCache, at: int, groups: Float[Tensor, "pos group"]
) -> Float[Tensor, "layer head group d_model"]:
    """What each head writes at a position, by the group that it comes from; without the layer's bias."""
    outputs = []
    for block in range(cache.model.cfg.n_layers):
        pattern, v = cache["pattern", block][:, at], cache["v", block]
        v = v.repeat_interleave(len(pattern) // v.shape[1], dim=1)
        by_group = torch.einsum("hp,phd,pg->hgd", pattern, v, groups.to(v))
        outputs.append(by_group @ cache.model.W_O[block])
    return torch.stack(outputs)


def _written(
    cache: CodiCache, at: int, heads: Float[Tensor, "layer head d_model"]
) -> dict[str, Float[Tensor, " d_model"]]:
    """Everything that is written to the residual stream at a position, by component; biases that are all 0 left out."""
    stack, names = cache.decompose_resid(0, pos_slice=at, return_labels=True)
    written = dict(zip(names, stack, strict=True))
    for layer, block in enumerate(cache.model.blocks):
        written |= {f"{layer}.{head}": output for head, output in enumerate(heads[layer])}
        biases = {"attn": block.attn.b_O, "mlp": getattr(block.mlp, "b_out", None)}
        named = {n: b for n, b in biases.items() if b is not None and bool(b.any())}
        mlp = cache["mlp_out", layer][at]
        written[f"mlp{layer}"] = mlp - named["mlp"] if "mlp" in named else mlp
        written |= {f"{name}{layer} bias": bias for name, bias in named.items()}
    return written


def _summed(
    values: Float[Tensor, "example named *rest"], names: Sequence[str], wanted: Sequence[str]
) -> Float[Tensor, "example wanted *rest"]:
    """The sum of the entries of each wanted name."""
    index = torch.tensor([wanted.index(name) for name in names], device=values.device)
    summed = values.new_zeros((len(values), len(wanted), *values.shape[2:]))
    return summed.index_add_(1, index, values)
