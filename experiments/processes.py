"""The processes that `accelerate launch` or `torchrun` has started together on one run.

    accelerate launch --multi_gpu --num_processes 2 -m experiments.position_patching …

Each runs its part of the pairs and keeps them in a journal of its own; the first makes them one record. They
share the run's folder, and speak to each other only to wait.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

LONGEST_WAIT = timedelta(days=30)
"""A process may wait for others that are still at their parts; one that dies ends the wait at once."""


@dataclass(frozen=True)
class Processes:
    """This process, and how many there are."""

    index: int = 0
    count: int = 1
    local_index: int = 0
    """Among those on this machine: the number of the GPU to use."""

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
            ConnectionError: one of them has ended.
        """
        self.from_first(None)

    def from_first(self, value: Any) -> Any:
        """The value that the first process gives here; waits for all.

        Raises:
            ConnectionError: one of them has ended.
        """
        if self.count == 1:
            return value
        from torch import distributed

        values = [value]
        try:
            distributed.broadcast_object_list(values)
            distributed.barrier()
        except RuntimeError as error:
            raise ConnectionError(
                f"process {self.index}: another process of this run ended too early"
            ) from error
        return values[0]


@contextlib.contextmanager
def together() -> Iterator[Processes]:
    """Joins the processes that the launcher's environment tells of; only the first prints results."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    from torch import distributed

    distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
    try:
        index, local = distributed.get_rank(), int(os.environ.get("LOCAL_RANK", "0"))
        with contextlib.redirect_stdout(None) if index else contextlib.nullcontext():
            yield Processes(index, count, local)
    finally:
        distributed.destroy_process_group()
