"""The tensors of a checkpoint, one by one, from any of the formats that the hub serves.

`model.safetensors`, `model.safetensors.index.json` with its shards, or what torch saved, such as
`pytorch_model.bin`. All are read
through memory mapping (but for pickles older than torch 1.6), nothing is unpickled but plain tensors
(`weights_only=True`), and a name that occurs in two shards is an error. A wrapper's prefix in front of
every key (`module.` of DataParallel, `_orig_mod.` of torch.compile) is taken off.
"""

import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
WEIGHTS = (SAFETENSORS, SHARD_INDEX, PICKLED, "model-00001-of-00001.safetensors", *ADAPTERS)
"""What the weights may be in; where several are there, the first. One shard may come without an index."""
WRAPPERS = ("module.", "_orig_mod.")


class CheckpointError(UserError):
    """A checkpoint that is not exactly the model it claims to be; names file, key, found, expected."""


class TensorFile:
    """Read access to the named tensors of one checkpoint."""

    def __init__(self, path: Path, sources: Mapping[str, Any], shards: Sequence[Path]) -> None:
        self.path = path
        self.wrapper = _wrapper(sources)
        """What stood in front of every key; keys are named without it."""
        self._places = {
            key.removeprefix(self.wrapper): (source, key) for key, source in sources.items()
        }
        self._shards = list(shards)
        self.replaced = 0
        """Tensors whose place another file's have taken."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens a file of weights, or the index of its shards; what is no safetensors file is a pickle.

        Raises:
            CheckpointError: a file that is damaged or would run code when read.
        """
        if path.name == SHARD_INDEX:
            return cls._open_sharded(path)
        if path.suffix == ".safetensors":
            return cls._open_safetensors(path, [path])
        return cls._open_pickled(path)

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
        return list(self._places)

    def shape(self, key: str) -> tuple[int, ...]:
        source, name = self._places[key]
        if isinstance(source, Tensor):
            return tuple(source.shape)
        return tuple(source.get_slice(name).get_shape())

    def get(self, key: str) -> Tensor:
        source, name = self._places[key]
        return source if isinstance(source, Tensor) else source.get_tensor(name)

    def renamed(self, name_of: Callable[[str], str]) -> Self:
        """The same tensors under the names that a function gives for theirs.

        Raises:
            CheckpointError: two tensors get one name.
        """
        found = copy.copy(self)
        found._places = {name_of(key): place for key, place in self._places.items()}
        if len(found._places) < len(self._places):
            counts = Counter(map(name_of, self._places))
            twice = max(counts, key=lambda name: counts[name])
            raise CheckpointError(f"{self.path}: key {twice!r} is there in two spellings")
        return found

    def joined(self, other: "TensorFile") -> Self:
        """These tensors and those of another file, which take the place of any of the same name."""
        found = copy.copy(self)
        found.replaced += len(self._places.keys() & other._places.keys())
        found._places = self._places | other._places
        found._shards = [*self._shards, *other._shards]
        return found

    def digests(self) -> dict[str, str]:
        """File name -> SHA-256 of the file, as `sha256sum` prints it, in order of the names."""
        names = Counter(shard.name for shard in self._shards)
        labels = {
            shard.name if names[shard.name] == 1 else f"{shard.parent.name}/{shard.name}": shard
            for shard in self._shards
        }
        return {label: _sha256(labels[label]) for label in sorted(labels)}


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
