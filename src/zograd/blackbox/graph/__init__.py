"""A forward pass as a list of operations: recorded once, run again in part."""

from zograd.blackbox.graph._narrow import Narrow
from zograd.blackbox.graph._recorder import Recorder, UntraceableError, record, recorder
from zograd.blackbox.graph._replay import Replay, stacked
from zograd.blackbox.graph._tape import Node, Ref, Tape, fill
from zograd.blackbox.graph._work import Work, flops

__all__ = [
    "Narrow",
    "Node",
    "Recorder",
    "Ref",
    "Replay",
    "Tape",
    "UntraceableError",
    "Work",
    "fill",
    "flops",
    "record",
    "recorder",
    "stacked",
]
