"""What is known of public checkpoints that their files do not say: `known_checkpoints.json`."""

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codi_lens.checkpoint.fields import read_object

TABLE = Path(__file__).with_name("known_checkpoints.json")


@functools.cache
def _table() -> dict[str, Any]:
    return read_object(TABLE)


def known_checkpoints() -> dict[str, dict[str, Any]]:
    """Hub id -> {"source": where this is from, "config": fields of `CodiConfig`}.

    Where scores were published there is "published": {data set: {"accuracy": …, "source": …}} too.
    """
    found: dict[str, dict[str, Any]] = _table()["checkpoints"]
    return found


def known_config(name: str) -> dict[str, Any]:
    """Fields of `CodiConfig` for a hub id; empty for one that is not known.

    An author's many checkpoints have patterns for entries, of which every one that fits says its part.
    """
    entries = [e for e in _table()["patterns"] if re.fullmatch(e["id"], name)]
    config: dict[str, Any] = {}
    for entry in (*entries, known_checkpoints().get(name, {})):
        config |= entry.get("config", {})
    return config


@dataclass(frozen=True)
class PublishedScore:
    """The accuracy that a checkpoint is said to have on a data set, and who says so."""

    accuracy: float
    source: str


def published_score(name: str, data: str | None) -> PublishedScore | None:
    """What was published of a hub id on a data set ("gsm8k", …), if anything is known."""
    found = known_checkpoints().get(name, {}).get("published", {}).get(data)
    return None if found is None else PublishedScore(**found)


def mirror_of(name: str) -> str | None:
    """The hub id of an ungated copy of a gated base model."""
    entry = _table()["mirrors"].get(name)
    return None if entry is None else str(entry["mirror"])


def refusal(name: str) -> str | None:
    """Why a hub id that is often mistaken for a CODI model of a known architecture is not one."""
    found: str | None = _table()["refused"].get(name)
    return found
