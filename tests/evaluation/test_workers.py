from __future__ import annotations

import os

import pytest

from umt_pipeline.errors import ConfigError
from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.evaluation.workers import Workers


def loaded() -> str:
    return "loaded"


def work(what: str, item: int) -> tuple[str, int, int]:
    if item == 3:
        raise EvaluationError(f"{what}: item {item} is bad")
    if item == 4:
        os._exit(1)
    return what, 2 * item, os.getpid()


def test_one_process_is_this_one() -> None:
    with Workers("here") as workers:
        assert list(workers.map(work, [1, 2])) == [(0, ("here", 2, os.getpid())), (1, ("here", 4, os.getpid()))]


def test_errors_of_other_processes_arrive() -> None:
    with Workers("here", loaded, count=2) as workers:
        found = dict(workers.map(work, [0, 1, 2]))
        assert {place: result[:2] for place, result in found.items()} == {n: ("loaded", 2 * n) for n in range(3)}
        assert os.getpid() not in {result[2] for result in found.values()}
        with pytest.raises(EvaluationError, match="loaded: item 3 is bad"):
            list(workers.map(work, [3]))
        with pytest.raises(EvaluationError, match=r"one of the 2 processes .* ended without a word"):
            list(workers.map(work, [1, 4, 2]))


def test_processes_need_a_way_to_load() -> None:
    with pytest.raises(ConfigError, match="nproc: 2"):
        Workers("here", count=2)
