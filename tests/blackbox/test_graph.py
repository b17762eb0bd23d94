"""The tape holds what a forward pass did, or says why it cannot."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zograd.blackbox.graph import Replay, Tape, UntraceableError, record, stacked


def again(tape: Tape, *values: torch.Tensor) -> torch.Tensor:
    """The result with the parameters at other values."""
    return Replay(tape).value(dict(zip(tape.parameters, values, strict=True)))


def in_place(p: torch.Tensor) -> torch.Tensor:
    x = p * 2
    y = x.relu_()
    y += p
    x.mul_(3)
    return (y * x).sum()


def through_a_view(p: torch.Tensor) -> torch.Tensor:
    x = p * 2
    x.view(-1).sigmoid_()
    return x.view(-1).sum()


def into_a_constant(p: torch.Tensor) -> torch.Tensor:
    x = torch.zeros_like(p)
    x.copy_(p.square())
    x.add_(1)
    return x.sum()


def reused_constant(p: torch.Tensor) -> torch.Tensor:
    c = torch.ones(3, dtype=torch.float64)
    first = p * c
    c.mul_(5)
    return (first + p * c).sum()


def filled(p: torch.Tensor) -> torch.Tensor:
    x = torch.empty_like(p).fill_(2.0) + torch.zeros_like(p)
    return (x * p + torch.full_like(p, 3.0)).sum()


def dropout(p: torch.Tensor) -> torch.Tensor:
    return F.dropout(p.expand(5, 3).exp(), 0.5).sum() + (torch.rand_like(p) * p).sum()


def chunks(p: torch.Tensor) -> torch.Tensor:
    a, b = torch.unsafe_chunk(p[None].expand(2, 3).repeat(1, 2), 2, 1)
    return (a.sigmoid_() * b.tanh_()).sum()


def detached(p: torch.Tensor) -> torch.Tensor:
    return (p.detach() * p).sum()


def turned(p: torch.Tensor) -> torch.Tensor:
    x = p.expand(2, 3) * 1
    x.transpose_(0, 1)
    return (x @ x.T).sum()


def slices(p: torch.Tensor) -> torch.Tensor:
    x = torch.zeros(2, 4, dtype=torch.float64)
    row = x[1]
    x[:, 1:] = p.square()
    x[0, ::2] += 1
    x.view(-1)[1:3].sigmoid_()
    row.mul_(p[0])
    return (x * x.T.reshape(2, 4)).sum() + row.prod() + x[1, 1]


def written_twice(p: torch.Tensor) -> torch.Tensor:
    x = p * 2
    y = x.view(3)
    y.sigmoid_()
    x += 1
    return (y * x).sum()


def by_data(p: torch.Tensor) -> torch.Tensor:
    return (p.data * p).sum()


def circular(p: torch.Tensor) -> torch.Tensor:
    return F.pad(p.square()[None], (1, 2), mode="circular").cumsum(1).sin().sum()


def flags(p: torch.Tensor) -> torch.Tensor:
    above = p > 0
    return above.double().mean() + (above.long().sum() + torch.where(above, p, 2.0 * p)).sum() + p.argmax() * p.sum()


def empty_parts(p: torch.Tensor) -> torch.Tensor:
    return torch.cat([p[:0], p]).sum() + p[:0].sum()


@pytest.mark.parametrize(
    "function",
    [
        in_place,
        into_a_constant,
        reused_constant,
        filled,
        dropout,
        chunks,
        detached,
        turned,
        empty_parts,
        slices,
        written_twice,
        by_data,
        circular,
        flags,
        through_a_view,
    ],
)
def test_a_tape_can_be_run_elsewhere(function) -> None:
    p, q = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    tape, result = record(lambda: function(p), [p])
    assert torch.equal(tape.values[tape.result], result)
    torch.testing.assert_close(again(tape, p), result, rtol=1e-15, atol=0)
    torch.manual_seed(0)
    torch.testing.assert_close(again(tape, q), function(q.clone()), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(
        Replay(tape).difference({tape.parameters[0]: q - p}), again(tape, q) - result, rtol=1e-12, atol=1e-14
    )
    assert tape.bytes() > 0


NET = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True)).double()
ESCAPES = {
    ".item()": lambda p: p.sum().item() * p,
    "an if": lambda p: p * (2 if p.sum() > 0 else 3),
    ".numpy()": lambda p: torch.from_numpy(p.numpy()) * 2,
    ".tolist()": lambda p: torch.tensor(p.tolist()).sum(),
    "random": lambda p: torch.bernoulli(p.sigmoid()).sum(),
    "parameter in place": lambda p: p.mul_(2).sum(),
    "out": lambda p: torch.add(p, 1, out=torch.empty_like(p)).sum(),
    "numbers of two kinds": lambda p: (lambda x: (x.view(torch.long).bitwise_not_(), x.sum())[1])(p * 2),
}


@pytest.mark.parametrize("name", sorted(ESCAPES))
def test_what_a_tape_cannot_hold(name) -> None:
    p = torch.rand(3, dtype=torch.float64) + 0.1
    with pytest.raises(UntraceableError):
        record(lambda: ESCAPES[name](p), [p])
    # Of what does not depend on the parameters, everything is allowed.
    other = torch.rand(3, dtype=torch.float64) + 0.1
    record(lambda: (ESCAPES[name](other), p.sum())[1], [p])


def test_only_what_depends_is_a_node() -> None:
    p = torch.ones(3, dtype=torch.float64)
    x = torch.ones(3, dtype=torch.float64)
    tape, _ = record(lambda: ((x.exp() + 1) * p).sum() + x.sum(), [p])
    assert [node.name for node in tape.nodes] == ["mul", "sum", "add"]
    assert tape.needed([tape.parameters[0]]) == tape.nodes
    assert tape.needed([]) == []
    both, _ = record(lambda: (p.sum(), p.exp())[0], [p, x])
    assert [node.name for node in both.needed(both.parameters)] == ["sum"]
    assert float(Replay(both).difference({both.parameters[1]: x})) == 0.0


def test_nothing_is_left_behind() -> None:
    fast = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(ValueError, match="broken"):
        record(lambda: (_ for _ in ()).throw(ValueError("broken")), [torch.ones(1)])
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert torch.ones(1).exp().item() > 1


def cpu_allocation_fails() -> None:
    torch.empty(2**55)


def cuda_allocation_fails() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def python_allocation_fails() -> None:
    raise MemoryError


@pytest.mark.parametrize("fail", [cpu_allocation_fails, cuda_allocation_fails, python_allocation_fails])
def test_stacks_that_are_too_large_are_halved(fail: Callable[[], None]) -> None:
    seen: list[int] = []
    rows = torch.arange(10.0)[:, None]

    def function(row: torch.Tensor) -> torch.Tensor:
        level = torch._C._functorch.maybe_get_bdim(row) if torch._C._functorch.is_batchedtensor(row) else None
        size = 1 if level is None else torch._C._functorch.get_unwrapped(row).shape[0]
        seen.append(size)
        if size > 3:
            fail()
        return row.sum()

    assert torch.equal(stacked(function, rows, 8), torch.arange(10.0))
    assert seen == [8, 4, 2, 2, 2, 2, 2]

    def never(row: torch.Tensor) -> torch.Tensor:
        fail()
        return row

    with pytest.raises((RuntimeError, MemoryError), match=r"allocate|^$"):
        stacked(never, rows, 4)


def test_what_cannot_be_stacked_runs_row_by_row() -> None:
    rows = torch.arange(10.0)[:, None]

    def alone(row: torch.Tensor) -> torch.Tensor:
        return torch.tensor(float(row))

    assert torch.equal(stacked(alone, rows, 4), torch.arange(10.0))

    def broken(row: torch.Tensor) -> torch.Tensor:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        stacked(broken, rows, 4)
