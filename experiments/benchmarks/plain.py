"""CODI in plain transformers, patched one cell at a time: what the package is timed against."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache

from codi_lens import Site
from codi_lens.checkpoint.architectures import architecture_of
from codi_lens.checkpoint.plain_cache import cached
from codi_lens.patching.plan import Job
from experiments.benchmarks.models import Bench

OUTPUTS = ("self_attn.o_proj", "attn.c_proj")
"""The module of a layer that the heads' outputs enter."""


@dataclass(frozen=True)
class Cell:
    """One patched run: a job, a place, and the activation to put there."""

    job: int
    run: int
    """Of the job's plan."""
    site: Site
    value: Float[Tensor, " width"]

    @property
    def layer(self) -> int:
        """The layer that the site is in."""
        return int(str(self.site.name).split(".")[1])


class Plain:
    """CODI in plain transformers, one run per cell: a, and with `keep_prompt` a′."""

    def __init__(self, bench: Bench, keep_prompt: bool) -> None:
        self.bench = bench
        self.keep_prompt = keep_prompt
        self.layers = architecture_of(bench.plain.config.model_type).layers
        self.prompts: dict[int, tuple[DynamicCache, Tensor, int]] = {}

    def run(self, job: Job, index: int, cell: Cell) -> Float[Tensor, "pos d_vocab"]:
        """Logits from eot on, the clean answer forced, of one patched run."""
        model, codi = self.bench.plain, self.bench.codi
        past, hidden, length = self._prompt(job, index)
        for step in range(codi.config.num_latents):
            thought = hidden if codi.projection is None else codi.projection(hidden)
            handle = None
            if step == cell.site.step:
                handle = self._patch(model.get_submodule(f"{self.layers}{cell.layer}"), cell)
            hidden = self._pass(past, inputs_embeds=thought[:, None])[:, -1]
            if handle is not None:
                handle.remove()
        tail = [*codi.tokens.end(), *job.answer.stem, *job.answer.clean[:-1]]
        final = self._pass(past, input_ids=torch.tensor([tail], device=model.device))
        if self.keep_prompt:
            past.crop(length - past.get_seq_length())  # negative: as many are removed
        logits: Tensor = model.lm_head(final)
        return logits[0, len(codi.tokens.end()) - 1 :]

    def _patch(self, layer: nn.Module, cell: Cell) -> RemovableHandle:
        """A hook that puts a cell's value in: the layer's output, or a head's part of what enters W_O."""
        if cell.site.part is None:
            value = rearrange(cell.value, "d_model -> 1 1 d_model")
            put: RemovableHandle = layer.register_forward_hook(lambda *_: value)
            return put
        width = len(cell.value)
        first = int(cell.site.part) * width  # type: ignore[arg-type]
        (output,) = (m for name, m in layer.named_modules() if name in OUTPUTS)

        def put_in(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
            z = given[0].clone()
            z[..., first : first + width] = cell.value
            return (z,)

        entered: RemovableHandle = output.register_forward_pre_hook(put_in)
        return entered

    def _prompt(self, job: Job, index: int) -> tuple[DynamicCache, Tensor, int]:
        if index in self.prompts:
            return self.prompts[index]
        ids = self.bench.codi.tokens.prompt(job.pair.corrupted.question)
        past = DynamicCache()
        tokens = torch.tensor([ids], device=self.bench.plain.device)
        read = (past, self._pass(past, input_ids=tokens)[:, -1], len(ids))
        if self.keep_prompt:
            self.prompts[index] = read
        return read

    def _pass(self, past: DynamicCache, **inputs: Tensor) -> Float[Tensor, "1 new d_model"]:
        model = self.bench.plain.base_model
        states: Tensor = model(**inputs, **cached(past)).last_hidden_state
        return states
