"""The processes that `accelerate launch` or `torchrun` has started together on one run.

    accelerate launch --multi_gpu --num_processes 2 -m experiments.position_patching …

Each runs its part of the pairs and keeps them in a journal of its own; the first makes them one record. They
share the run's folder, and speak to each other only to wait.
"""

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from codi_lens.errors import UserError

NUMBERS = ("RANK", "WORLD_SIZE", "MASTER_PORT")
"""Environment variables of a launcher."""
LONGEST_WAIT = timedelta(days=30)
"""A process may wait for others that are still at their parts; if one dies, the launcher ends all."""


@dataclass(frozen=True)
class Processes:
    """This process, and how many there are."""

    index: int = 0
    count: int = 1
    local_index: int = 0
    """Among those on this machine: the number of the GPU to use."""
    store: Any = None
    """The launcher's key-value store (`torch.distributed.Store`), through which they speak."""
    _meetings: Iterator[int] = field(default_factory=itertools.count)

    def part(self, items: int) -> slice:
        """This process' part of a list: contiguous, and as long as the others' but for one."""
        return slice(items * self.index // self.count, items * (self.index + 1) // self.count)

    def device(self, asked: str) -> str:
        """The device for this process, where "auto" or "cuda" leaves the number open."""
        import torch

        open_number = asked in ("auto", "cuda") and torch.cuda.is_available()
        return f"cuda:{self.local_index}" if self.count > 1 and open_number else asked

    def wait(self) -> None:
        """Returns when all processes have come here.

        Raises:
            ConnectionError: the launcher, or the process that keeps the store, is gone.
        """
        self.from_first("")

    def from_first(self, text: str) -> str:
        """The text that the first process gives here; waits for all. Raises as `wait` does."""
        if self.count == 1:
            return text
        number = next(self._meetings)
        try:
            if self.index == 0:
                self.store.set(f"text {number}", text)
            if self.store.add(f"arrived {number}", 1) == self.count:
                self.store.set(f"all {number}", "")
            self.store.wait([f"all {number}"], LONGEST_WAIT)
            return str(self.store.get(f"text {number}").decode())
        except RuntimeError as error:
            raise ConnectionError(f"process {self.index} has lost the others: {error}") from error


ALONE = Processes()


@contextlib.contextmanager
def together() -> Iterator[Processes]:
    """Finds the processes that the launcher's environment tells of; only the first prints results."""
    if not _launched():
        yield Processes()
        return
    from torch.distributed.rendezvous import rendezvous

    store, index, count = next(rendezvous("env://"))
    with contextlib.redirect_stdout(None) if index else contextlib.nullcontext():
        yield Processes(index, count, int(os.environ.get("LOCAL_RANK") or 0), store)


def _launched() -> bool:
    """Whether a launcher started this process with others; one that sets only some variables did not.

    Raises:
        UserError: the variables are there, but what they say cannot be.
    """
    found = {name: os.environ.get(name, "") for name in (*NUMBERS, "MASTER_ADDR")}
    if found["WORLD_SIZE"] in ("", "1"):
        return False
    if unset := [name for name, value in found.items() if not value]:
        sys.stderr.write(
            f"note: WORLD_SIZE is set, but not {', '.join(unset)}, as accelerate and torchrun would; "
            "this is one process on its own\n"
        )
        return False
    if all(found[name].isdecimal() for name in NUMBERS):
        index, count, _ = (int(found[name]) for name in NUMBERS)
        if index < count and (os.environ.get("LOCAL_RANK") or "0").isdecimal():
            return True
    said = ", ".join(f"{name}={os.environ.get(name)}" for name in (*NUMBERS, "LOCAL_RANK"))
    raise UserError(
        f"the environment tells of no processes that can be: {said}; "
        "unset them, or start with accelerate launch"
    )
