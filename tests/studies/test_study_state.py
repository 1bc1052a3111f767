"""What `make lock-check` says of a study's results: of earlier code is all right, of another run is not."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import ROOT

STAGE = "studies/dvc.yaml:claims"


def state(*entries: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / ".ci" / "study_state.py")]
    return subprocess.run(command, input=json.dumps({STAGE: entries} if entries else {}), capture_output=True, text=True)


def test_in_step_says_nothing() -> None:
    told = state()
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


def test_earlier_code_is_said_and_is_no_error() -> None:
    told = state({"changed deps": {"src/umt_pipeline/video": "modified", "data/03_primary/videos.parquet": "deleted"}})
    assert told.returncode == 0
    assert told.stdout == f"{STAGE} was made with an earlier src/umt_pipeline/video\n"
    told = state({"changed deps": {"studies/claims": "modified"}})
    assert told.returncode == 0
    assert told.stdout == f"{STAGE} was made with an earlier studies/claims\n"


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        ({"changed deps": {"studies/claims/params.yaml": {"seed": "modified"}}}, "studies/claims/params.yaml (seed)"),
        ({"changed outs": {"docs/claims.md": "modified"}}, "docs/claims.md (modified)"),
        ({"changed outs": {"results/claims.json": "deleted"}}, "results/claims.json (deleted)"),
        ("changed command", "dvc.yaml (modified)"),
    ],
)
def test_results_of_another_run_are_an_error(entry: Any, path: str) -> None:
    told = state(entry)
    assert told.returncode == 1
    assert path in told.stderr
    assert "make claims" in told.stderr
