"""`umt spec`: runs for other machines, found again by the stage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project_copies import copy_project, kedro_run
from umt_pipeline.commands.spec import Written, lines


def test_what_is_to_be_started_is_said_and_what_is_finished_is_not() -> None:
    folder = Path("/shared/with space/stage1/0123")
    said = lines("stage1", [Written("stage1", folder / "spec.json", False)])
    assert said[0] == f"stage1: {folder}"
    assert said[1].startswith("  torchrun --nnodes NODES --nproc-per-node DEVICES --rdzv-backend c10d --rdzv-endpoint HOST")
    assert said[1].endswith(f"-m umt_pipeline.training.launch '{folder}/spec.json'")
    assert "kedro run --pipelines stage1" in said[-1]
    assert lines("stage1", [Written("stage1", folder / "spec.json", True)]) == [f"stage1: {folder} (finished)"]
    assert "call `umt spec` again" in lines("stage2", [Written("text", folder / "spec.json", False)])[-1]
    assert lines("teacher_features", []) == ["teacher_features trains nothing with these parameters."]


def umt(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(project / "src"), "MLFLOW_TRACKING_URI": f"sqlite:///{project}/mlflow.db"}
    command = [sys.executable, "-m", "umt_pipeline.commands.main", *arguments]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def runs_said(text: str) -> dict[str, Path]:
    found = (line.split(": ") for line in text.splitlines() if ": /" in line and not line.startswith(" "))
    return {name: Path(folder.removesuffix(" (finished)")) for name, folder in found}


def train_elsewhere(project: Path, folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(project / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "umt_pipeline.training.launch", str(folder / "spec.json")]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]


@pytest.mark.slow
def test_a_stage_takes_runs_that_were_trained_elsewhere(tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    refused = umt(project, "spec", "evaluation", "--env", "ci")
    assert refused.returncode == 1
    assert "expected a stage that trains, one of classification, detection" in refused.stderr
    early = umt(project, "spec", "stage1", "--env", "ci")
    assert early.returncode == 1
    assert "expected before the first step, found nothing" in early.stderr

    kedro_run(project, "demo_corpus,ingestion")
    for stage in ("teacher_features", "stage1", "stage2", "classification"):
        seen: dict[str, Path] = {}
        while "torchrun" in (said := umt(project, "spec", stage, "--env", "ci")).stdout:
            runs = runs_said(said.stdout)
            assert not [name for name, folder in runs.items() if name not in seen and (folder / "final").exists()]
            for name, folder in runs.items():
                if name not in seen:
                    train_elsewhere(project, folder)
            seen |= runs
        assert said.returncode == 0, said.stderr
        log = kedro_run(project, stage)
        assert log.count("not trained again") >= len(seen) >= 1
        assert "training " not in log.replace("training.", ""), "nothing was trained by the stage"
