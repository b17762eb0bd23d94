"""The command line: ``zograd``. Needs the ``cli`` extra, which is imported when it is called."""

from zograd.cli._main import main

__all__ = ["main"]
