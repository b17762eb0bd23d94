"""kill -9 at random moments, the file whole and damaged; `benchmarks/kill9.py` does the same fifty times."""

import importlib.util
import os
import random
from pathlib import Path

import pytest

import zograd._run_file

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill9.py"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


@pytest.fixture(scope="module")
def kill9():
    specification = importlib.util.spec_from_file_location("kill9", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.EVALUATIONS = 90
    return module


@pytest.fixture(scope="module")
def uninterrupted(kill9, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill") / "uninterrupted"
    return kill9.told(kill9.minimised(folder)), kill9.recorded(folder)


@pytest.mark.parametrize("damage", ["none", "torn page", "half a page", "no WAL", "truncated"])
def test_a_killed_run_goes_on_as_if_nothing_had_been(kill9, uninterrupted, damage, tmp_path, monkeypatch):
    monkeypatch.setattr(zograd._run_file, "SNAPSHOT_SECONDS", 0.05)
    chance = random.Random(damage)
    done, again = kill9.trial(tmp_path / "run", chance, kills=2, longest=0.6, damage=(damage,))
    assert len(done) >= 1
    assert again == 0
    assert (kill9.told(kill9.minimised(tmp_path / "run")), kill9.recorded(tmp_path / "run")) == uninterrupted
