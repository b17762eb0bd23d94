"""What a training shows while it goes on: one line with the time left, and TensorBoard where it is asked for."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, final

from tqdm import tqdm

from zograd._errors import MissingExtraError


@final
class Showing:
    """A progress line, and a TensorBoard log.

    Args:
        epochs: How many there will be.
        steps: Batches in an epoch, or None where that is not known.
        done: Batches that were done before.
        progress: ``None`` shows the line on a terminal only.
        tensorboard: A folder for TensorBoard, or None.
        first: The epoch that comes next, from 1: what a killed process wrote of it or of later ones is hidden.

    Raises:
        MissingExtraError: When TensorBoard is asked for and not installed.
    """

    def __init__(
        self,
        epochs: int,
        steps: int | None,
        done: int,
        progress: bool | None,
        tensorboard: Path | None,
        first: int = 1,
    ) -> None:
        self.writer: Any = None
        if tensorboard is not None:
            try:
                importlib.import_module("tensorboard")
                module = importlib.import_module("torch.utils.tensorboard")
            except ModuleNotFoundError as error:
                raise MissingExtraError("tensorboard", "tensorboard") from error
            self.writer = module.SummaryWriter(str(tensorboard), purge_step=first)
        self.epochs = epochs
        self.words = ""
        self.bar = tqdm(
            total=None if steps is None else epochs * steps, initial=done, unit=" batches",
            disable=None if progress is None else not progress, dynamic_ncols=True,
        )  # fmt: skip

    def batch(self, epoch: int, loss: float, count: int) -> None:
        """So many batches are done."""
        self.bar.set_postfix_str(f"epoch {epoch} of {self.epochs}, loss {loss:.4g}{self.words}", refresh=False)
        self.bar.update(count)

    def epoch(self, row: Mapping[str, float]) -> None:
        """An epoch is done."""
        names = ("validation_loss", "validation_accuracy")
        self.words = "".join(f", {name.replace('_', ' ')} {row[name]:.4g}" for name in names if name in row)
        if self.writer is not None:
            for name, value in row.items():
                self.writer.add_scalar(name, value, int(row["epoch"]))
            self.writer.flush()

    def __enter__(self) -> "Showing":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
        if self.writer is not None:
            self.writer.close()
