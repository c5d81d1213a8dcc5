"""Text in UTF-8 whatever the locale; and files that are there whole or not at all, whatever ends the process."""

import errno
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from codi_lens.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

NOT_OFFERED = {
    errno.EACCES,
    errno.EBADF,
    errno.EINVAL,
    errno.ENOLCK,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.EPERM,
}
"""What systems say of a service that they, or one of their file systems, do not have."""


def expand(path: str | Path) -> Path:
    """A path with the user's home for a leading `~`; a name that no user has stays as it is."""
    return Path(os.path.expanduser(path))


def read_text(path: Path) -> str:
    """A text file's content, UTF-8 whatever the locale, without the byte-order mark that some editors add.

    Raises:
        UserError: not UTF-8.
        OSError: not there, or not readable.
    """
    try:
        return expand(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from error


def parse_json(content: str | bytes) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: not JSON; or an object has a key twice, of which JSON would silently take the last.
    """

    def once(entries: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in entries:
            if key in found:
                raise ValueError(f"the key {key[:100]!r} is given twice in one object")
            found[key] = value
        return found

    return json.loads(content, object_pairs_hook=once)


def write_json(files: Mapping[Path, Any]) -> None:
    """Writes JSON files so that all appear or none: each beside its place first, then moved.

    Raises:
        ValueError: NaN or infinity in the content, which JSON has no spelling for.
    """
    _write(
        {
            path: json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False).encode()
            + b"\n"
            for path, content in files.items()
        }
    )


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file, beside its place first, then moved."""
    # Here, so that programs which write JSON alone need not load torch.
    from safetensors.torch import save

    content = save({k: v.contiguous() for k, v in tensors.items()}, dict(metadata))
    _write({path: _in_order(content)})


def write_text(path: Path, text: str) -> None:
    """Writes a text file, beside its place first, then moved."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, beside its place first, then moved."""
    _write({path: content})


def write_through(path: Path, content: bytes) -> None:
    """Writes a file straight to its place and waits until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Waits until the disk has the folder's list of names, where the system can say so."""
    with _where_offered("forcing a folder to disk"):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def lock(file: IO[bytes]) -> Callable[[], None]:
    """Locks a file, open for writing, where the system can: until its process dies or it is closed and unlocked.

    Returns:
        What unlocks it, to be called once it is closed.

    Raises:
        BlockingIOError: another process has locked it.
    """
    with _where_offered("locking a file"):
        try:
            import fcntl
        except ImportError:  # Windows
            return _lock_beside(Path(file.name))
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lambda: None


def _lock_beside(path: Path) -> Callable[[], None]:
    """Locks a file by one beside it: to lock the file itself would keep even its owner from reading it there."""
    from filelock import FileLock, Timeout

    held = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        held.acquire(blocking=False)
    except Timeout as error:
        raise BlockingIOError(str(error)) from error
    return held.release


@contextmanager
def _where_offered(service: str) -> Iterator[None]:
    """Inside, a service that is not to be had here is warned of (once) and done without."""
    try:
        yield
    except (ImportError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NOT_OFFERED:
            raise
        warnings.warn(f"{service} is not possible here; going on without", stacklevel=3)


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its header sorted, so that equal tensors and labels make equal files.

    The library writes metadata in an order that changes from run to run.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8
    return len(header).to_bytes(8, "little") + header + content[start:]


def _write(files: Mapping[Path, bytes]) -> None:
    files = {expand(path): content for path, content in files.items()}
    drafts = {path: path.with_name(f".{path.name}.draft") for path in files}
    try:
        for path, content in files.items():
            # On disk before it gets its name, or a power cut could leave the name without content.
            write_through(drafts[path], content)
        for path, draft in drafts.items():
            draft.replace(path)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)
    for folder in {path.parent for path in files}:
        sync_folder(folder)
