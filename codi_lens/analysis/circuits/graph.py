"""The graph of the unrolled loop.

At every step (prompt, bot, each latent, eot, answer) there are the same nodes. *Senders* write to the residual stream: the
embedding (at a latent, the thought that is fed), every head, every MLP. *Receivers* read it: the query input of every
head, the key and the value input of every key/value head, every MLP's input, and the output: the state from which the
next thought is made, or the logits. An edge leads from a sender to a receiver of the same step. Between steps there
are no other ways than the receivers' own: keys and values are read by all later steps, and the output at a step is the
next thought's embedding. At a step of several positions, an edge stands for all of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool
from torch import Tensor

from codi_lens.errors import UserError, one_of
from codi_lens.model.backend import lock_of
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import Step


@dataclass(frozen=True)
class Graph:
    """Nodes and edges, for a model of this shape and so many thoughts."""

    layers: int
    heads: int
    kv_heads: int
    num_latents: int
    has_eot: bool = True
    """Whether there are tokens between thoughts and answer."""

    @classmethod
    def of(cls, codi: HookedCodi, num_latents: int | None = None) -> "Graph":
        """The graph of a model.

        Raises:
            UserError: its attention and MLP work side by side, which this graph does not know.
        """
        cfg = codi.model.cfg
        if cfg.parallel_attn_mlp:
            raise UserError("circuits need a model whose MLP reads what its attention wrote")
        kv_heads = cfg.n_key_value_heads or cfg.n_heads
        count, ends = codi.num_latents(num_latents), bool(codi.tokens.end())
        return cls(cfg.n_layers, cfg.n_heads, kv_heads, count, ends)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of a run, in order."""
        latents: tuple[Step, ...] = tuple(range(self.num_latents))
        return ("prompt", "bot", *latents, *(("eot",) if self.has_eot else ()), "answer")

    @cached_property
    def senders(self) -> tuple[str, ...]:
        """Names of the senders, in the order in which they write: "embed", "0.0", …, "mlp0", …."""
        blocks = (
            [f"{layer}.{head}" for head in range(self.heads)] + [f"mlp{layer}"]
            for layer in range(self.layers)
        )
        return ("embed", *(name for block in blocks for name in block))

    @cached_property
    def receivers(self) -> tuple[str, ...]:
        """Names of the receivers: "0.0.q", …, "0.kv0.k", …, "0.kv0.v", …, "mlp0", …, "out"."""
        names = []
        for layer in range(self.layers):
            names += [f"{layer}.{head}.q" for head in range(self.heads)]
            names += [f"{layer}.kv{head}.{what}" for what in "kv" for head in range(self.kv_heads)]
            names.append(f"mlp{layer}")
        return (*names, "out")

    def writes(self) -> list[tuple[str, slice]]:
        """Hook points of the senders, with the senders that each holds, in order."""
        found, at = [("hook_embed", slice(0, 1))], 1
        for layer in range(self.layers):
            found.append((f"blocks.{layer}.attn.hook_result", slice(at, at + self.heads)))
            at += self.heads
            found.append((f"blocks.{layer}.hook_mlp_out", slice(at, at + 1)))
            at += 1
        return found

    def reads(self) -> list[tuple[str, slice, int]]:
        """Hook points of the receivers, with the receivers that each holds, and how many senders write before it."""
        found, at, before = [], 0, 1
        for layer in range(self.layers):
            for what, count in (("q", self.heads), ("k", self.kv_heads), ("v", self.kv_heads)):
                found.append((f"blocks.{layer}.hook_{what}_input", slice(at, at + count), before))
                at += count
            before += self.heads
            found.append((f"blocks.{layer}.hook_mlp_in", slice(at, at + 1), before))
            at, before = at + 1, before + 1
        found.append((f"blocks.{self.layers - 1}.hook_resid_post", slice(at, at + 1), before))
        return found

    @cached_property
    def edges(self) -> Bool[Tensor, "step receiver sender"]:
        """Which edges there are: from every sender to what reads behind it."""
        there = torch.zeros(len(self.receivers), len(self.senders), dtype=torch.bool)
        for _, own, before in self.reads():
            there[own, :before] = True
        return there.expand(len(self.steps), -1, -1)

    def edge(self, step: Step, sender: str, receiver: str) -> tuple[int, int, int]:
        """Indices of an edge.

        Raises:
            UserError: there is none of that name.
        """
        return (
            self.steps.index(one_of(step, self.steps, "step")),
            self.receivers.index(one_of(receiver, self.receivers, "receiver")),
            self.senders.index(one_of(sender, self.senders, "sender")),
        )


@contextmanager
def split(codi: HookedCodi) -> Iterator[None]:
    """Gives every head inputs and an output of its own, which TransformerLens otherwise leaves out."""
    model, names = codi.model, ("use_split_qkv_input", "use_hook_mlp_in", "use_attn_result")
    before = {name: bool(getattr(model.cfg, name)) for name in names}
    with lock_of(model):
        try:
            for name in names:
                getattr(model, f"set_{name}")(True)
            yield
        finally:
            for name, was in before.items():
                getattr(model, f"set_{name}")(was)
