from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import pytest

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.evaluation import workers
from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.evaluation.workers import Tick, Workers, require_devices


def two() -> int:
    return 2


def loaded() -> str:
    return "loaded"


def work(what: str, item: int) -> tuple[str, int, int]:
    if item == 3:
        raise EvaluationError(f"{what}: item {item} is bad")
    if item == 4:
        os._exit(1)
    return what, 2 * item, os.getpid()


def test_one_process_is_this_one() -> None:
    with Workers(lambda: "here") as workers:
        assert list(workers.map(work, [1, 2])) == [(0, ("here", 2, os.getpid())), (1, ("here", 4, os.getpid()))]


def test_errors_of_other_processes_arrive() -> None:
    with Workers(loaded, 2) as workers:
        found = dict(workers.map(work, [0, 1, 2]))
        assert {place: result[:2] for place, result in found.items()} == {n: ("loaded", 2 * n) for n in range(3)}
        assert os.getpid() not in {result[2] for result in found.values()}
        with pytest.raises(EvaluationError, match="loaded: item 3 is bad"):
            list(workers.map(work, [3]))
        with pytest.raises(EvaluationError, match=r"one of the 2 processes .* ended without a word"):
            list(workers.map(work, [1, 4, 2]))


def add(what: str, loaded: int, batches: Sequence[list[int]], tick: Tick) -> tuple[str, int, int]:
    for batch in batches:
        tick(len(batch))
    return what, loaded, sum(map(sum, batches))


@pytest.mark.slow
def test_shares_are_neighbours_and_come_in_order() -> None:
    batches = [[number] * 2 for number in range(100)]
    run = functools.partial(add, "sum")
    alone = Workers(lambda: 1).share(run, batches, "adding", "number")
    assert alone == [("sum", 1, 2 * sum(range(100)))]
    with Workers(two, 2) as both:
        shared = both.share(run, batches, "adding", "number")
        assert both.share(run, batches[:1], "adding", "number") == [("sum", 2, 0)], "no process gets nothing"
    assert shared == [("sum", 2, 2 * sum(range(25 * n, 25 * n + 25))) for n in range(4)]
    assert Workers(lambda: 1).share(run, [], "adding", "number") == [("sum", 1, 0)]


def test_cores_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 6)
    assert [Workers(two, count).threads() for count in (1, 2, 4, 64)] == [6, 3, 1, 1]
    assert Workers(two, 64).threads(3) == 3


def test_devices_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    require_devices(8, "a.test.nproc")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    require_devices(2, "a.test.nproc")
    with pytest.raises(ConfigError, match=r"`a\.test\.nproc: 3` needs as many CUDA devices, found 2; lower it"):
        require_devices(3, "a.test.nproc")
