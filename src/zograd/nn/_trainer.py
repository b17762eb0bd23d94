"""A training loop for gradients from function values: plain PyTorch around it, and nothing lost when it ends early."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from zograd._checks import count, instance, one_of, positive, require
from zograd._errors import RunError
from zograd.evaluate import Evaluator
from zograd.nn import _batches as data_
from zograd.nn import _checkpoint as checkpoint
from zograd.nn._batches import Data
from zograd.nn._masks import Active, Masks
from zograd.nn._showing import Showing
from zograd.nn._stepping import Loss, Stepping, Way

LAST, BEST = "last.pt", "best.pt"


@final
@dataclass(eq=False)
class Training:
    """How a training went.

    Args:
        epochs: For each epoch ``epoch``, ``loss`` (mean over the batches, each before its step), ``rate`` (the
            learning rate), ``seconds``; with validation ``validation_loss``, and ``validation_accuracy`` for classes.
        stopped: ``"epochs"``: all were done; ``"patience"``: no better for long; ``"interrupted"``.
        best: The epoch with the lowest validation loss (training loss without validation), from 1; 0 before the first.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    stopped: Literal["epochs", "patience", "interrupted"] = "interrupted"
    best: int = 0


@final
class Trainer:
    r"""Trains a network from function values, with PyTorch's own optimisers, schedulers and data loaders.

    .. math:: w \leftarrow \mathrm{optimizer}\Big(w,\ \frac{1}{k}\sum_{b=1}^{k} \hat\nabla \ell_b(w)\,[\text{active}]
       \Big) \qquad \text{for } k = \texttt{accumulate} \text{ batches}

    **Cost** of a step: that of ``gradient`` for each batch; by default `zograd.nn.backward`, the time of a few forward
    passes. **Bias, variance**: those of the gradient and the masks. **When**: a network holds a part without a
    derivative; for a network that can be differentiated, ``gradient="autograd"`` trains the same way for less.

    With a ``folder`` nothing is lost: the whole state (parameters, optimiser, scheduler, masks, random numbers, the
    place in the epoch) is written after each epoch, every few minutes, and when Ctrl-C or SIGTERM comes. The same
    script, started again, goes on there, and ends with the same bits as if it had never stopped; a loader's own random
    numbers must come from torch, NumPy's or Python's global state, or its ``generator``.

    Args:
        model: Any module; its parameters that require a gradient are trained.
        loss_fn: From outputs and targets to one number, such as ``torch.nn.functional.cross_entropy``.
        optimizer: Any torch optimiser over the model's parameters, or `SeededDescent`, which needs no gradient.
        gradient: ``"auto"``, ``"contraction"``, ``"reuse"``, ``"plain"``: the methods of `zograd.nn.backward`; an
            estimator such as ``zo.RandomGradient(32)`` for `zograd.backward`; ``"autograd"`` for comparison.
        evaluator: Who runs the probes of an estimator, ``"reuse"`` or ``"plain"``, as for `zograd.backward`. A training
            that is resumed may have another, and ends with the same bits.
        masks: Only so many coordinates are differentiated at a time: `RandomMasks`, `ImportanceMasks`. Parameters and
            the optimiser's state (momentum) are touched where they are active, and nowhere else.
        scheduler: A learning-rate scheduler of the optimiser.
        schedule: Whether the scheduler's step is an ``"epoch"`` or a ``"step"``. ``ReduceLROnPlateau`` is given the
            validation loss.
        accumulate: Batches whose mean gradient makes one step.
        folder: Where the state is kept. ``None`` keeps it in memory only.
        tensorboard: Write every epoch's numbers for TensorBoard, below the folder. Needs ``zograd[tensorboard]``.
        progress: ``True`` shows a line with the time left, ``False`` none; by default on a terminal only.
        seed: Of the order of the data, the masks and the directions. Set ``torch.manual_seed`` for the model itself.

    Raises:
        ArgumentError: When an argument is not of its kind.

    Example:
        >>> import torch, zograd as zo
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(256, 2); y = (x[:, 0] * x[:, 1] > 0).long()
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
        >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        >>> trainer = zo.nn.Trainer(model, torch.nn.functional.cross_entropy, optimizer)
        >>> training = trainer.fit((x, y), validation=0.2, epochs=10)
        >>> training.stopped, training.epochs[-1]["validation_accuracy"] > 0.8
        ('epochs', True)
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Loss,
        optimizer: torch.optim.Optimizer,
        *,
        gradient: Way = "auto",
        evaluator: Evaluator | None = None,
        masks: Masks | None = None,
        scheduler: Any = None,
        schedule: Literal["epoch", "step"] = "epoch",
        accumulate: int = 1,
        folder: str | Path | None = None,
        tensorboard: bool = False,
        progress: bool | None = None,
        seed: int = 0,
    ) -> None:
        instance("model", model, nn.Module, "an nn.Module")
        require(callable(loss_fn), "loss_fn", "be callable", loss_fn, "It takes outputs and targets.")
        instance("optimizer", optimizer, torch.optim.Optimizer, "a torch optimiser", "Make it before.")
        require(masks is None or isinstance(masks, Masks), "masks", "be Masks", masks, "Try zo.nn.RandomMasks.")
        require(scheduler is None or hasattr(scheduler, "step"), "scheduler", "be a scheduler", scheduler)
        require(not tensorboard or folder is not None, "folder", "be given for TensorBoard", folder)
        self.model = model
        self.scheduler, self.schedule = scheduler, one_of("schedule", schedule, ("epoch", "step"))
        self.accumulate = count("accumulate", accumulate)
        self.folder = None if folder is None else Path(folder)
        self.tensorboard, self.progress = tensorboard, progress
        self.seed = instance("seed", seed, int, "a whole number")
        self._order, drawing = (torch.Generator().manual_seed(seed + at) for at in (0, 2**31))
        self._stepping = Stepping(model, loss_fn, optimizer, gradient, masks, drawing, evaluator)
        self._running = [0.0, 0.0, 0.0]  # the losses of this epoch, added up; samples; seconds
        self._batch = 0  # those done of this epoch
        self._start: dict[str, Any] | None = None  # the random numbers that this epoch began with
        self._best: dict[str, Tensor] | None = None
        self._generators: list[torch.Generator] = []
        self._settings: dict[str, Any] = {}
        self.training = Training()

    def fit(
        self,
        train: Data,
        validation: Data | float | None = None,
        *,
        epochs: int,
        batch: int = 64,
        patience: int | None = None,
        save_every: float = 120.0,
    ) -> Training:
        """Train until so many epochs are done; where some were done before, in this process or another, go on.

        Args:
            train: ``(inputs, targets)`` as tensors, shuffled every epoch, or a DataLoader of such pairs.
            validation: Data that are not trained with, to stop by: tensors, a loader, or the share of ``train`` that
                is held out. Never the test set: what is chosen by it is no test any more.
            epochs: How often to go through the data, those done before included.
            batch: Samples in a batch, where tensors are given.
            patience: Stop after so many epochs in which the validation loss was not better. Never by default.
            save_every: Seconds between checkpoints within an epoch.

        Returns:
            How it went. The model is as after the last step; `load_best` takes the best instead.

        Raises:
            ArgumentError: When an argument is not of its kind.
            EvaluationError: When the loss is not finite; the folder holds the state of the checkpoint before.
            RunError: When the checkpoint there is of other settings, damaged, or cannot be written.
        """
        data_.check_data("train", train)
        if isinstance(validation, float):
            train, validation = data_.split_off(train, validation, torch.Generator().manual_seed(self.seed))
        elif validation is not None:
            data_.check_data("validation", validation)
        count("epochs", epochs)
        count("batch", batch)
        positive("save_every", save_every, "Seconds.")
        hint = "There is nothing to judge by without validation."
        require(patience is None or validation is not None, "patience", "be None", patience, hint)
        limit = math.inf if patience is None else count("patience", patience)
        self._generators = [self._order, self._stepping.generator, *data_.generators(train)]
        steps = data_.length(train, batch)
        self._settings = {"batch": batch, "accumulate": self.accumulate, "seed": self.seed, "batches": steps}
        self._resume()
        training = self.training
        done = len(training.epochs) * (steps or 0) + self._batch
        board = self.folder / "tensorboard" if self.folder is not None and self.tensorboard else None
        watching = checkpoint.Interruption()
        first = len(training.epochs) + 1
        with Showing(epochs, steps, done, self.progress, board, first) as showing, watching.watched():
            while len(training.epochs) < epochs and len(training.epochs) - training.best < limit:
                if self._start is None:
                    self._stepping.draw("epoch")
                    self._start = checkpoint.capture(self._generators)
                if not self._epoch(data_.batches(train, batch, self._order), save_every, watching, showing):
                    training.stopped = "interrupted"
                    self._save()
                    return training
                self._finish(validation, batch)
                showing.epoch(training.epochs[-1])
                self._save()
        # A signal after the last step has nothing left to stop here; the caller may have.
        ended: Literal["epochs", "patience"] = "epochs" if len(training.epochs) >= epochs else "patience"
        training.stopped = "interrupted" if watching.came else ended
        return training

    def evaluate(self, data: Data, batch: int = 256) -> dict[str, float]:
        """The mean loss, and the share of right answers for classes, in ``eval()`` mode and without any gradient.

        Args:
            data: Tensors or a loader, as for `fit`.
            batch: Samples in a batch, where tensors are given.
        """
        data_.check_data("data", data)
        return self._stepping.judge(data_.batches(data, batch, None))

    def load_best(self) -> None:
        """Give the model the parameters and buffers of the best epoch.

        Raises:
            RunError: When no epoch is done, or the file is damaged.
        """
        if self._best is None:
            if self.folder is None or not (self.folder / BEST).exists():
                raise RunError("there is no best epoch yet: call fit first.", path=self.folder)
            self._best = checkpoint.read(self.folder / BEST)
        self.model.load_state_dict(self._best)

    def _epoch(
        self,
        going: Iterator[tuple[Any, Any]],
        save_every: float,
        watching: checkpoint.Interruption,
        showing: Showing,
    ) -> bool:
        """Go through the data, from where it was left; False when interrupted."""
        if self._batch and self._start is not None:  # the same order again; then the random numbers of where it was
            now = checkpoint.capture(self._generators)
            checkpoint.restore(self._start, self._generators)
            for _ in range(self._batch):
                next(going, None)
            checkpoint.restore(now, self._generators)
        began = saved = time.monotonic()
        group: list[tuple[Any, Any]] = []
        last = False
        while not last:
            pair = next(going, None)
            last = pair is None
            if pair is not None:
                group.append(pair)
            if not group or (len(group) < self.accumulate and not last):
                continue
            loss = self._stepping.step(group)
            if self.scheduler is not None and self.schedule == "step":
                self.scheduler.step()
            size = sum(data_.samples(targets) for _, targets in group)
            self._batch += len(group)
            self._running[0] += loss * size
            self._running[1] += size
            showing.batch(len(self.training.epochs) + 1, self._running[0] / self._running[1], len(group))
            group = []
            clock = time.monotonic()
            self._running[2] += clock - began
            began = clock
            if watching.came:
                return False
            if clock - saved > save_every:
                self._save()
                saved = clock
        return True

    def _finish(self, validation: Data | float | None, batch: int) -> None:
        """An epoch's row, the scheduler's step, the best."""
        training, (total, size, seconds) = self.training, self._running
        row = {"epoch": len(training.epochs) + 1.0, "loss": total / max(size, 1.0), "seconds": seconds}
        row["rate"] = float(self._stepping.optimizer.param_groups[0]["lr"])
        if validation is not None and not isinstance(validation, float):
            row |= {f"validation_{name}": value for name, value in self.evaluate(validation, batch).items()}
        judged = "validation_loss" if validation is not None else "loss"
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(row[judged])
        elif self.scheduler is not None and self.schedule == "epoch":
            self.scheduler.step()
        before = training.epochs[training.best - 1].get(judged, math.inf) if training.best else math.inf
        training.epochs.append(row)
        if row[judged] < before:
            training.best = len(training.epochs)
            self._best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
            if self.folder is not None:
                checkpoint.write(self.folder / BEST, self._best)
        self._running, self._batch, self._start = [0.0, 0.0, 0.0], 0, None

    def _save(self) -> None:
        """Write everything that the next step depends on."""
        if self.folder is None:
            return
        stepping, active = self._stepping, self._stepping.active
        state = {
            "settings": self._settings,
            "model": self.model.state_dict(),
            "optimizer": stepping.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "masks": None if stepping.masks is None else stepping.masks.state_dict(),
            "active": None if active is None else (active.index, active.weights),
            "training": [self.training.epochs, self.training.best],
            "epoch": [self._batch, self._running],
            "start": self._start,
            "now": checkpoint.capture(self._generators),
        }
        checkpoint.write(self.folder / LAST, state)

    def _resume(self) -> None:
        """Take everything from the folder, where there is something."""
        if self.folder is None or not (self.folder / LAST).exists():
            return
        state = checkpoint.read(self.folder / LAST)
        there, here = state["settings"], self._settings
        different = tuple(
            f"{name}: {there[name]} there, {here[name]} here" for name in here if there[name] != here[name]
        )
        if different:
            raise RunError(
                f"the checkpoint in {self.folder} is of other settings ({'; '.join(different)}). Take another folder, "
                "or the same settings.",
                path=self.folder,
                differences=different,
            )
        stepping = self._stepping
        self.model.load_state_dict(state["model"])
        stepping.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
            # The steps before this one were taken in another process; torch would warn that there were none.
            stepping.optimizer._opt_called = True  # type: ignore[attr-defined]
        if stepping.masks is not None:
            stepping.masks.load_state_dict(state["masks"])
        stepping.active = None if state["active"] is None else Active(*state["active"])
        self.training.epochs, self.training.best = state["training"]
        self._batch, self._running = state["epoch"]
        self._start = state["start"]
        checkpoint.restore(state["now"], self._generators)
