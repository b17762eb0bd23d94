"""The exception tree.

::

    ZogradError
    ├── ArgumentError(ValueError)          a wrong argument: what must hold, what was found, what to do
    ├── EvaluationError(RuntimeError)      evaluations were lost and the policy says to stop
    ├── GradientError(RuntimeError)        a derivative was asked that does not exist (double backward, no probe left)
    ├── RunError(RuntimeError)             a run's file does not match, is locked, or is damaged
    └── MissingExtraError(ImportError)     an optional package is not installed

    ZogradWarning(UserWarning)             allowed, and probably not what you want

Every error carries its data as attributes, and its message says what must hold, what was found, and what to do.
"""

from typing import Any, Literal


class ZogradError(Exception):
    """The root of every error that zograd raises on purpose."""


class ArgumentError(ZogradError, ValueError):
    """A wrong argument.

    Attributes:
        argument: The argument's name.
        found: What was passed.
    """

    def __init__(self, message: str, *, argument: str = "", found: Any = None) -> None:
        super().__init__(message)
        self.argument = argument
        self.found = found


class EvaluationError(ZogradError, RuntimeError):
    """Evaluations of the black box were lost and the failure policy says to stop.

    Attributes:
        result: The best so far, where the error ends an optimisation (else ``None``); nothing paid for is lost.
        status: How the evaluation ended: ``"failed"``, ``"timeout"``, ``"crashed"`` or ``"invalid"``.
        call: The number of the wave that it belonged to.
        row: Its row in that wave.
    """

    def __init__(
        self,
        message: str,
        *,
        status: Literal["failed", "timeout", "crashed", "invalid"] = "failed",
        call: int = 0,
        row: int = 0,
        result: Any = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.call = call
        self.row = row
        self.result = result


class GradientError(ZogradError, RuntimeError):
    """A derivative was asked for that does not exist, such as the gradient of an estimated gradient."""


class RunError(ZogradError, RuntimeError):
    """A run's file does not match its configuration, is locked by another writer, cannot be written, or is damaged.

    Attributes:
        path: The file or directory (``None`` where there is none).
        differences: What differs from the recorded configuration, one line each.
        result: The best so far, where the error ends an optimisation (else ``None``); nothing paid for is lost.
    """

    def __init__(
        self, message: str, *, path: Any = None, differences: tuple[str, ...] = (), result: Any = None
    ) -> None:
        super().__init__(message)
        self.path = path
        self.differences = differences
        self.result = result


class MissingExtraError(ZogradError, ImportError):
    """An optional package is not installed.

    Attributes:
        extra: The extra that brings it, as in ``pip install "zograd[extra]"``.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}, which is not installed; "
            f'install it with: pip install "zograd[{extra}]"'
        )
        self.package = package
        self.extra = extra


class ZogradWarning(UserWarning):
    """What is allowed and probably not what you want: said once a run, with what to do about it."""
