"""Small vectors as NumPy arrays: on a few hundred numbers, an operation costs a quarter of what it costs in torch."""

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array: TypeAlias = NDArray[np.floating[Any]]


def array(tensor: Tensor) -> Array:
    """The numbers of ``tensor``, sharing its memory where it is on the CPU: change nothing in it.

    Half precision, of which NumPy knows only a part, becomes float32.
    """
    known = tensor.dtype is torch.float64 or tensor.dtype is torch.float32
    numbers: Array = (tensor if known else tensor.float()).numpy(force=True)
    return numbers


def tensor_like(numbers: Array, like: Tensor) -> Tensor:
    """``numbers`` as a tensor of the dtype and on the device of ``like``, in memory of torch's own.

    Matrix products are the same bit for bit only where memory is aligned in the same way, as torch's is.
    """
    return torch.from_numpy(numbers).to(like, copy=True)
