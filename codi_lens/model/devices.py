"""Devices and dtypes by their names."""

import torch

from codi_lens.choices import DTYPES
from codi_lens.errors import UserError


def pick_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A dtype by itself or by its name, "bfloat16" or "torch.bfloat16".

    Raises:
        UserError: none that a model can be in.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise UserError(f"no dtype {str(dtype)!r} for a model; give {', '.join(DTYPES)}")
    found: torch.dtype = getattr(torch, name)
    return found


def pick_device(device: str | torch.device, dtype: torch.dtype = torch.float32) -> torch.device:
    """ "auto" is CUDA, else MPS, else the CPU.

    Raises:
        UserError: the device is not there, or cannot calculate in `dtype`.
    """
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        where = torch.device(device)
        float(torch.ones(1, device=where))
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        # The first kernel tells; torch names a device that is not there in many ways.
        raise UserError(
            f"no device {str(device)!r} here; give 'auto', 'cpu', 'cuda' or 'mps'"
        ) from error
    try:
        ones = torch.ones((1, 1), device=where, dtype=dtype)
        float(ones @ ones)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise UserError(f"the device {str(device)!r} cannot calculate in {dtype}") from error
    return where
