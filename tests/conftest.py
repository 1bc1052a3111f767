"""What holds for every test: no network, no GPU (but for test_cuda.py, if asked for), no trace outside temporary folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

# Before any import of the packages that read them. Tests run side by side, a core each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if os.environ.get("UMT_TEST_CUDA") != "1":
    # What tests expect are a CPU's numbers, and some start two processes where there may be one GPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.update(
    DO_NOT_TRACK="1",
    DVC_NO_ANALYTICS="1",
    HF_HUB_OFFLINE="1",
    KEDRO_DISABLE_TELEMETRY="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING="false",
)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Send all MLflow runs of the tests to one database that is thrown away."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    os.environ["MLFLOW_TRACKING_URI"] = uri
    return uri


@pytest.fixture(scope="session", autouse=True)
def _no_measured_precision() -> Iterator[None]:
    """`precision: auto` takes fp32 in every test, whatever the CPU is fast at."""
    from umt_pipeline.compute import gain, precision

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "measured_speeds", lambda device: gain.Speeds(fp32=1e12, bf16=1e12))
        yield


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs in this process fail at an operation of a step that would make the host wait for a GPU.

    The first steps may: tables are made and kept there.
    """
    from tests.waits import NoWaits
    from umt_pipeline.training.loop import Trainer

    step = Trainer._step

    def strictly(trainer: Trainer, number: int, batches: Any) -> None:
        with NoWaits() if number >= trainer.start + 4 else nullcontext():
            step(trainer, number, batches)

    monkeypatch.setattr(Trainer, "_step", strictly)


@pytest.fixture
def root() -> Path:
    """The checkout that is tested."""
    return ROOT


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Kedro project with this checkout's code and a copy of its configuration, as the current folder."""
    folder = make_project(tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


def make_project(folder: Path) -> Path:
    """Make a folder a Kedro project with this checkout's code and a copy of its configuration."""
    folder.mkdir()
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copytree(ROOT / "conf", folder / "conf", ignore=shutil.ignore_patterns("local"))
    (folder / "conf" / "local").mkdir()
    (folder / "src").symlink_to(ROOT / "src")
    return folder
