"""A strategy's state as bytes, and back, trusting nothing in them."""

import io
import zipfile
from typing import Any

import torch

from zograd._errors import RunError

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
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise RunError(f"a snapshot must hold a strategy's state, found that {first:.200}") from error
    return state
