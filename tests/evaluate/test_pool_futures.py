"""Executors of the caller's: what their workers have started ends with them."""

import os
import threading

import psutil
import pytest
import torch

import zograd as zo
from zograd.evaluate import Pool, evaluate, failure_policy

LONG = 20.0


def test_an_executor_can_be_shut_down_after_it_has_worked() -> None:
    loky = pytest.importorskip("loky")
    executor = loky.ProcessPoolExecutor(max_workers=1)
    wave = [zo.Probes(torch.zeros(1), zo.Dense(torch.zeros(2, 1)))]
    box = zo.pointwise(lambda x: float(os.getpid()))
    (values,) = evaluate(Pool(executor=executor), box, wave, failure_policy("raise"))
    child = psutil.Process(int(values[0]))
    ending = threading.Thread(target=executor.shutdown, daemon=True)
    ending.start()
    ending.join(LONG)
    has_ended = not ending.is_alive()
    if not has_ended:  # it waits for its child, and we would wait for it
        child.kill()
        ending.join(LONG)
    assert has_ended
    assert not child.is_running()
