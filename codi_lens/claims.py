"""The accounts of loading: every tensor of a file is claimed once, and everything wrong is collected."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.tensor_files import CheckpointError, TensorFile

LLAMA_PREFIX = "codi.base_model.model."
PROJECTION_PREFIX = "prj."


@dataclass
class LoadReport:
    """What was found in a checkpoint and what became of it."""

    source: str = ""
    claimed: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """Prefix -> number of keys left out under it."""
    merged: dict[str, int] = field(default_factory=dict)
    """Target module -> number of adapters merged into it."""
    lora_rank: int = 0
    lora_alpha: float = 0.0
    projection_dim: int | None = None
    projection_layer_norm: bool | None = None
    parameters: int = 0
    """Parameters of the merged model and the projection; a tied pair counts once."""


class Claims:
    """Hands out the tensors of a file, each at most once, and collects everything that is wrong."""

    def __init__(self, file: TensorFile, dtype: torch.dtype, device: torch.device | str) -> None:
        self.file = file
        self.dtype = dtype
        self.device = device
        self.unclaimed = set(file.keys())
        self.problems: list[str] = []
        self.report = LoadReport(source=str(file.path))

    def has(self, key: str) -> bool:
        return key in self.unclaimed

    def drop(self, prefix: str) -> None:
        keys = {key for key in self.unclaimed if key.startswith(prefix)}
        self.unclaimed -= keys
        self.report.dropped[prefix] = len(keys)

    def take(self, key: str, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
        """The tensor of `key`, checked; an empty meta tensor where the file has none that will do."""
        if key not in self.unclaimed:
            self.problems.append(f"key {key!r} is missing; expected a tensor of shape {shape}")
            return torch.empty(shape, device="meta")
        self.unclaimed.discard(key)
        tensor = self.file.get(key)
        if tuple(tensor.shape) != tuple(shape):
            found = tuple(tensor.shape)
            self.problems.append(f"key {key!r} has shape {found}; expected {tuple(shape)}")
        elif not tensor.is_floating_point():
            self.problems.append(f"key {key!r} has dtype {tensor.dtype}; expected floating point")
        elif not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            self.problems.append(f"key {key!r} holds {bad} NaN or infinite values; expected none")
        else:
            self.report.claimed += 1
            return tensor
        return torch.empty(shape, device="meta")

    def place(self, tensor: Tensor) -> Tensor:
        return tensor if tensor.is_meta else tensor.to(device=self.device, dtype=self.dtype)

    def finish(self) -> None:
        """Raises if any claim failed or any key is left over."""
        self.problems += [
            f"key {key!r} is not part of a CODI LLaMA; expected only {LLAMA_PREFIX}… and "
            f"{PROJECTION_PREFIX}… (rename it, or name its prefix in drop_prefixes)"
            for key in sorted(self.unclaimed)
        ]
        if self.problems:
            shown = "; ".join(self.problems[:5])
            more = f"; and {len(self.problems) - 5} more" if len(self.problems) > 5 else ""
            raise CheckpointError(f"{self.file.path}: {shown}{more}")
