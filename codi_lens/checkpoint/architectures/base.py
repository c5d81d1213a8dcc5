"""What the package asks of a family of base models: an `Architecture` is one object, in one file of this folder."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformerConfig
from transformers import PretrainedConfig, PreTrainedModel

from codi_lens.checkpoint.fields import Kind, check_fields
from codi_lens.checkpoint.layouts import Layout
from codi_lens.checkpoint.tensor_files import CheckpointError, TensorFile
from codi_lens.errors import UserError


@dataclass(frozen=True)
class Architecture(ABC):
    """A family of base models: its config, the names of its weights, and its twin in TransformerLens.

    Names of weights are those of transformers, without what a layout puts in front of them.
    """

    model_type: str
    """As `config.json` has it."""
    config_class: type[PretrainedConfig]
    model_class: type[PreTrainedModel]
    """The causal language model in transformers."""
    fields: Mapping[str, Kind]
    """Every field of `config.json` on which the model's numbers depend. What else a file says (dtypes, token
    ids, versions) is not used."""
    required: tuple[str, ...]
    """Fields that transformers would fill in with another model's values if they were missing."""
    embedding: str
    head: str
    """The weight of the unembedding; it may be one tensor with the embedding."""
    layers: str
    """The prefix of the layers; a number follows."""
    lora_targets: tuple[str, ...]
    """The linear modules of a layer."""
    leftovers: tuple[str, ...] = ()
    """How the keys of buffers end that the config determines: they are left out."""
    transposed: bool = False
    """Whether the weights of a layer's modules are [in, out] (GPT-2's `Conv1D`), not [out, in]."""
    depth: str = "num_hidden_layers"
    """The field that says how many layers there are."""

    @abstractmethod
    def check(self, config: PretrainedConfig) -> None:
        """Refuses a config whose model TransformerLens does not compute exactly.

        Raises:
            UserError: names the field, what it is and what it must be.
        """

    @abstractmethod
    def sizes(self, config: PretrainedConfig) -> tuple[tuple[str, int, str, int], ...]:
        """(field, size, module of a layer, axis of its weight) for every size that the weights must agree with."""

    @abstractmethod
    def hooked_settings(self, config: PretrainedConfig) -> dict[str, Any]:
        """What TransformerLens has to know of the same model: sizes, norms, positions, MLP."""

    def hooked_config(
        self, config: PretrainedConfig, dtype: torch.dtype
    ) -> HookedTransformerConfig:
        """The config of the same model in TransformerLens, on the CPU. Raises as `check` does."""
        self.check(config)
        return HookedTransformerConfig(
            **self.hooked_settings(config),
            d_vocab=config.vocab_size,
            original_architecture=self.model_class.__name__,
            tie_word_embeddings=config.tie_word_embeddings,
            init_weights=False,
            dtype=dtype,
            device="cpu",
        )

    @abstractmethod
    def hooked_weights(
        self, model: PreTrainedModel, cfg: HookedTransformerConfig
    ) -> dict[str, Tensor]:
        """The weights under TransformerLens' names: views wherever possible, nothing folded or centred."""

    def target(self, module: str) -> str:
        """The name of a layer's linear module, which it has in every layer."""
        known = (target for target in self.lora_targets if module.endswith("." + target))
        return next(known, module.rpartition(".")[2])

    def read_fields(self, values: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """The fields of `config.json` that count, each checked by itself; those that are null are left out.

        Raises:
            UserError: a field is missing or of another kind; names it.
        """
        for field in self.required:
            if field not in values:
                raise UserError(f"{path}: field {field!r} is missing; it must be given")
        checked = check_fields(values, self.fields, str(path))
        return {field: value for field, value in checked.items() if value is not None}

    def read_config(self, values: Mapping[str, Any], path: Path) -> PretrainedConfig:
        """The config in `values`, refused where a default would have to stand in for a field.

        Args:
            values: what `config.json` says.
            path: the file, for messages.

        Raises:
            UserError: not a config whose model this package computes exactly; names the field.
        """
        fields = self.read_fields(values, path)
        try:
            config = self.config_class.from_dict(fields)
            self.check(config)
        except Exception as error:
            # transformers validates with exceptions of many kinds.
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path}: not the config of a {self.model_type!r} model that can be loaded ({reason})"
            ) from error
        return config

    def check_sizes(
        self, config: PretrainedConfig, path: Path, file: TensorFile, layout: Layout
    ) -> None:
        """Holds a config's sizes against the shapes of the tensors, before anything is allocated.

        One tensor that agrees is enough. Which of them are out of line is told when they are read.

        Raises:
            CheckpointError: names field, file, found and expected.
        """
        stem = re.escape(layout.key(self.layers))
        weights = re.compile(rf"{stem}(?P<layer>\d+)\.(?P<module>.+?)\.(base_layer\.)?weight$")
        shapes: dict[str, list[tuple[int, ...]]] = {}
        layers = set()
        for key in file.keys():  # noqa: SIM118 - a file is no mapping
            if found := weights.match(key):
                layers.add(found["layer"])
                shapes.setdefault(found["module"], []).append(file.shape(key))
        if config.num_hidden_layers > len(layers):
            raise CheckpointError(
                f"{path}: field {self.depth!r} is {config.num_hidden_layers}; {file.path} has "
                f"tensors of {len(layers)} layers; expected one number in both: is this the right base "
                "model?"
            )
        for field, expected, module, axis in self.sizes(config):
            sizes = {shape[axis] for shape in shapes.get(module, ()) if len(shape) > axis}
            if expected not in sizes:
                raise CheckpointError(
                    f"{path}: field {field} is {expected}; in {file.path} the {module} weights have "
                    f"{' or '.join(map(str, sorted(sizes))) or 'none'}; expected one number in both: is "
                    "this the right base model?"
                )
