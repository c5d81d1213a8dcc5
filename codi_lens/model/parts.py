"""What a `HookedCodi` consists of, where it comes from, and how it moves."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from codi_lens.checkpoint.config import CodiConfig
from codi_lens.checkpoint.load_report import LoadReport
from codi_lens.choices import DTYPES
from codi_lens.data.pairs import Pair
from codi_lens.errors import UserError
from codi_lens.model.backend import HookedBackend, lock_of, to_hooked
from codi_lens.model.devices import pick_device, pick_dtype
from codi_lens.model.hooks import foreign_hooks
from codi_lens.model.loop import LatentLoop
from codi_lens.model.pretrained import Pretrained, load_pretrained
from codi_lens.model.tokens import CodiTokens


class CodiParts:
    """A CODI model as a `HookedTransformer`, with its projection, tokenizer and latent loop.

    Attributes:
        tokens: text to and from token sequences; its `tokenizer` is the base model's.
        ids: pad, bot, eot, eos.
        config: alpha, number of latents, layout, answer stem.
        load_report: what the checkpoint held and what became of it.
    """

    def __init__(
        self,
        model: HookedTransformer,
        projection: nn.Module | None,
        tokenizer: PreTrainedTokenizerBase,
        config: CodiConfig,
        load_report: LoadReport | None = None,
        digest: str = "",
        name: str = "",
    ) -> None:
        self.tokens = CodiTokens(tokenizer, config, model.cfg.d_vocab, model.cfg.n_ctx)
        self.config = self.tokens.config
        self.ids = self.tokens.ids
        self._model = model
        self._loop = LatentLoop(HookedBackend(model), projection)
        self.load_report = load_report
        self.digest = digest
        self.name = name

    def __repr__(self) -> str:
        cfg = self.cfg
        return (
            f"{type(self).__name__}({self.name!r}, {cfg.n_layers} layers, d_model {cfg.d_model}, "
            f"{self.config.num_latents} latent steps, {str(cfg.dtype).removeprefix('torch.')} on {self.device})"
        )

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        base: str | Path | None = None,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str = torch.float32,
        weights: str | None = None,
        projection: str | Path | None = None,
        alpha: float | None = None,
        num_latents: int | None = None,
        remove_eos: bool | None = None,
        answer_stem: str | None = None,
        bot_token: str | None = None,
        eot_token: str | None = None,
        begin: Sequence[str] | None = None,
        end: Sequence[str] | None = None,
        question_suffix: str | None = None,
        extra_tokens: Sequence[str] | None = None,
        forbid_eot: bool | None = None,
        has_projection: bool | None = None,
    ) -> Self:
        """Loads a model.

        Args:
            name_or_folder: "toy" (the embedded model), a folder or a file in one of the known layouts, or a hub id.
            base: folder or hub id of the base model, for its config, and for its tokenizer where
                none is beside the weights; None: beside the weights, else as the checkpoint's
                settings say.
            revision: branch, tag or commit of the checkpoint on the hub.
            device: "auto", or a torch device.
            dtype: of the merged weights, such as torch.bfloat16 or "bfloat16".
            weights: name of the file of the weights, where it is none of the usual ones.
            projection: file of the projection, where it is neither among the weights nor beside them as
                `prj.safetensors` or `prj.pt`.
            alpha, num_latents, remove_eos, answer_stem: settings that the tensors do not show. Needed if neither
                `codi_config.json` nor the table of known checkpoints has them; they override both.
            bot_token, eot_token, begin, end, question_suffix, extra_tokens, forbid_eot, has_projection: likewise,
                where they are not those of the checkpoint's layout; see `CodiConfig`.

        Raises:
            UserError: no such model, or a setting is missing that the tensors do not show.
            CheckpointError: the checkpoint is not exactly the model it claims to be.
        """
        parts = load_pretrained(
            name_or_folder,
            base=base,
            revision=revision,
            device=device,
            dtype=dtype,
            projection=projection,
            weights=weights,
            lora_alpha=alpha,
            num_latents=num_latents,
            remove_eos=remove_eos,
            answer_stem=answer_stem,
            bot_token=bot_token,
            eot_token=eot_token,
            begin=begin,
            end=end,
            question_suffix=question_suffix,
            extra_tokens=extra_tokens,
            forbid_eot=forbid_eot,
            has_projection=has_projection,
        )
        return cls.from_parts(parts, str(name_or_folder))

    @classmethod
    def from_model(
        cls,
        model: HookedTransformer | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        projection: nn.Module | None,
        config: CodiConfig,
        name: str = "",
    ) -> Self:
        """Wraps a model in memory.

        Args:
            model: a causal language model of transformers with its adapters merged, of a known architecture, which
                shares its weights with the result; or a `HookedTransformer` with nothing folded or centred.
            tokenizer: the model's.
            projection: final state [batch, d_model] -> thought; None: the final state is fed back as it is.
            config: what tensors cannot say. What it leaves open is as in official CODI.
            name: for records.

        Raises:
            UserError: a model of another kind, or settings that do not suit the tokenizer.
        """
        if isinstance(model, PreTrainedModel):
            model = to_hooked(model)
        if not isinstance(model, HookedTransformer):
            raise UserError(
                f"the model is {type(model).__name__}; give a causal language model of transformers, or a "
                "HookedTransformer"
            )
        return cls(model, projection, tokenizer, config, name=name)

    @classmethod
    def from_parts(cls, parts: Pretrained, name: str = "") -> Self:
        """Wraps a loaded model; `parts.model` shares its weights with the result."""
        return cls(
            to_hooked(parts.model),
            parts.projection,
            parts.tokenizer,
            parts.config,
            parts.report,
            parts.report.digest,
            name,
        )

    @property
    def model(self) -> HookedTransformer:
        """The hooked transformer; every hook point of TransformerLens is there."""
        return self._model

    @model.setter
    def model(self, other: HookedTransformer) -> None:
        raise UserError(
            "the model of a HookedCodi cannot be replaced: tokens, loop and digest belong to it; make "
            "a new one, HookedCodi(model, projection, tokenizer, config)"
        )

    @property
    def loop(self) -> LatentLoop:
        """The latent-thought loop, for work below the level of this class."""
        return self._loop

    @loop.setter
    def loop(self, other: LatentLoop) -> None:
        raise UserError(
            "the loop of a HookedCodi cannot be replaced; make a new one, "
            "HookedCodi(model, projection, tokenizer, config)"
        )

    @property
    def projection(self) -> nn.Module | None:
        """Final state -> thought, or None where the final state itself is fed."""
        return self.loop.projection

    @projection.setter
    def projection(self, other: nn.Module | None) -> None:
        raise UserError(
            "the projection of a HookedCodi cannot be replaced; make a new one, "
            "HookedCodi(model, projection, tokenizer, config)"
        )

    @property
    def cfg(self) -> HookedTransformerConfig:
        """Sizes of the model, as TransformerLens names them."""
        return self.model.cfg

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's."""
        return self.tokens.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.loop.device

    def show_thoughts(
        self,
        question: str | Pair,
        *,
        tuned: Any = None,
        others: Sequence[str] | None = None,
        num_latents: int | None = None,
        height: int = 960,
    ) -> Any:
        """One question, or a pair's clean one, as a page in a notebook: `codi_lens.show_thoughts` on this model."""
        # Pages are made on a floor above this one, so that is not imported but looked up.
        page = import_module("codi_lens.report.thoughts")
        return page.show_thoughts(
            self, question, tuned=tuned, others=others, num_latents=num_latents, height=height
        )

    def foreign_hooks(self) -> tuple[str, ...]:
        """Where on the model and the projection somebody has left hooks; see `hooks.foreign_hooks`."""
        with lock_of(self.model):
            return foreign_hooks(self.model, self.projection)

    def to(self, *where: str | torch.device | torch.dtype) -> Self:
        """Moves model and projection to a device, or changes their dtype, or both; returns itself.

        Raises:
            UserError: a device or dtype that is not there.
        """
        for target in where:
            dtype = isinstance(target, torch.dtype) or str(target).removeprefix("torch.") in DTYPES
            self.loop.to(pick_dtype(target) if dtype else pick_device(target))  # type: ignore[arg-type]
        return self
