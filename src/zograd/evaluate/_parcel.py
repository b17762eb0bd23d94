"""A black box as it travels to workers."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any

from zograd.blackbox import BlackBox


class Parcel(ABC):
    """A black box as it travels.

    Attributes:
        blackbox: The black box.
        key: What it is known by.
        before: What its version before is known by, where it has one.
        versioned: Whether workers keep it from one version to the next.
    """

    blackbox: BlackBox
    key: str
    before: str = ""
    versioned: bool = False

    @abstractmethod
    def message(self, known: Collection[str]) -> bytes:
        """What tells a worker of it that knows what has these keys."""

    def points(self, points: Any) -> Any:
        """Points or `Probes` as they travel."""
        return points
