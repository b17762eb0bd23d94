"""What a surrogate remembers: the latest rows, oldest first."""

from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]


@final
class Replay:
    """The last ``size`` rows that were put in, with a few numbers for each.

    Args:
        size: The most rows that are kept.
        dtype: Of the rows; the numbers are float64.
    """

    def __init__(self, size: int, dtype: Any = np.float64) -> None:
        self.size, self.added = size, 0
        self._dtype = dtype
        self.rows: NDArray[Any] = np.zeros((0, 0), dtype)
        self.numbers: Array = np.zeros((0, 0))

    def __len__(self) -> int:
        return len(self.numbers)

    def add(self, rows: NDArray[Any], numbers: Array) -> int:
        """Put in rows of shape (n, d) and numbers of shape (n, k); returns how many old rows were forgotten."""
        if len(self) == 0:
            self.rows, self.numbers = rows[:0].astype(self._dtype), numbers[:0]
        self.added += len(rows)
        rows, numbers = rows[-self.size :], numbers[-self.size :]
        gone = max(0, len(self) + len(rows) - self.size)
        self.rows = np.concatenate([self.rows[gone:], rows.astype(self._dtype)])
        self.numbers = np.concatenate([self.numbers[gone:], numbers])
        return gone

    def state(self) -> dict[str, torch.Tensor]:
        """Rows and numbers."""
        return {"rows": torch.from_numpy(self.rows.copy()), "numbers": torch.from_numpy(self.numbers.copy())}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Take back what `state` gave."""
        self.rows, self.numbers = state["rows"].numpy().astype(self._dtype), state["numbers"].double().numpy()
