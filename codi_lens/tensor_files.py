"""The tensors of a checkpoint, one by one, from any of the formats that the hub serves.

`model.safetensors`, `model.safetensors.index.json` with its shards, or `pytorch_model.bin`. All are read
through memory mapping, nothing is unpickled but plain tensors (`weights_only=True`), and a name that
occurs in two shards is an error.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from codi_lens.errors import UserError

SAFETENSORS = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"


class CheckpointError(UserError):
    """A checkpoint that is not exactly the model it claims to be; names file, key, found, expected."""


class TensorFile:
    """Read access to the named tensors of one checkpoint."""

    def __init__(self, path: Path, sources: dict[str, Any], shards: list[Path]) -> None:
        self.path = path
        self._sources = sources
        self._shards = shards

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens the weights in `folder`.

        Raises:
            CheckpointError: no weights, or a file that is damaged or would run code when read.
        """
        if (folder / SAFETENSORS).is_file():
            return cls._open_safetensors(folder / SAFETENSORS, [folder / SAFETENSORS])
        if (folder / SHARD_INDEX).is_file():
            return cls._open_sharded(folder / SHARD_INDEX)
        if (folder / PICKLED).is_file():
            return cls._open_pickled(folder / PICKLED)
        raise CheckpointError(
            f"{folder}: no weights found; expected {SAFETENSORS}, {SHARD_INDEX} or {PICKLED}"
        )

    @classmethod
    def _open_safetensors(cls, path: Path, shards: list[Path]) -> Self:
        sources: dict[str, Any] = {}
        for shard in shards:
            try:
                handle = safe_open(shard, framework="pt")
            except (SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"{shard}: not a readable safetensors file ({error}); expected a whole one: "
                    "download it again"
                ) from error
            for key in handle.keys():  # noqa: SIM118 - the handle is no mapping
                if key in sources:
                    raise CheckpointError(f"{shard}: key {key!r} also occurs in another shard")
                sources[key] = handle
        return cls(path, sources, shards)

    @classmethod
    def _open_sharded(cls, index: Path) -> Self:
        weight_map = _weight_map(index)
        shards = [index.parent / name for name in shard_names(index)]
        for shard in shards:
            if not shard.is_file():
                raise CheckpointError(
                    f"{index}: shard {shard.name!r} is missing; expected it beside the index"
                )
        file = cls._open_safetensors(index, shards)
        for key in sorted(set(weight_map) ^ set(file.keys())):
            where = "the shards" if key in weight_map else "the index"
            raise CheckpointError(
                f"{index}: key {key!r} is missing from {where}; expected the same keys in both"
            )
        return file

    @classmethod
    def _open_pickled(cls, path: Path) -> Self:
        try:
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            # torch raises many kinds here: truncated archives, code in the pickle, old formats.
            reason = str(error).strip().splitlines()[0][:200]
            raise CheckpointError(
                f"{path}: cannot be read as plain tensors ({type(error).__name__}: {reason}); "
                "expected a whole file with tensors only (weights_only=True)"
            ) from error
        if not isinstance(tensors, dict):
            found = type(tensors).__name__
            raise CheckpointError(f"{path}: holds {found}; expected a state dict")
        for key, tensor in tensors.items():
            if not isinstance(key, str) or not isinstance(tensor, Tensor):
                found = type(tensor).__name__
                raise CheckpointError(f"{path}: entry {key!r} is {found}; expected a tensor")
            if tensor.layout != torch.strided or tensor.is_quantized:
                raise CheckpointError(f"{path}: key {key!r} is sparse or quantized; expected plain")
        return cls(path, tensors, [path])

    def keys(self) -> list[str]:
        return list(self._sources)

    def shape(self, key: str) -> tuple[int, ...]:
        source = self._sources[key]
        if isinstance(source, Tensor):
            return tuple(source.shape)
        return tuple(source.get_slice(key).get_shape())

    def get(self, key: str) -> Tensor:
        source = self._sources[key]
        return source if isinstance(source, Tensor) else source.get_tensor(key)

    def digest(self) -> str:
        """SHA-256 over the bytes of the weight files, in order of their names."""
        total = hashlib.sha256()
        for shard in sorted(self._shards):
            with shard.open("rb") as handle:
                total.update(hashlib.file_digest(handle, "sha256").digest())
        return total.hexdigest()


def shard_names(index: Path) -> list[str]:
    """The files that a shard index names, which must be plain names: they lie beside it.

    Raises:
        CheckpointError: not an index.
    """
    names = sorted(set(_weight_map(index).values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index}: shard {name!r}; expected the plain name of a .safetensors file"
            )
    return names


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text())["weight_map"]
        whole = all(isinstance(name, str) for name in weight_map.values()) and weight_map
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index}: not a shard index ({error!r}); expected a JSON object with 'weight_map'"
        ) from error
    if not whole:
        raise CheckpointError(f"{index}: 'weight_map' is not usable; expected key -> file name")
    return dict(weight_map)
