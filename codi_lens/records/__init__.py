"""What is on disk: the journal of a run in progress, the finished record, and the code that reads both.

`run` runs an experiment with a journal, and continues where it was stopped; `evaluate` does so with an
evaluation; `load` reads a record back.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codi_lens.records.evaluating import evaluate
    from codi_lens.records.read import load
    from codi_lens.records.running import run
    from codi_lens.records.write import write_record

_HOMES = {"evaluate": "evaluating", "load": "read", "run": "running", "write_record": "write"}

__all__ = ["evaluate", "load", "run", "write_record"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'codi_lens.records' has no attribute {name!r}")
    return getattr(import_module(f"codi_lens.records.{_HOMES[name]}"), name)
