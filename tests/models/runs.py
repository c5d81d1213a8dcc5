"""A small job for the tests that break things: a random model, four pairs, two pairs a batch."""

import json
import os
import signal
from pathlib import Path

from codi_lens.cli import iterative_patching, layer_patching, position_patching
from codi_lens.data.pairs import Pair, Variant, write_pairs
from codi_lens.records.journal import PARTS, Journal
from codi_lens.records.manifest import JOURNAL, MANIFEST, describe_file
from tests.models.tiny import write_tiny

PAIRS = [
    Pair(0, Variant("12 plus 30?", 42), Variant("12 plus 31?", 43), "plus", "x"),
    Pair(7, Variant("one plus two plus 3?", 6, (1, 2, 3), (3,)), Variant("12 plus 3?", 15)),
    Pair(2, Variant("1 plus 2?", 12), Variant("1 plus 3?", 17), None, "y"),
    Pair(3, Variant("5 plus 6?", 2.5), Variant("5 plus 7?", 98), "plus"),
]
PROGRAMS = {
    "position_patching": position_patching,
    "layer_patching": layer_patching,
    "iterative_patching": iterative_patching,
}


def write_job(folder: Path) -> list[str]:
    """Writes model and pairs; returns the flags of a run on them."""
    write_tiny(folder / "model", seed=13)
    write_pairs(folder / "pairs.json", PAIRS)
    flags = ["--model", folder / "model", "--pairs", folder / "pairs.json", "--layers", "0,2"]
    flags += ["--positions", "0,1"]
    return [*map(str, flags), "--batch-rows", "40"]


def sign(folder: Path) -> None:
    """Has a record's manifest list its files as they are: what was changed in them is then what was measured."""
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"] = {name: describe_file(folder / name) for name in manifest["files"]}
    path.write_text(json.dumps(manifest))


def contents(folder: Path) -> dict[str, object]:
    """All files of a finished run, without times, paths, memory, and where it ran."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        found[str(path.relative_to(folder))] = path.read_bytes() if path.is_file() else None
    for name in found:
        if name.endswith(".json"):
            found[name] = json.loads((folder / name).read_text())
    manifest = found["manifest.json"]
    del manifest["peak_memory_bytes"], manifest["config"]["seconds"], manifest["config"]["out"]
    del manifest["origin"]
    found[JOURNAL] = found[JOURNAL].split(b"\n")[1:]  # the first line knows the folder
    return found


def interrupt_after(monkeypatch, pairs, times=1):
    """Presses Ctrl-C when the given number of pairs are journaled."""
    add = Journal.add

    def pressed(self, outcome):
        add(self, outcome)
        done = len(list((self.folder / PARTS).iterdir()))
        for _ in range(times if done == pairs else 0):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Journal, "add", pressed)


def refused(capsys, *arguments, program=position_patching):
    capsys.readouterr()
    assert program.main(list(map(str, arguments))) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said
