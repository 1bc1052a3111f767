"""A worker looks whether it is fit before it begins, and says on which host what is missing. Needs no Ray."""

from __future__ import annotations

import pickle
import socket
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.executors import work
from umt_pipeline import __version__
from umt_pipeline.core.identity import code_key
from umt_pipeline.executors.ray_worker import ERROR, RESULT, UNFIT, Job, Witness, Worker


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "a.mp4").write_bytes(b"12345")
    seen = (Witness.of(tmp_path / name) for name in ("shared", "shared/a.mp4", "gone.mp4", "\0"))
    shared = tuple(witness for witness in seen if witness is not None)
    assert len(shared) == 2, "what the driver does not see either is not asked for"
    versions = {"umt_pipeline": __version__, "numpy": version("numpy")}
    (tmp_path / "died").touch()
    return Job(pickle.dumps(partial(work.double, tmp_path)), 1, shared, ("masking",), code_key("masking"), versions)


def run(job: Job, *numbers: int) -> list[tuple[str, Any]]:
    table = pa.table({"place": list(range(len(numbers))), "item": [pickle.dumps(number) for number in numbers]})
    done = Worker(job)(table)
    assert done["place"] == list(range(len(numbers)))
    return [pickle.loads(outcome) for outcome in done["outcome"]]


def unfit(job: Job) -> str:
    [(kind, told)] = run(job, 1)
    assert kind == UNFIT
    assert f"Worker on host {socket.gethostname()}: " in told
    return str(told)


def test_a_fit_worker_does_the_work(job: Job) -> None:
    outcomes = run(job, 1, 2)
    assert [(kind, result[0]) for kind, result in outcomes] == [(RESULT, 2), (RESULT, 4)]


def test_a_folder_that_is_not_mounted_is_told(job: Job, tmp_path: Path) -> None:
    (tmp_path / "shared" / "a.mp4").unlink()
    told = unfit(job)  # as in the empty folder to which a drive would be mounted
    assert f"expected the file {tmp_path}/shared/a.mp4, found none" in told
    assert "Mount the folder there under the same path as here" in told
    (tmp_path / "shared").rmdir()
    assert f"expected the folder {tmp_path}/shared, found none" in unfit(job)


def test_other_code_and_other_packages_are_told(job: Job) -> None:
    assert "the code of masking to be the same as here, found another" in unfit(replace(job, code="0" * 16))
    for name in ("umt_pipeline", "numpy"):
        assert f"expected {name} 0.0.7, found " in unfit(replace(job, versions={**job.versions, name: "0.0.7"}))
    assert "expected absent 1.0, found none" in unfit(replace(job, versions={"absent": "1.0"}))


def test_an_error_of_the_work_is_told_and_ends_it(job: Job) -> None:
    first, second, third = run(replace(job, start=pickle.dumps(work.refusing)), 0, 7, 0)
    assert first == (RESULT, 0)
    for kind, (error, host) in (second, third):
        assert (kind, type(error), str(error), host) == (ERROR, ValueError, "expected 0, found 7", socket.gethostname())
    [(kind, (error, _))] = run(replace(job, start=pickle.dumps(work.unpicklable)), 1)
    assert (kind, type(error), str(error)) == (ERROR, RuntimeError, "OddError: cannot travel")
