"""What the package asks of a family of checkpoints: a `Layout` is one object, in one file of this folder."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from codi_lens.checkpoint.config import CONFIG_NAME, CodiConfig, require
from codi_lens.errors import UserError

OFFICIAL_MODULES: Mapping[str, tuple[str, ...]] = {"1": ("1",), "3": ("3",), "ln": ("ln", "4")}
"""The projection's modules as CODI's own code names them; its layer norm has a name of its own, or is known by
its place."""


@dataclass(frozen=True)
class Layout:
    """The names of the tensors in a checkpoint, and what its family has in common beside them."""

    name: str
    family: str
    """What a model in this layout is."""
    base: str
    """The prefix in front of the base model's keys, which are named as in transformers behind it."""
    projection: str | None
    """The prefix in front of the projection's keys; None: the final state is fed back as it is."""
    projection_modules: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: OFFICIAL_MODULES
    )
    """Module of `make_projection` -> the names that a file may give it."""
    adapted: bool = True
    """Whether there are always adapters."""
    adapters: str = ""
    """The prefix in front of the adapters' keys, where it is not `base` and adapted modules are not wrapped."""
    embedding_names: tuple[str, ...] = ()
    """Further keys of the input embedding."""
    auxiliary: Mapping[str, str] = field(default_factory=dict)
    """Prefix of keys that only training needs -> what they are. They are left out and counted."""
    marks: re.Pattern[str] | None = None
    """A key of the base model, where its prefix alone does not tell."""
    extra_tokens: tuple[str, ...] = ("pad", "bot", "eot")
    """Rows of the embedding behind the base vocabulary, where the tokenizer has no tokens of its own for them."""
    begin: tuple[str, ...] = ("bot",)
    end: tuple[str, ...] = ("eot",)
    question_suffix: str = ""
    eos_switch: bool = True
    """Whether the family has models with eos around bot and eot (`remove_eos`)."""
    forbids_eot: bool = True
    """Whether greedy decoding leaves out an eot that is a row behind the vocabulary."""

    # -- which keys are whose ----------------------------------------------------------------------

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What the keys of the model itself begin with, as far as a prefix tells."""
        return tuple(filter(None, (self.base, self.adapters, self.projection)))

    @property
    def needs(self) -> str:
        """The keys that a file in this layout has, in words."""
        base = f"{self.base}*" if self.base else "keys named as in transformers"
        others = [f"{prefix}*" for prefix in self.prefixes if prefix != self.base]
        return " and ".join([base, *others])

    def fits(self, keys: Collection[str]) -> int:
        """The number of keys that are named as here; 0 if none of them is the base model's."""
        marks = self.marks or re.compile(re.escape(self.base))
        count = sum(bool(marks.match(key)) for key in keys)
        # Without a prefix of its own, the base model tells nothing; its companion does.
        companion = "" if self.base else self.adapters or self.projection or ""
        if not count or not any(key.startswith(companion) for key in keys):
            return 0
        beside = filter(None, (self.adapters, self.projection))
        others = (*beside, *self.embedding_names, *self.auxiliary)
        return count + sum(key.startswith(others) for key in keys)

    def key(self, name: str) -> str:
        """The key of one of the base model's weights."""
        return self.base + name

    def adapted_key(self, module: str, leaf: str) -> str:
        """The key of a weight or bias whose module has an adapter: peft puts the module inside another."""
        return f"{self.base}{module}{'' if self.adapters else '.base_layer'}.{leaf}"

    def adapter_key(self, module: str, matrix: str) -> str:
        """The key of an adapter's matrix, "A" [rank, in] or "B" [out, rank]."""
        if self.adapters:  # as peft saves them by themselves, without the adapter's name
            return f"{self.adapters}{module}.lora_{matrix}.weight"
        return f"{self.base}{module}.lora_{matrix}.default.weight"

    def projection_key(self, name: str, keys: Collection[str] = ()) -> str:
        """The key of one of the projection's weights: under the name that is in `keys`, else the first."""
        module, _, leaf = name.rpartition(".")
        names = [f"{self.projection}{known}." for known in self.projection_modules[module]]
        stored = (stem for stem in names if any(key.startswith(stem) for key in keys))
        return next(stored, names[0]) + leaf

    # -- what the family has in common ---------------------------------------------------------------

    def undecided(self, values: Mapping[str, Any], keys: Collection[str]) -> tuple[str, ...]:
        """Names of the settings that a checkpoint with these keys leaves open."""
        names = ["num_latents", "answer_stem"]
        if any(".lora_A" in key for key in keys):
            names.insert(0, "lora_alpha")
        if self._has_switch(values):
            names.insert(-1, "remove_eos")
        return tuple(names)

    def _has_switch(self, values: Mapping[str, Any]) -> bool:
        return self.eos_switch and (values.get("begin") is None or values.get("end") is None)

    def complete(self, config: CodiConfig, where: str = "settings given") -> CodiConfig:
        """The config with everything filled in that this layout decides; `where` is what an error names.

        Raises:
            UserError: something that the layout leaves open is not said.
        """
        if self._has_switch(vars(config)):
            require(vars(config), ["remove_eos"], where)
        if self.projection is None and not self.begin:
            self._check_plain(config, where)
        own, eos = config.bot_token is not None, () if config.remove_eos is not False else ("eos",)
        # Models with tokens of their own have eos in front of them alone.
        said: dict[str, Any] = {
            "begin": (*eos, *self.begin),
            "end": (*self.end, *(() if own else eos)),
            "question_suffix": self.question_suffix,
            "extra_tokens": () if own else self.extra_tokens,
            "forbid_eot": self.forbids_eot and not own,
            "has_projection": self.projection is not None,
        }
        return replace(config, **{k: v for k, v in said.items() if getattr(config, k) is None})

    def _check_plain(self, config: CodiConfig, where: str) -> None:
        """Thoughts of a model without a projection might be for want of a file."""
        if config.num_latents and config.has_projection is None:
            raise UserError(
                f"{where}: num_latents is {config.num_latents}, and no projection was found; give its file "
                f"(projection=…), or say has_projection: false in {CONFIG_NAME} if final states are fed back "
                "as they are"
            )
