"""A strategy's state as bytes, and back, trusting nothing in them."""

import io
import zipfile
from typing import Any, cast

import optree
import torch

from zograd._errors import RunError

LARGEST_UNFOLDED = 2**26
"""Bytes that a tensor of few bytes may stand for, as one that is expanded does."""

BROKEN = (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError, OSError, MemoryError)
"""What a state that is none makes of those who take it."""


def pack(state: dict[str, Any]) -> bytes:
    """Tensors, numbers and plain containers of them as bytes.

    Raises:
        RunError: When there is something else in it, which could not be read back without running code.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, Any]:
    """What `pack` was given; nothing in the bytes is ever run.

    Raises:
        RunError: When it is something else.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
        # A compressed entry could unfold to any size.
        plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not plain or sum(entry.file_size for entry in entries) > len(data):
            raise ValueError("its entries are larger than itself")
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError("it is no dict")
        most = max(len(data), LARGEST_UNFOLDED)
        leaves: list[Any] = optree.tree_leaves(cast("Any", state), none_is_leaf=True)
        for leaf in leaves:
            if isinstance(leaf, torch.Tensor) and not (leaf.is_contiguous() or leaf.nbytes <= most):
                raise ValueError("a tensor is larger than the bytes that it has")
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise RunError(f"a snapshot must hold a strategy's state, found that {first:.200}") from error
    return state
