"""Who evaluates, from what a user said of it."""

from concurrent.futures import Executor

from zograd.evaluate._evaluator import Evaluator
from zograd.evaluate._failures import FailurePolicy
from zograd.evaluate._inprocess import InProcess
from zograd.evaluate._pool import Pool


def evaluator_for(
    policy: FailurePolicy,
    *,
    workers: int | None = None,
    timeout: float | None = None,
    executor: Executor | None = None,
    seed: int = 0,
    common_random_numbers: bool = False,
) -> Evaluator:
    """A `Pool` where workers, a time limit or an executor are asked for, else this process.

    Args:
        policy: Says how often a lost evaluation is tried again.
        workers: How many evaluations run at a time; one where only a time limit is given.
        timeout: Seconds an evaluation.
        executor: Whose workers.
        seed: Of the rows' seeds.
        common_random_numbers: Whether the two sides of a mirrored pair have one seed between them.

    Raises:
        ArgumentError: When an argument is wrong.
    """
    if workers is None and timeout is None and executor is None:
        return InProcess(policy.retries, policy.wait, seed=seed, common_random_numbers=common_random_numbers)
    if workers is None and executor is None:
        workers = 1
    return Pool(
        workers,
        timeout=timeout,
        retries=policy.retries,
        wait=policy.wait,
        executor=executor,
        seed=seed,
        common_random_numbers=common_random_numbers,
    )
