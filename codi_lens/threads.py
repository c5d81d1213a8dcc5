"""How many threads a program gives to torch: no more than its matrices keep busy."""

import os

import torch

NARROW = 256
"""Width of a model below which a second thread gains nothing."""
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def choose_threads(d_model: int, asked: int | None = None) -> int:
    """Sets the threads of this process, and returns their number.

    As `asked`; else as the environment says; else one for a narrow model, and torch's own choice for others.
    Threads wait for each other by spinning: over small matrices they do little else, and where other
    programs want the cores too, each waits for one that is not running.
    """
    if asked is not None:
        torch.set_num_threads(asked)
    elif d_model < NARROW and not any(map(os.environ.get, VARIABLES)):
        torch.set_num_threads(1)
    return torch.get_num_threads()
