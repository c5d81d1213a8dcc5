"""The tensors of a checkpoint, one by one, from any of the formats that the hub serves.

`model.safetensors`, `model.safetensors.index.json` with its shards, or `pytorch_model.bin`. All are read
through memory mapping (but for pickles older than torch 1.6), nothing is unpickled but plain tensors
(`weights_only=True`), and a name that occurs in two shards is an error. A wrapper's prefix in front of
every key (`module.` of DataParallel, `_orig_mod.` of torch.compile) is taken off.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from codi_lens.checkpoint.fields import read_object, text
from codi_lens.errors import UserError

SAFETENSORS = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
WEIGHTS = (SAFETENSORS, SHARD_INDEX, PICKLED)
"""What the weights may be in; where several are there, the first."""
WRAPPERS = ("module.", "_orig_mod.")


class CheckpointError(UserError):
    """A checkpoint that is not exactly the model it claims to be; names file, key, found, expected."""


class TensorFile:
    """Read access to the named tensors of one checkpoint."""

    def __init__(self, path: Path, sources: dict[str, Any], shards: list[Path]) -> None:
        self.path = path
        self.wrapper = _wrapper(sources)
        """What stood in front of every key; keys are named without it."""
        self._sources = {key.removeprefix(self.wrapper): source for key, source in sources.items()}
        self._shards = shards

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens a file of weights, or the index of its shards: one of `WEIGHTS`.

        Raises:
            CheckpointError: a file that is damaged or would run code when read.
        """
        if path.name == SHARD_INDEX:
            return cls._open_sharded(path)
        if path.name == PICKLED:
            return cls._open_pickled(path)
        return cls._open_safetensors(path, [path])

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
            with path.open("rb") as file:
                # Only a zip archive can be mapped; torch wrote another format before 1.6.
                mapped = file.read(4) == b"PK\x03\x04"
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as error:
            # torch raises many kinds here: truncated archives, code in the pickle.
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
            if tensor.nbytes > tensor.untyped_storage().nbytes():
                raise CheckpointError(
                    f"{path}: key {key!r} has shape {tuple(tensor.shape)}, more than the file holds of "
                    "it; expected every value (save a contiguous tensor)"
                )
        return cls(path, tensors, [path])

    def keys(self) -> list[str]:
        return list(self._sources)

    def shape(self, key: str) -> tuple[int, ...]:
        source = self._sources[key]
        if isinstance(source, Tensor):
            return tuple(source.shape)
        return tuple(source.get_slice(self.wrapper + key).get_shape())

    def get(self, key: str) -> Tensor:
        source = self._sources[key]
        return source if isinstance(source, Tensor) else source.get_tensor(self.wrapper + key)

    def digests(self) -> dict[str, str]:
        """File name -> SHA-256 of the file, as `sha256sum` prints it, in order of the names."""
        return {shard.name: _sha256(shard) for shard in sorted(self._shards)}


def model_digest(files: Iterable[str]) -> str:
    """One digest for all weight files: SHA-256 over their own digests, in bytes."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, files))).hexdigest()


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
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: no 'weight_map'; expected an object, key -> file name")
    return {key: text(name, f"{index}: shard of {key!r}") for key, name in weight_map.items()}


def _wrapper(keys: Iterable[str]) -> str:
    """The wrappers' prefixes that all keys have in front, outermost first."""
    keys, found = list(keys), ""
    while keys:
        outer = [w for w in WRAPPERS if all(key.startswith(found + w) for key in keys)]
        if not outer:
            break
        found += outer[0]
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
