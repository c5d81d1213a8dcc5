"""Writing files so that each is there whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def write_json(files: Mapping[Path, Any]) -> None:
    """Writes JSON files so that all appear or none: each beside its place first, then moved.

    Raises:
        ValueError: NaN or infinity in the content, which JSON has no spelling for.
    """
    drafts = {path: _draft(path) for path in files}
    try:
        for path, content in files.items():
            text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
            drafts[path].write_text(text + "\n", encoding="utf-8")
        for path, draft in drafts.items():
            draft.replace(path)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file, beside its place first, then moved."""
    # Here, so that programs which write JSON alone need not load torch.
    from safetensors.torch import save

    draft = _draft(path)
    try:
        draft.write_bytes(save({k: v.contiguous() for k, v in tensors.items()}, dict(metadata)))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, beside its place first, then moved."""
    draft = _draft(path)
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.draft")
