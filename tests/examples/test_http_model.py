"""The classifier behind HTTP: what it answers, that lost requests are asked again, and that its adapter learns."""

import importlib.util
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType

import pytest
import torch

import zograd as zo

FOLDER = Path(__file__).parent.parent.parent / "examples" / "http_model"


@pytest.fixture(scope="module")
def example() -> tuple[ModuleType, ModuleType]:
    """The modules ``service`` and ``run`` of the example; every example has a ``run``."""
    sys.path.insert(0, str(FOLDER))
    try:
        import service

        spec = importlib.util.spec_from_file_location("http_model_run", FOLDER / "run.py")
        assert spec is not None
        assert spec.loader is not None
        run = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(run)
    finally:
        sys.path.remove(str(FOLDER))
    return service, run


def test_answers_and_refusals(example: tuple[ModuleType, ModuleType]) -> None:
    service, run = example
    x, y, _, _ = service.shares()["service"]
    images = torch.from_numpy(x[:50]).float()
    with service.running(trees=10, busy=3) as there:
        client = run.Client(there.address)
        told = client(images)
        assert told.shape == (50, 10)
        assert torch.allclose(told.sum(1), torch.ones(50), atol=1e-3)
        assert float((told.argmax(1) == torch.from_numpy(y[:50])).float().mean()) > 0.9
        for body in (b"", b"[1]", b"{}", json.dumps({"rows": [[1.0]]}).encode(), b'{"rows": [[NaN]]}'):
            with pytest.raises(urllib.error.HTTPError, match=r"400|503") as refused:
                urllib.request.urlopen(urllib.request.Request(there.address, body), timeout=10)
            refused.value.close()
        assert there.refused == 2


def test_what_is_lost_is_asked_again(example: tuple[ModuleType, ModuleType]) -> None:
    service, run = example
    x, _, _, _ = service.shares()["camera"]
    images = torch.from_numpy(x[:4]).float()
    with service.running(trees=10, busy=3, slow=1, seconds=1.5) as there:
        client = run.Client(there.address, timeout=0.5)
        model = run.network(client)
        told = model(images)  # the first request times out
        assert client.requests == 2
        told[:, 0].sum().backward()  # the third is refused
        assert client.requests == 4
        assert there.refused == 1
        assert client.rows == 4 + 4 + 2 * 4 * 2 * run.PAIRS
        assert bool(model[0][1].weight.grad.isfinite().all())
    with pytest.raises(zo.EvaluationError, match="refused"):
        run.network(run.Client(there.address, timeout=0.2))(images)  # nobody is there any more


def test_the_adapter_learns(example: tuple[ModuleType, ModuleType]) -> None:
    service, run = example
    _, _, x, y = service.shares()["camera"]
    seen, classes = run.camera(torch.from_numpy(x).float()), torch.from_numpy(y).long()
    with service.running(trees=15, busy=10) as there:
        client = run.Client(there.address)
        for step, model, _ in run.trained(client, 30):
            if step == 1:
                before = run.accuracy(model, seen, classes)
        assert run.accuracy(model, seen, classes) > before + 0.15
        assert client.requests == there.requests > 60
        assert there.refused > 3
