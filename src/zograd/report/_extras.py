"""Packages of the ``report`` extra, imported when first needed."""

import importlib
from typing import Any

from zograd._errors import MissingExtraError


def module(name: str, package: str) -> Any:
    """Import ``name``, which ``package`` brings.

    Raises:
        MissingExtraError: When the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != name.split(".")[0]:
            raise
        raise MissingExtraError(package, "report") from error
