"""Memory: how many rows fit side by side, a first guess that is halved whenever it proves too many."""

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from codi_lens.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of mallopt(3)."""
PATCH_LESS = "fewer --layers or --positions, --controls none, or --dtype bfloat16"
LARGEST_SHARE = 0.5
"""Of the free memory, for activations: the guess is rough, and other programs grow too."""
LARGEST_BUDGET = 4 * 2**30
"""Bytes."""
MOST_ROWS = 2048
"""Larger batches are no faster, and less is lost when a run is interrupted. Where memory is not scarce this is
what decides, so that batches are the same from run to run."""


def fitting_rows(cfg: Any, device: torch.device, *, prompt: int, latents: int, answer: int) -> int:
    """Rows that should fit in free memory, at least 1.

    Args:
        cfg: the hooked model's.
        prompt, latents, answer: positions of the prompt, of the thoughts, and fed in the answer's pass.
    """
    budget = min(LARGEST_SHARE * free_memory(device), LARGEST_BUDGET)
    own = row_bytes(cfg, prompt=prompt, latents=latents, answer=answer)
    return min(MOST_ROWS, max(1, int(budget // own)))


def row_bytes(cfg: Any, *, prompt: int, latents: int, answer: int) -> int:
    """Memory of one row at its peak, which is inside a layer of the answer's pass."""
    length = prompt + latents + answer
    kv_heads = cfg.n_key_value_heads or cfg.n_heads
    suffix = 2 * cfg.n_layers * (latents + answer) * kv_heads * cfg.d_head
    # Scores, their mask and the pattern are alive together; so are the MLP's gate, input and product,
    # and about as many residual-sized vectors as a block has steps.
    scores = 3 * answer * cfg.n_heads * length
    hidden = answer * (4 * cfg.d_mlp + 12 * cfg.d_model)
    return int(2 * suffix + scores + hidden) * torch.empty((), dtype=cfg.dtype).element_size()


def free_memory(device: torch.device) -> int:
    """Bytes that a program may still take on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + unused
    import psutil

    return int(psutil.virtual_memory().available)


def peak_memory() -> int:
    """Bytes: the most that this process has held; where the system does not tell, what it holds now."""
    try:
        import resource
    except ImportError:
        import psutil

        held = psutil.Process().memory_info()
        return int(getattr(held, "peak_wset", held.rss))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def keep_freed_memory() -> None:
    """Has glibc keep what is freed for the next tensors, of which a program makes thousands of a few sizes.

    Left alone it gives large ones back to the system, and every page of the next has to be mapped anew: about a
    tenth of a sweep on the CPU. With another C library, or none to be found, nothing is done.
    """
    _glibc("mallopt", M_TRIM_THRESHOLD, 2**31 - 1)
    _glibc("mallopt", M_MMAP_THRESHOLD, 2**30)


def return_freed_memory() -> None:
    """Has glibc give back what is freed, where it would keep the pages between tensors that stay."""
    _glibc("malloc_trim", 0)


def _glibc(function: str, *arguments: int) -> None:
    """Calls a function of the C library, where it has it."""
    try:
        call = getattr(ctypes.CDLL(None), function)
    except (AttributeError, OSError, TypeError):
        return
    call(*arguments)


def in_batches(
    items: Sequence[Item],
    size: int,
    run: Callable[[Sequence[Item]], Sequence[Result]],
    *,
    halve: bool = True,
    stopped: Callable[[], bool] = lambda: False,
    unit: str = "pair",
    less: str = PATCH_LESS,
) -> Iterator[Result]:
    """Runs items `size` at a time and yields the results in order, each exactly once.

    A batch that runs out of memory is halved and run again, and so are all batches after it. `stopped` is
    asked before each batch; if true, no more are run. `unit` and `less` say what an item is
    and what takes less memory.

    Raises:
        UserError: out of memory with a single item, or with `halve` off.
    """
    from accelerate.utils.memory import clear_device_cache

    start = 0
    while start < len(items) and not stopped():
        batch = items[start : start + size]
        results = None
        try:
            results = run(batch)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            if len(batch) == 1 or not halve:
                raise UserError(_too_many(len(batch), halve, unit, less)) from error
        if results is None:
            # Out of the handler, where the failed run's tensors are no longer held by its traceback.
            clear_device_cache(garbage_collection=True)
            size = len(batch) // 2
            continue
        start += len(batch)
        yield from results


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Names `what` needed more memory than there is, where something inside did.

    Raises:
        UserError: out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        raise UserError(
            f"{what}: out of memory; expected room for the model's weights: choose another device, or "
            "a smaller dtype such as bfloat16"
        ) from error


def _out_of_memory(error: Exception) -> bool:
    """Whether this is how Python, or torch on any device, says so."""
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, MemoryError) or should_reduce_batch_size(error)


def _too_many(items: int, halve: bool, unit: str, less: str) -> str:
    what = f"one {unit}" if items == 1 else f"{items} {unit}s"
    way = "" if items == 1 or halve else "a smaller --batch-rows, "
    return f"out of memory with {what} in a batch; choose {way}{less}"
