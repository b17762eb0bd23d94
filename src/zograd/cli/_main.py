"""The entry point: it finds the extras missing, words every error in one line, and sets the exit code."""

import sys
from collections.abc import Sequence

from zograd._errors import ArgumentError, MissingExtraError, ZogradError
from zograd.cli._codes import INTERRUPTED


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and exit.

    The exit code is 0 when all went well, 1 when something failed, 2 for a wrong argument, 130 after Ctrl-C.

    Args:
        arguments: The words after ``zograd``; those of the process by default.
    """
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    try:
        import click
        import rich  # noqa: F401
    except ModuleNotFoundError as error:
        return _failed(str(MissingExtraError(str(error.name), "cli")), 1)
    from zograd.cli.app import app

    try:
        code = app.main(list(arguments), prog_name="zograd", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _failed("interrupted", INTERRUPTED)
    except ArgumentError as error:
        return _failed(str(error).replace(f"`{error.argument}`", f"--{error.argument}", 1), 2)
    except (ZogradError, OSError) as error:
        return _failed(str(error), 1)
    return code if isinstance(code, int) else 0


def _failed(message: str, code: int) -> int:
    print(f"zograd: {message}", file=sys.stderr)
    return code
