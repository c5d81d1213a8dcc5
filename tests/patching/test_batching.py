"""How many pairs run side by side, and that nothing is lost when memory runs out."""

import subprocess
import sys

import pytest
import torch

from codi_lens import Pair, UserError, Variant, memory, patch_positions
from codi_lens.memory import fitting_rows, in_batches, row_bytes
from codi_lens.patching import outcomes
from tests.models.invented import CELL_METRICS

PAIRS = [
    Pair(i, Variant(f"{i} plus {i + 2}?", 2 * i + 2), Variant(f"{i} plus {i + 3}?", 2 * i + 3))
    for i in range(7)
]
TOO_MUCH = "CUDA out of memory. Tried to allocate 20.00 MiB"


class Scarce:
    """Runs batches, and fails the first times, or whenever a batch is too large."""

    def __init__(self, fails=0, room=None, message=TOO_MUCH):
        self.fails, self.room, self.message = fails, room, message
        self.sizes = []

    def __call__(self, batch):
        self.sizes.append(len(batch))
        if len(self.sizes) <= self.fails or (self.room is not None and len(batch) > self.room):
            raise torch.OutOfMemoryError(self.message)
        return [item * 10 for item in batch]


@pytest.mark.parametrize("fails", [0, 1, 2, 3])
def test_a_batch_is_halved_until_it_fits_and_nothing_is_lost(fails):
    run = Scarce(fails)
    assert list(in_batches(range(10), 8, run)) == [i * 10 for i in range(10)]
    assert run.sizes[: fails + 1] == [8, 4, 2, 1][: fails + 1]


def test_what_is_done_is_not_run_again():
    """Memory grows scarce half-way: batches before stay, later ones keep to the smaller size."""
    run = Scarce()
    given = in_batches(range(12), 4, run)
    first = [next(given) for _ in range(4)]
    run.room = 3
    assert first + list(given) == [i * 10 for i in range(12)]
    assert run.sizes == [4, 4, 2, 2, 2, 2]


def test_a_last_batch_that_is_smaller_is_halved_from_its_own_size():
    run = Scarce(room=2)
    assert list(in_batches(range(3), 64, run)) == [0, 10, 20]
    assert run.sizes == [3, 1, 1, 1]


def test_out_of_memory_with_a_single_pair_says_what_would_do():
    with pytest.raises(UserError, match=r"out of memory with one pair .* fewer --layers"):
        list(in_batches(range(3), 2, Scarce(fails=9)))


def test_a_fixed_size_stays():
    run = Scarce(fails=1)
    with pytest.raises(UserError, match=r"out of memory with 2 pairs .* smaller --batch-rows"):
        list(in_batches(range(3), 2, run, halve=False))
    assert run.sizes == [2]


def test_other_errors_are_not_taken_for_lack_of_memory():
    run = Scarce(fails=1, message="mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        list(in_batches(range(3), 2, run))
    assert run.sizes == [2]


def test_no_batch_is_run_once_it_is_told_to_stop():
    run = Scarce()
    given = in_batches(range(6), 2, run, stopped=lambda: len(run.sizes) == 2)
    assert list(given) == [0, 10, 20, 30]


def test_a_sweep_that_runs_out_of_memory_ends_as_one_that_does_not(tiny, monkeypatch):
    expected = patch_positions(tiny, PAIRS)
    original, sizes = outcomes._run_batch, []

    def scarce(experiment, codi, jobs, *rest):
        sizes.append(len(jobs))
        if len(sizes) in (1, 3):
            raise torch.OutOfMemoryError(TOO_MUCH)
        return original(experiment, codi, jobs, *rest)

    monkeypatch.setattr(outcomes, "_run_batch", scarce)
    seen = []
    found = patch_positions(tiny, PAIRS, progress=lambda outcome: seen.append(outcome.pair.pair_id))
    assert sizes == [7, 3, 3, 1, 1, 1, 1]
    assert seen == [pair.pair_id for pair in PAIRS]
    for name in CELL_METRICS:
        there = expected.metrics[name]
        torch.testing.assert_close(found.metrics[name], there, atol=1e-11, rtol=0, equal_nan=True)


@pytest.fixture(scope="module")
def one_by_one(tiny):
    return patch_positions(tiny, PAIRS[:5], layers=[0, 2], batch_rows=1)


@pytest.mark.parametrize("rows", [5, 11, 25, None])
def test_results_do_not_depend_on_the_batch_size(tiny, one_by_one, rows):
    expected, found = one_by_one, patch_positions(tiny, PAIRS[:5], layers=[0, 2], batch_rows=rows)
    for name in CELL_METRICS:
        torch.testing.assert_close(
            found.metrics[name], expected.metrics[name], atol=1e-11, rtol=0, equal_nan=True
        )


def test_the_first_guess_follows_free_memory(tiny, monkeypatch):
    cfg, where = tiny.model.cfg, torch.device("cpu")
    sizes = {"prompt": 20, "latents": 3, "answer": 7}
    own = row_bytes(cfg, **sizes)
    assert own > row_bytes(cfg, prompt=10, latents=3, answer=7) > 0
    for free, expected in ((0, 1), (own, 1), (20 * own, 10), (1e15, memory.MOST_ROWS)):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: int(free))
        assert fitting_rows(cfg, where, **sizes) == expected
    monkeypatch.undo()
    assert memory.free_memory(where) > 2**20


def test_the_guess_is_about_what_a_row_takes(tiny):
    """The peak of a pass, measured by what its hook points hold, is within a small factor."""
    sizes = {"prompt": 8, "latents": 3, "answer": 6}
    held = []
    x = torch.zeros(1, 6, 32, dtype=torch.float64)
    with torch.no_grad():
        state = tiny.read_to_share(["12 plus 30?"])
        keep = [("blocks.1." + n, lambda a, hook: held.append(a.nbytes)) for n in BLOCK_HOOKS]
        tiny.loop.advance(state, x, keep)
    assert 0.3 < row_bytes(tiny.model.cfg, **sizes) / sum(held) < 6


BLOCK_HOOKS = ("attn.hook_attn_scores", "attn.hook_pattern", "mlp.hook_pre", "mlp.hook_post")


def test_freed_memory_is_kept():
    """Sooner or later a large tensor takes pages that are there, with glibc; without, it never does."""
    program = """
import resource, torch
from codi_lens.memory import keep_freed_memory
keep_freed_memory()
for _ in range(30):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    first, *later = map(int, done.stdout.split())
    assert min(later) < first / 10
