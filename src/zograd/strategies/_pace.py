"""How far: the step over which slopes are measured, and the damping of the steps taken."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from zograd.strategies._start import NARROW, WIDE
from zograd.strategies._trials import FACTORS

NARROWEST, LEAST_WIDE = 1e-6, 0.02
AGAIN = 0.06
"""The step after the least wide one, where even that gains nothing."""


@final
@dataclass(slots=True)
class Pace:
    """The reach of measurements and the damping of steps, by what was gained with them.

    Args:
        smooth: Whether slopes are those of near points.
        noisy: Whether the program is noisy.
        reach: The step of a measurement, in units of the parameters.
        damping: That of the best step.
        raised: By how much the damping is raised when a lone step was refused.
    """

    smooth: bool = False
    noisy: bool = False
    reach: float = WIDE
    damping: float = 1e-2
    raised: float = 2.0

    @property
    def kind(self) -> str:
        """What kind of program it is, in words."""
        return "noisy" if self.noisy else "smooth" if self.smooth else "with jumps"

    @property
    def jumps(self) -> bool:
        """Whether the program is neither smooth nor noisy."""
        return not (self.smooth or self.noisy)

    def begin(self, smooth: bool, noisy: bool) -> None:
        """Choose both for this kind of program."""
        self.smooth, self.noisy = smooth, noisy
        self.reach = NARROW if smooth else WIDE
        self.damping = 1e-3 if smooth else 1.0

    def tried(self, row: int, rows: int, gain: float, ratio: float) -> None:
        """Learn from a wave of steps: number ``row`` of ``rows`` was best.

        Args:
            row: The best.
            rows: How many there were.
            gain: The logarithm of the decrease, 0 where there is none.
            ratio: The decrease over that of the model.
        """
        if rows == 1:
            if gain > 0:
                self.damping *= max(0.1, 1 - (2 * ratio - 1) ** 3) if ratio < 1.5 else 0.3
                self.raised = 2.0
            else:
                self.damping *= self.raised
                self.raised *= 2.0
            self.damping = min(1e6, max(1e-12, self.damping))
        elif gain > 0 and row < len(FACTORS):
            self.damping *= FACTORS[row]
            self.damping = min(10.0, max(1e-9 if self.smooth else 0.1, self.damping))
        elif gain == 0:
            self.damping = min(1e3, self.damping * 30.0)

    def moved(self, length: float) -> None:
        """The centre has moved so far: near the goal slopes are measured closer by."""
        if self.smooth:
            self.reach = min(self.reach, max(NARROWEST, 0.1 * length))

    def renewed(self, gain: float, share: float, part: Callable[[], bool]) -> None:
        """Choose for the next measurement by what this one has gained.

        Args:
            gain: The logarithm of the decrease.
            share: That of the budget which it took.
            part: Ends the sharing of probes; whether there was any.
        """
        if self.smooth:
            if gain == 0.0:
                self.reach = self.reach * 10 if self.reach < WIDE else NARROWEST
        elif self.noisy:
            pass  # the widest step is the clearest of noise
        elif gain < share and part():
            pass  # first see whether it was the sharing of probes that was at fault
        elif gain < share:
            self.reach = 0.7 * self.reach if self.reach > LEAST_WIDE else (LEAST_WIDE if gain > 0 else AGAIN)
        if not self.smooth:
            self.damping = 1.0
        elif gain == 0.0:
            self.damping = 1e-3
