"""A contest: several ways to descend, measured at equal evaluations; the fastest goes on, for as long as it is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch

from zograd._checks import count, require
from zograd._parameters import Parameters
from zograd._probes import Dense, Probes
from zograd._typing import Values
from zograd.optim import StepRule
from zograd.optim._falling import falling
from zograd.strategies._descent import Descent
from zograd.strategies._strategy import Step, Strategy

RECENT = 4
"""Heats over which the decrease of the leader is averaged."""
SLOWER = 0.5
"""The others are tried again once the leader falls below this share of its best decrease."""
STALLED = 0.1
"""Below this share, a smaller learning rate is tried too."""
CUT = 1 / 3
"""The next smaller learning rate."""
SWEEP = 1.5
"""What a decrease in blocks counts where there is a sweep left: it goes on to the end of the sweep, others fade."""
HOPE = 0.05
"""A leader that would add less than this share of what was gained, in all that is left, has come to its end."""
CONTENT = 0.01
"""A first sweep satisfies if, at its pace to the end of the budget, this share of the loss would be left, or less."""

Turn = tuple[int, float]
"""Whose heat it is, and at which learning rate; 0 where there is none."""


@final
@dataclass(frozen=True)
class Contestant:
    """One way to descend.

    Args:
        name: What it is called in words.
        make: Makes its `Descent`, whose centre the contest moves.
        rate: Its learning rate at first; 0 where its rule has none, and then it is taken to look at one block of
            parameters after another.
    """

    name: str
    make: Callable[[], Descent]
    rate: float = 0.0


@final
class Contest(Strategy):
    r"""Let ways to descend compete, at first from the same start, later in turns; the fastest goes on.

    The run is cut into heats, each of one contestant, and each ends with one evaluation of its centre. What counts is
    the decrease an evaluation,

    .. math:: r = \frac{f(\text{centre before}) - f(\text{centre after})}{\text{evaluations}}

    Each contestant has its first heat from the start, and the best leads from where it is. When the mean of its last 4
    heats falls below half of its best, each of the others has a heat from the best centre so far, and the fastest
    leads. When it falls below a tenth, the leader is tried with a third of its learning rate too. A contestant without
    a learning rate looks at block after block: while a sweep of all is left, its decrease counts one and a half times,
    for it does not fade. A leader that stays is left alone twice as long the next time. All learning rates fall to zero
    with the budget, and begin again at a quarter where it is raised.

    Where the leader would add less than 5 % of what it gained, even at its present pace to the end, it has come to its
    end: then, once, the contestant without a learning rate begins anew at the start, which is a better place for it
    than where random directions have led; the best point seen is kept.

    Where there is time for ``sweeping``, the contestant without a learning rate begins with a sweep of all parameters,
    which takes the loss from :math:`f_0` to :math:`f_1`. If the same share a sweep would leave a hundredth of it or
    less at the end of the budget,

    .. math:: \left(\frac{f_1}{f_0}\right)^{\text{budget} / 2 d} \le 0.01

    it leads. If not, each of the others has as many evaluations, from the start too, and the fastest leads. Short heats
    would be unjust: random directions are fast at first, and blocks have moved everything only after a sweep.

    Cost: one evaluation a heat, and the heats of those who lose. For programs without noise: under noise, one value of
    a centre is luck.

    Args:
        parameters: What the points mean.
        contestants: The ways to descend.
        heat: Evaluations of a heat, at least; it ends with the step that reaches them.
        budget: Evaluations of the run.
        report: Told in words who leads whenever that changes.
        sweeping: Whether the contestant without a learning rate begins, with a sweep.
    """

    def __init__(
        self,
        parameters: Parameters,
        contestants: Sequence[Contestant],
        heat: int,
        budget: int,
        report: Callable[[str], None] | None = None,
        sweeping: bool = False,
    ) -> None:
        require(len(contestants) > 0, "contestants", "be one at least", contestants)
        self.parameters, self.contestants, self.report = parameters, tuple(contestants), report
        self.heat = count("heat", heat, hint="It is the evaluations that one contestant has in turn.")
        self.budget = count("budget", budget, hint="It is the evaluations of the run.")
        self.best_value = math.inf
        self.best_point = parameters.clip(parameters.initial.clone())
        self.number = self.evaluations = 0
        self._descents = [contestant.make() for contestant in self.contestants]
        self._finest = next((row for row, contestant in enumerate(self.contestants) if not contestant.rate), None)
        self._sweeping = sweeping and self._finest is not None
        turns: list[Turn] = [(row, contestant.rate) for row, contestant in enumerate(self.contestants)]
        if self._sweeping:
            turns.sort(key=lambda turn: turn[0] != self._finest)
        start = self.best_point.clone()
        # All that changes, apart from the descents: it is the state.
        self._now: dict[str, Any] = {
            "turn": turns[0],
            "turns": turns[1:],  # to come in this round
            "leader": turns[0],
            "round": "first",  # all start; "tried", others are tried; "led", the leader goes on
            "gains": [],  # of this round, with their turns; of the leader's last heats
            "reference": 0.0,  # the leader's best mean
            "heats": 0,
            "patience": RECENT,
            "spent": 0,
            "measuring": True,
            "before": math.inf,
            "origin": math.inf,
            "place": (start, math.inf),  # the best centre at the end of a heat: where turns begin
            "ahead": None,
            "anew": self._sweeping,  # whether the blocks have begun at the start with a sweep, or have it behind them
            "said": "",
        }

    @property
    def current(self) -> Descent:
        """The descent whose heat it is."""
        row: int = self._now["turn"][0]
        return self._descents[row]

    def ask(self) -> Probes:
        """The centre, at the end of a heat; else what the contestant asks."""
        if self._now["measuring"]:
            center = self.current.center.detach().clone()
            return Probes(center, Dense(center.new_zeros(1, len(center))))
        return self.current.ask()

    def tell(self, values: Values) -> Step:
        """Hand the values on, or end a heat."""
        s = self._now
        numbers: dict[str, float] = {"contestant": float(s["turn"][0])}
        if s["measuring"]:
            require(values.shape == (1,), "values", "have shape (1,), one value a probe asked for", values)
            self.notice(values)
            level = float(values[0])
            value = level if math.isfinite(level) else None
            lost = int(value is None)
            self.evaluations += 1
            self._judge(math.inf if value is None else level)
        else:
            step = self.current.tell(values)
            self._take_best()
            value, lost, numbers = step.value, step.lost, {**step.diagnostics, **numbers}
            s["spent"] += len(values)
            self.evaluations += len(values)
            rule = self.current.optimizer
            s["measuring"] = s["spent"] >= self._length and not (isinstance(rule, StepRule) and rule.trying)
        self.number += 1
        return Step(self.number, self.evaluations, value, self.best_value, self.best_point, lost, numbers)

    def notice(self, values: Values) -> None:
        """Remember the best."""
        if self._now["measuring"]:
            super().notice(values)
        else:
            self.current.notice(values)
            self._take_best()

    def state_dict(self) -> dict[str, Any]:
        """Who leads, what the heats have shown, and the state of every contestant."""
        return {
            **{name: _copied(value) for name, value in self._now.items()},
            "descents": [descent.state_dict() for descent in self._descents],
            "best_value": self.best_value,
            "best_point": self.best_point.clone(),
            "number": self.number,
            "evaluations": self.evaluations,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._now = {name: _copied(state[name]) for name in self._now}
        for descent, kept in zip(self._descents, state["descents"], strict=True):
            descent.load_state_dict(kept)
        self.best_value, self.best_point = state["best_value"], state["best_point"].clone()
        self.number, self.evaluations = state["number"], state["evaluations"]
        if self.report is not None and self._now["said"]:
            self.report(self._now["said"])

    @property
    def _length(self) -> int:
        """A heat; where one begins at the start and looks at block after block, twice the parameters: it sees all."""
        s = self._now
        sweeps = s["anew"] and s["round"] == "led" and s["turn"][0] == self._finest
        sweeps = sweeps or (self._sweeping and s["round"] == "first")
        return max(self.heat, 2 * self.parameters.dimension) if sweeps else self.heat

    def _take_best(self) -> None:
        if self.current.best_value < self.best_value:
            self.best_value, self.best_point = self.current.best_value, self.current.best_point.clone()

    def _judge(self, level: float) -> None:
        """The end of a heat: what it was worth, and whose turn is next."""
        s = self._now
        s["measuring"] = False
        if s["spent"] == 0:  # the start
            s["origin"], s["place"] = level, (s["place"][0], level)
            self._begin(s["turn"])
            return
        gain = (s["before"] - level) / s["spent"] if math.isfinite(level) else -math.inf
        s["gains"].append((gain, s["turn"]))
        if level < (s["place"] if s["ahead"] is None else s["ahead"])[1]:
            s["ahead"] = (self.current.center.detach().clone(), level)
        if self._sweeping and s["round"] == "first" and s["turn"][0] == self._finest and self._content(level):
            s["turns"] = []
        if s["ahead"] is not None and not (s["round"] == "first" and s["turns"]):
            s["place"], s["ahead"] = s["ahead"], None
        if s["turns"]:
            self._begin(s["turns"].pop(0))
        elif s["round"] != "led":
            self._choose()
        elif not self._challenged():
            s["before"], s["spent"] = level, 0
            self._set_rate()

    def _content(self, level: float) -> bool:
        """Whether the share of the loss that the first sweep took is enough, sweep after sweep to the end."""
        share = CONTENT ** (2 * self.parameters.dimension / self.budget)
        return bool(self._now["origin"] > 0 and level <= share * self._now["origin"])

    def _challenged(self) -> bool:
        """Whether the leader has become so slow that the others are tried; if so, the first of them begins."""
        s = self._now
        s["gains"], s["heats"] = s["gains"][-RECENT:], s["heats"] + 1
        if s["heats"] < RECENT:
            return False
        mean = sum(gain for gain, _ in s["gains"]) / len(s["gains"])
        s["reference"] = max(s["reference"], mean)
        if mean > (SLOWER if s["heats"] >= s["patience"] else 0.0) * s["reference"]:
            return False
        row, rate = s["leader"]
        turns = [(other, one.rate) for other, one in enumerate(self.contestants) if other != row]
        if rate and mean <= STALLED * s["reference"]:
            turns.insert(0, (row, CUT * rate))
        if turns:
            s["turns"], s["round"], s["gains"] = turns[1:], "tried", [(mean, s["leader"])]
            self._begin(turns[0])
        return bool(turns)

    def _choose(self) -> None:
        """The fastest of the round leads."""
        s = self._now
        left = self.budget - self.evaluations
        swept = self._sweeping and s["round"] == "first"
        bonus = SWEEP if left >= 2 * self.parameters.dimension and not swept else 1.0
        gain, turn = max(s["gains"], key=lambda found: found[0] * (bonus if found[1][0] == self._finest else 1.0))
        ended = s["round"] == "tried" and gain * left < HOPE * (s["origin"] - s["place"][1])
        if ended and not s["anew"] and self._finest not in (None, s["leader"][0]) and left > len(s["place"][0]):
            s["anew"], turn, gain = True, (self._finest, 0.0), 0.0
            s["place"] = (self.parameters.clip(self.parameters.initial.clone()), s["origin"])
        s["patience"] = 2 * s["patience"] if s["round"] == "tried" and turn[0] == s["leader"][0] else RECENT
        if s["round"] == "first" or turn[0] != s["leader"][0]:
            s["said"] += (", " if s["said"] else "") + f"{self.contestants[turn[0]].name} from {self.evaluations} on"
            if self.report is not None:
                self.report(s["said"])
        s.update(leader=turn, round="led", gains=[], heats=0, reference=max(gain, 0.0))
        self._begin(turn)

    def _begin(self, turn: Turn) -> None:
        """The next heat, from the best centre at the end of one; while all start, from the start."""
        s = self._now
        s.update(turn=turn, spent=0, before=s["place"][1])
        with torch.no_grad():
            self.current.center.copy_(s["place"][0])
        self._set_rate()

    def _set_rate(self) -> None:
        rate = self._now["turn"][1]
        if rate:
            for group in self.current.optimizer.param_groups:
                group["lr"] = rate * falling(self.evaluations, self.budget)


def _copied(value: Any) -> Any:
    """Tensors and containers of them, copied."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, list | tuple):
        return type(value)(_copied(one) for one in value)
    return value
