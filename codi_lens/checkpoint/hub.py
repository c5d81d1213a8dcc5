"""The files of a model: in a local folder, or on the hub and in its cache (through its client only).

Files are asked for one by one, by name: weights, JSON and tokenizer, and never code. An empty
file counts as absent; some public repositories have them. All files from the hub come from one commit.
`HF_HUB_OFFLINE=1` is left to the client, which then answers from its cache.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from codi_lens.checkpoint.known import mirror_of
from codi_lens.checkpoint.tensor_files import SHARD_INDEX, WEIGHTS, shard_names
from codi_lens.errors import UserError
from codi_lens.shipped import EMBEDDED, MODELS

TOKENIZER = "tokenizer.json"
TOKENIZER_FILES = (
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
)
"""In the last, transformers looks up the tokenizer's class where no other says it."""


@dataclass
class ModelFiles:
    """Access by file name to one model's files."""

    name: str
    folder: Path | None = None
    """Where the files are; None on the hub until the first of them came."""
    on_hub: bool = False
    revision: str | None = None
    only: str | None = None
    """The file of the weights, where it was named."""
    unreachable: bool = False
    """Whether the hub left a request unanswered, so that a file may be missing for that reason."""
    empty: set[str] = field(default_factory=set, init=False)
    """Names of files that are there, with nothing in them."""
    known: dict[str, Path | None] = field(default_factory=dict, init=False)
    """What was looked up already."""

    def get(self, filename: str) -> Path | None:
        """The path of a file, downloaded if need be; None if there is none, or nothing in it.

        Raises:
            UserError: the hub refuses, and what to do about it.
        """
        if filename not in self.known:
            path = self._fetch(filename) if self.on_hub else self._local(filename)
            if path is not None and _is_blank(path):
                self.empty.add(filename)
                path = None
            self.known[filename] = path
        return self.known[filename]

    def _local(self, filename: str) -> Path | None:
        path = self.folder / filename if self.folder else None
        # Unlike Path.is_file, this is false for a name that no system would take.
        return path if path and os.path.isfile(path) else None

    def _fetch(self, filename: str) -> Path | None:
        try:
            # After one unanswered request the cache is asked alone: retries would take minutes a file.
            found = huggingface_hub.hf_hub_download(
                self.name, filename, revision=self.revision, local_files_only=self.unreachable
            )
        except EntryNotFoundError as error:
            self.unreachable |= isinstance(error, LocalEntryNotFoundError)
            return None
        except Exception as error:
            # The client also lets errors of its HTTP library, of the disk and of validation through.
            raise UserError(_advice(self, error)) from error
        path = Path(found)
        if self.folder is None:
            # snapshots/<commit>/<file>: the rest comes from the same commit.
            self.folder, self.revision = path.parent, path.parent.name
        return path

    def require(self, filename: str) -> Path:
        """As `get`, for a file that must be there."""
        path = self.get(filename)
        if path is None:
            raise self.lacks(filename)
        return path

    def lacks(self, what: str) -> UserError:
        """The error for something that is not there."""
        empty = f" (there but empty: {', '.join(sorted(self.empty))})" if self.empty else ""
        if not self.on_hub:
            return UserError(f"{self.folder}: no {what} in this folder{empty}")
        if self.unreachable:
            return UserError(
                f"{self.name}: no {what} in the cache, and the hub cannot be reached (offline?); run "
                f"`hf download {self.name}` where there is a connection, or give a local folder{empty}"
            )
        return UserError(f"{self.name}: this repository has no {what}{empty}")

    def weights(self, filename: str | None = None) -> Path:
        """The file of the weights, or the index of its shards; safetensors before a pickle.

        Args:
            filename: the one to take; None: the one under a usual name, or the only `checkpoint_…`.
        """
        named = self.only or filename
        for name in (named,) if named else (*WEIGHTS, *self._bare()):
            path = self.get(name)
            if path is None:
                continue
            for shard in shard_names(path) if name == SHARD_INDEX and self.on_hub else ():
                self.require(shard)
            return path
        if named:
            raise self.lacks(f"{named[:200]}, which is named as the weights,")
        raise self.lacks(f"weights ({', '.join(WEIGHTS[:-1])} or {WEIGHTS[-1]})")

    def _bare(self) -> list[str]:
        """The file that Coconut's trainer leaves, with a number for a name and without a suffix.

        Raises:
            UserError: there are several.
        """
        folder = None if self.on_hub else self.folder
        found = sorted(p.name for p in folder.glob("checkpoint_*") if p.is_file()) if folder else []
        if len(found) > 1:
            raise UserError(
                f"{self.folder}: holds {len(found)} checkpoints ({', '.join(found[:5])}); say which, "
                f'such as weights="{found[-1]}"'
            )
        return found

    def tokenizer(self) -> list[Path]:
        """The tokenizer's files, `tokenizer.json` first; none without it."""
        found = [path for filename in TOKENIZER_FILES if (path := self.get(filename))]
        return found if found and found[0].name == TOKENIZER else []


def model_files(name_or_folder: str | Path, revision: str | None = None) -> ModelFiles:
    """Finds a model.

    Args:
        name_or_folder: "toy" (an embedded model), a folder, a file of weights, or a hub id ("owner/name").
        revision: branch, tag or commit on the hub.

    Raises:
        UserError: neither a folder nor a hub id.
    """
    if not isinstance(name_or_folder, str | Path) or not str(name_or_folder):
        raise UserError(f"no model {name_or_folder!r}: give a name, a folder, or a hub id")
    name = str(name_or_folder)
    folder = MODELS.get(name) or Path(os.path.expanduser(name_or_folder))
    if os.path.isdir(folder):  # for any text, even one that the system would not take as a path
        if revision is not None:
            raise UserError(
                f"revision {revision!r} is given, but {name!r} is a folder, not a hub id"
            )
        return ModelFiles(name, folder)
    if os.path.isfile(folder):
        return ModelFiles(name, folder.parent, only=folder.name)
    if isinstance(name_or_folder, Path) or not re.fullmatch(r"[\w.-]*\w[\w.-]*/[\w.-]+", name):
        raise UserError(
            f"no model {name!r}: give {', '.join(map(repr, EMBEDDED))}, a folder, or a hub id ('owner/name'); "
            f"organisms are {', '.join(name for name in MODELS if name not in EMBEDDED)}"
        )
    return ModelFiles(name, on_hub=True, revision=revision)


def _is_blank(path: Path) -> bool:
    """Whether a file holds nothing but white space."""
    with path.open("rb") as file:
        return all(block.isspace() for block in iter(lambda: file.read(2**16), b""))


def _advice(files: ModelFiles, error: Exception) -> str:
    name = files.name
    if isinstance(error, GatedRepoError):
        mirror = mirror_of(name)
        instead = f', or use the ungated mirror with base="{mirror}"' if mirror else ""
        return (
            f"{name}: access is gated; accept its licence on https://huggingface.co/{name} and run "
            f"`hf auth login`{instead}"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{name}: has no revision {files.revision!r}; give a branch, a tag or a commit of it"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{name}: no such folder here and no such model on the hub, or a private one; check the "
            "spelling, or run `hf auth login`"
        )
    reason = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{name}: the hub cannot be used ({type(error).__name__}: {reason})"
