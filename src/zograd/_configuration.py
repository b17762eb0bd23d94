"""What a run is, as plain text: recorded when it begins, compared when it goes on."""

import dataclasses
import functools
import json
import math
import os
import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, TypedDict, final

import numpy as np
import optree
import torch
from torch import Tensor

from zograd._errors import RunError
from zograd._parameters import Parameters
from zograd.evaluate import Evaluator, FailurePolicy
from zograd.strategies import Strategy

SHOWN = 8
"""Tensors of up to so many entries are written out, larger ones as a digest."""
DEEPEST = 50
LISTED = 6
"""Differences that an error lists."""
FREE = ("evaluations", "policy.max_lost")
"""What may be another one when a run goes on."""


@final
class Settings(TypedDict, total=False):
    """What `Run`, `Run.create` and `Run.resume` have in common; their meanings are with `Run`."""

    evaluator: Evaluator | None
    max_time: float | None
    target: float | None
    policy: FailurePolicy | None


def configuration_of(strategy: Strategy, policy: FailurePolicy, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Everything that the decisions of a run follow from, but the values.

    Args:
        strategy: As it is before its first step.
        policy: What a lost evaluation counts as.
        given: More that must be the same, such as the settings that the strategy was made from.
    """
    parts: dict[str, Any] = {key: described(value) for key, value in (given or {}).items()}
    parts |= {
        "strategy": _name(type(strategy)),
        "parameters": _parameters(strategy.parameters),
        "policy": described(policy),
    }
    for part in ("estimator", "optimizer", "scheduler"):
        if part not in parts:
            parts[part] = described(getattr(strategy, part, None))
    # As one digest, for what a person can read is above; a configuration of one page survives more.
    start = json.dumps(described(strategy.state_dict()), sort_keys=True)
    parts["start"] = f"digest {blake2b(start.encode(), digest_size=16).hexdigest()}"
    read_back: dict[str, Any] = json.loads(json.dumps(parts))
    return read_back


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """One line for each setting that is another one, the readable ones first."""
    before, after = _flat(recorded), _flat(now)
    keys = [key for key in dict.fromkeys([*after, *before]) if key not in FREE]
    nothing = "not there"
    lines = [
        f"{key}: {before.get(key, nothing)} -> {after.get(key, nothing)}"
        for key in keys
        if before.get(key) != after.get(key)
    ]
    return tuple(sorted(lines, key=lambda line: (line.startswith("start"), "digest" in line)))


def must_be_same(directory: str | os.PathLike[str], recorded: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with a run under other settings.

    Raises:
        RunError: When one is another; it lists them.
    """
    changed = differences(recorded, now)
    if changed:
        more = f"; and {len(changed) - LISTED} more" if len(changed) > LISTED else ""
        raise RunError(
            f"the configuration of {directory} must be the recorded one, found other settings: "
            f"{'; '.join(changed[:LISTED])}{more}. Pass the recorded ones, or another run=.",
            path=directory,
            differences=changed,
        )


def described(value: Any) -> Any:
    """``value`` in JSON's types, the same in every process: what it is, never where it lies in memory."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, np.generic):
        return described(value.item())
    if isinstance(value, Tensor | np.ndarray):
        return _array(value)
    if isinstance(value, torch.Generator):
        return f"generator seeded with {value.initial_seed()}"
    if isinstance(value, torch.optim.Optimizer):
        return {"type": _name(type(value)), **described(value.defaults)}
    if isinstance(value, functools.partial):
        settings = {"args": described(value.args)} if value.args else {}
        return {"type": _name(value.func), **settings, **described(value.keywords)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: described(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": _name(type(value)), **fields}
    if isinstance(value, Mapping):
        return {str(key): described(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        entries = [described(entry) for entry in value]
        return sorted(entries, key=str) if isinstance(value, set | frozenset) else entries
    if callable(value) and hasattr(value, "__qualname__"):
        return _name(value)
    if isinstance(value, torch.optim.lr_scheduler.LRScheduler):
        return _name(type(value))
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", repr(value))


def _name(kind: Any) -> str:
    name = getattr(kind, "__qualname__", None) or re.sub(r" at 0x[0-9A-Fa-f]+", "", repr(kind))
    return f"{getattr(kind, '__module__', '')}.{name}".lstrip(".")


def _array(array: Any) -> str:
    tensor = torch.as_tensor(array).detach().cpu().contiguous()
    kind = f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
    if tensor.numel() <= SHOWN:
        return f"{kind} {tensor.tolist()}"
    return f"{kind} digest {_digest(tensor)}"


def _digest(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return blake2b(flat.numpy().data, digest_size=16).hexdigest()


def _parameters(parameters: Parameters) -> dict[str, Any]:
    """Their table, and a digest of the start, the bounds and the scale to the last bit."""
    start, lower, upper = parameters.initial, parameters.lower, parameters.upper
    # Decoded, these tell every map from vector to values: bounds, linear or logarithmic, and the length of one unit.
    points = torch.stack([start, lower.where(lower.isfinite(), start), upper.where(upper.isfinite(), start)])
    points = parameters.clip(torch.cat([points, start + 0.25 * torch.ones_like(start)[None], start[None] - 0.25]))
    leaves = optree.tree_leaves(parameters.decode_batch(points), none_is_leaf=True, namespace="zograd")
    exact = [_array(leaf) if isinstance(leaf, Tensor | np.ndarray) else repr(leaf) for leaf in leaves]
    seal = blake2b("\n".join([_digest(start), _digest(lower), _digest(upper), *exact]).encode(), digest_size=16)
    return {"table": repr(parameters).splitlines(), "digest": seal.hexdigest()}


def _flat(nested: Any, prefix: str = "", depth: int = 0) -> dict[str, str]:
    if depth > DEEPEST:  # in a file that was changed by other hands
        return {prefix: "nested too deep"}
    if isinstance(nested, Mapping):
        entries = [_flat(value, f"{prefix}.{key}" if prefix else str(key), depth + 1) for key, value in nested.items()]
    elif isinstance(nested, list) and len(nested) <= 50:
        entries = [_flat(value, f"{prefix}[{place}]", depth + 1) for place, value in enumerate(nested)]
    else:
        return {prefix: json.dumps(nested) if not isinstance(nested, list) else _long(nested)}
    return {key: value for entry in entries for key, value in entry.items()}


def _long(entries: list[Any]) -> str:
    try:
        text = json.dumps(entries)
    except RecursionError:
        text = ""
    return f"{len(entries)} entries, digest {blake2b(text.encode(), digest_size=16).hexdigest()}"
