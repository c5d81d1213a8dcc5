"""Where a result comes from: the code's commit, the time, the machine. Nothing that names a person, a host or a path."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PACKAGE = Path(__file__).parents[1]
PATIENCE = 10.0
"""Seconds to wait for git."""


def describe_origin(device: "torch.device") -> dict[str, Any]:
    """The commit that runs (None where the package is not in a repository), the time, and the machine."""
    return {
        "code": describe_code(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": {
            "platform": platform.platform(),
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "cpus": os.cpu_count(),
            "device": device_name(device),
        },
    }


def describe_code(package: Path = PACKAGE) -> dict[str, str | bool] | None:
    """The commit of the repository that `package` belongs to, and whether the package was changed since.

    None without git, and where the package is installed: a repository around it may be anybody's.
    """
    if not _git(package, "ls-files", "--", "__init__.py"):
        return None
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain", ".")
    return None if not commit or changes is None else {"commit": commit, "dirty": bool(changes)}


def device_name(device: "torch.device") -> str:
    """The graphics card's name; else the kind of processor."""
    if device.type == "cuda":
        import torch

        return str(torch.cuda.get_device_name(device))
    kind = platform.processor() or platform.machine()
    return kind if device.type == "cpu" else f"{device.type} ({kind})"


def _git(folder: Path, *words: str) -> str | None:
    """What git says; None if it cannot."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
