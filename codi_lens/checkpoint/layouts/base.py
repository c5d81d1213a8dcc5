"""What the package asks of a family of checkpoints: a `Layout` is one object, in one file of this folder."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """The names of the tensors in a checkpoint: those of the base model, its adapters, and the projection."""

    name: str
    base: str
    """The prefix in front of the base model's keys, which are named as in transformers behind it."""
    projection: str
    """The prefix in front of the projection's keys."""
    projection_modules: Mapping[str, tuple[str, ...]]
    """Module of `make_projection` -> the names that a file may give it."""
    extra_tokens: int
    """Rows of the embedding (pad, bot, eot) behind the base vocabulary, where the tokenizer has no tokens of
    its own for them."""
    leftovers: tuple[str, ...]
    """How the keys of buffers end that the config determines: they are left out."""

    @property
    def prefixes(self) -> tuple[str, str]:
        """What the keys of the model itself begin with; everything else in a file is foreign."""
        return self.base, self.projection

    def owns(self, prefix: str) -> bool:
        """Whether keys that begin so may be part of the model itself."""
        return any(own.startswith(prefix) or prefix.startswith(own) for own in self.prefixes)

    def fits(self, keys: Collection[str]) -> int:
        """The number of keys that are named as here, or 0 if none of them is the base model's."""
        if not any(key.startswith(self.base) for key in keys):
            return 0
        return sum(key.startswith(self.prefixes) for key in keys)

    def key(self, name: str) -> str:
        """The key of one of the base model's weights."""
        return self.base + name

    def adapted_key(self, module: str, leaf: str) -> str:
        """The key of a weight or bias whose module has an adapter: peft puts the module inside another."""
        return f"{self.base}{module}.base_layer.{leaf}"

    def adapter_key(self, module: str, matrix: str) -> str:
        """The key of an adapter's matrix, "A" [rank, in] or "B" [out, rank]."""
        return f"{self.base}{module}.lora_{matrix}.default.weight"

    def projection_key(self, name: str, keys: Collection[str] = ()) -> str:
        """The key of one of the projection's weights: under the name that is in `keys`, else the first."""
        module, _, leaf = name.rpartition(".")
        names = [f"{self.projection}{known}." for known in self.projection_modules[module]]
        stored = (stem for stem in names if any(key.startswith(stem) for key in keys))
        return next(stored, names[0]) + leaf
