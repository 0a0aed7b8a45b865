"""Tensors that may outgrow memory: beyond a size they live in an unnamed, memory-mapped file."""

from __future__ import annotations

import math
import os
import tempfile

import torch
from torch import Tensor

MAX_BYTES = 2**28
"""The largest tensor that stays in memory."""


def fits_in_memory(*shape: int) -> bool:
    """Whether a float32 tensor of this shape stays in memory."""
    return 4 * math.prod(shape) <= MAX_BYTES


def empty(*shape: int) -> Tensor:
    """An uninitialised float32 tensor of this shape; in a scratch file if it does not fit in memory.

    The file is in the system's temporary folder ($TMPDIR) and disappears with the tensor.

    Raises:
        OSError: that disk is full.
    """
    if fits_in_memory(*shape):
        return torch.empty(shape)
    size = math.prod(shape)
    with tempfile.NamedTemporaryFile(prefix="sealtune-") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, 4 * size)  # else a full disk would kill the process on a later write
        except OSError as error:
            raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from None
        return torch.from_file(file.name, shared=True, size=size).view(shape)
