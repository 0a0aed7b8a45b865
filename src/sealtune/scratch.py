"""Room for numbers that may outgrow memory: beyond a size they lie in a file without a name, mapped."""

from __future__ import annotations

import math
import os
import tempfile

import torch
from torch import Tensor

MOST = 2**28
"""Bytes that stay in memory."""


def room(*shape: int) -> Tensor:
    """A tensor of this shape, float32, not filled. Where it takes more than MOST bytes it lies in a scratch file.

    The file is in the system's folder for such files ($TMPDIR) and goes with the tensor.

    Raises:
        OSError: there is no room on that disk.
    """
    size = math.prod(shape)
    if 4 * size <= MOST:
        return torch.empty(shape)
    with tempfile.NamedTemporaryFile(prefix="sealtune-") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, 4 * size)  # or a full disk would kill the process when it is written
        except OSError as error:
            raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from None
        return torch.from_file(file.name, shared=True, size=size).view(shape)


def is_mapped(tensor: Tensor) -> bool:
    """Whether a tensor that ``room`` gave lies in a file."""
    return tensor.numel() * tensor.element_size() > MOST
