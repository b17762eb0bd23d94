"""Arguments of problems: what must hold, what was found, what to do."""

from typing import Any

import zograd as zo


def whole(argument: str, value: Any, least: int, most: int, hint: str) -> int:
    """Return ``value``, a whole number between two others.

    Raises:
        ArgumentError: When it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise zo.ArgumentError(
            f"`{argument}` must be a whole number from {least} to {most}, found {value!r}. {hint}",
            argument=argument,
            found=value,
        )
    return value
