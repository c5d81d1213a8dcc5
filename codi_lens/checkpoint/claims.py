"""Bookkeeping while loading: every tensor of a file is claimed once, and all errors are collected."""

from collections import Counter
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.checkpoint.layouts import Layout
from codi_lens.checkpoint.load_report import LoadReport
from codi_lens.checkpoint.tensor_files import CheckpointError, TensorFile

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class Claims:
    """Hands out the tensors of a file, each at most once, and collects errors."""

    def __init__(
        self, file: TensorFile, layout: Layout, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.file = file
        self.layout = layout
        self.dtype = dtype
        self.device = torch.device(device)
        self.unclaimed = set(file.keys())
        self.problems: list[str] = []
        self.report = LoadReport(
            source=str(file.path), wrapper=file.wrapper, replaced=file.replaced
        )

    def has(self, key: str) -> bool:
        return key in self.unclaimed

    def size(self, key: str, axis: int) -> int | None:
        """Length of one axis of a tensor still unclaimed; None if there is no such tensor or axis."""
        shape = self.file.shape(key) if self.has(key) else ()
        return shape[axis] if axis < len(shape) else None

    def drop(self, prefixes: Iterable[str], modules: Iterable[str]) -> None:
        """Leaves out all keys that begin so, and those that the layout says only training needs.

        Args:
            prefixes: of keys; none may be a part of the model itself.
            modules: the keys of the base model's modules.

        Raises:
            CheckpointError: a prefix that keys of the model begin with.
        """
        own = [*modules, *filter(None, (self.layout.adapters, self.layout.projection))]
        for prefix in prefixes:
            if any(stem.startswith(prefix) or prefix.startswith(stem) for stem in own):
                raise CheckpointError(
                    f"{self.file.path}: drop_prefixes holds {prefix!r}, which is part of the model itself; it "
                    f"may name anything but {self.layout.needs}"
                )
            self.report.dropped[prefix] = self._leave_out(prefix)
        for prefix, what in self.layout.auxiliary.items():
            count = self.report.dropped.get(prefix, 0) + self._leave_out(prefix)
            if count:
                self.report.dropped[prefix] = count
                self.report.rules[prefix] = what

    def drop_leftovers(self, endings: Iterable[str], parents: Iterable[str]) -> None:
        """Leaves out buffers that the config determines.

        Args:
            endings: of their keys.
            parents: what may be in front of an ending: the base model's modules that have others inside.
        """
        parents = list(parents)
        for ending in endings:
            keys = {parent + ending for parent in parents} & self.unclaimed
            if keys:
                self.unclaimed -= keys
                self.report.leftovers[ending] = len(keys)

    def _leave_out(self, prefix: str) -> int:
        keys = {key for key in self.unclaimed if key.startswith(prefix)}
        self.unclaimed -= keys
        return len(keys)

    def take(self, key: str, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
        """The tensor of `key`, checked; an empty meta tensor if the file has no usable one."""
        if key not in self.unclaimed:
            self.problems.append(f"key {key!r} is missing; expected a tensor of shape {shape}")
            return torch.empty(shape, device="meta")
        self.unclaimed.discard(key)
        tensor = self.file.get(key)
        if tuple(tensor.shape) != tuple(shape):
            found = tuple(tensor.shape)
            self.problems.append(f"key {key!r} has shape {found}; expected {tuple(shape)}")
        elif tensor.dtype not in FLOATING:
            wanted = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATING)
            self.problems.append(f"key {key!r} has dtype {tensor.dtype}; expected one of {wanted}")
        elif not _all_finite(tensor):
            bad = int((~torch.isfinite(tensor)).sum())
            self.problems.append(f"key {key!r} holds {bad} NaN or infinite values; expected none")
        else:
            self.report.claimed += 1
            return tensor
        return torch.empty(shape, device="meta")

    def place(self, tensor: Tensor, name: str) -> Tensor:
        """`tensor` in the chosen dtype on the chosen device, and never a view of the mapped file.

        A view would save memory, but the model would change, or crash, with the file.
        """
        if tensor.is_meta:
            return tensor
        cast = tensor.to(self.dtype)
        if not _all_finite(cast):
            # The tensors of the file are finite: the cast, or the scale of an adapter, was too much.
            largest = torch.finfo(self.dtype).max
            self.problems.append(
                f"{name!r} reaches {float(tensor.abs().max()):.3g}; expected at most {largest:.6g}, the "
                f"largest {str(self.dtype).removeprefix('torch.')}: load it in another dtype"
            )
        return cast.to(self.device, copy=cast is tensor)

    def finish(self) -> None:
        """Raises if any claim failed or any key is left over."""
        foreign = [
            f"key {key!r} is not part of the model; expected only {self.layout.needs} "
            "(rename it, or name its prefix in drop_prefixes)"
            for key in sorted(self.unclaimed)
        ]
        # Some of both: where a key was renamed, its old name is missing and its new one left over.
        shown = [*self.problems[:3], *foreign[:3]]
        more = len(self.problems) + len(foreign) - len(shown)
        if shown:
            rest = f"; and {more} more" if more else ""
            raise CheckpointError(f"{self.file.path}: {'; '.join(shown)}{rest}")


def most_common(sizes: Iterable[int | None]) -> int | None:
    """The most frequent size, so that an error names the tensor that differs from the others."""
    counts = Counter(size for size in sizes if size is not None)
    return counts.most_common(1)[0][0] if counts else None


def _all_finite(tensor: Tensor) -> bool:
    # The extremes carry any NaN along, and unlike torch.isfinite they need no memory.
    return bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())
