"""What c of `experiments.benchmark` feeds, counted, and plain transformers over as many tokens: d and d′."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from codi_lens.model.loop import LatentLoop
from experiments.benchmarks.models import Bench


@dataclass
class Passes:
    """The shapes of what c ran: its passes [batch, new positions], and positions unembedded at a time."""

    fed: list[tuple[int, int]] = field(default_factory=list)
    read: list[int] = field(default_factory=list)


@contextmanager
def counted(loop: LatentLoop) -> Iterator[Passes]:
    """Records the passes of a loop for as long as the context is open."""
    passes = Passes()
    advance, unembed = loop.advance, loop.unembed

    def count_advance(state: Any, embeddings: Tensor, *rest: Any, **options: Any) -> Tensor:
        passes.fed.append((embeddings.shape[0], embeddings.shape[1]))
        return advance(state, embeddings, *rest, **options)

    def count_unembed(final: Tensor, *rest: Any) -> Tensor:
        passes.read.append(final[..., 0].numel())
        return unembed(final, *rest)

    loop.__dict__ |= {"advance": count_advance, "unembed": count_unembed}
    try:
        yield passes
    finally:
        del loop.advance, loop.unembed


def floor(bench: Bench, passes: Passes, own_shapes: bool) -> Callable[[], None]:
    """A run over c's tokens in plain transformers: in prompt-sized sequences, or in c's own shapes."""
    plain = bench.plain
    shapes = passes.fed
    if not own_shapes:
        total = sum(batch * new for batch, new in passes.fed)
        width = max(new for _, new in passes.fed)
        most = max(1, max(batch * new for batch, new in passes.fed) // width)
        whole, rest = divmod(total, width)
        shapes = [(min(most, whole - i), width) for i in range(0, whole, most)]
        shapes += [(1, rest)] if rest else []
    final = torch.zeros(1, max(passes.read), plain.config.hidden_size, device=plain.device)
    final = final.to(plain.dtype)
    tokens = [torch.randint(0, 8, shape, device=plain.device) for shape in shapes]

    def run() -> None:
        for ids in tokens:
            plain.base_model(input_ids=ids, use_cache=False)
        for positions in passes.read:
            plain.lm_head(final[:, :positions])

    return run
