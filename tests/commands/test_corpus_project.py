"""A corpus as a DVC project: made, run, found done, changed, run again; and what `umt status` says on the way."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from tests.project_copies import copy_project, edit, make_dvc_project
from tests.video_files import write_video
from umt_pipeline.commands.init import Given, init_corpus
from umt_pipeline.commands.status import print_status
from umt_pipeline.commands.update import update_corpus


def dvc(project: Path, *arguments: str) -> str:
    """Run DVC, whose stages find the `kedro` of these tests and the code of the copy."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(project / "src")}
    command = [sys.executable, "-m", "dvc", *arguments]
    result = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    return result.stdout


def status(project: Path) -> dict[str, str]:
    """Return what is said of each stage, and, under "", what is said below the table."""
    console = Console(file=io.StringIO(), width=200)
    print_status(console, project, "mine")
    found, stage = {"": ""}, ""
    for line in console.file.getvalue().splitlines():  # type: ignore[attr-defined]
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        stage = (cells[0] or stage) if line.startswith("│") else ""
        found[stage] = f"{found.get(stage, '')} {' '.join(cells[1:]) if stage else line}".strip()
    return found


@pytest.mark.slow
def test_a_corpus_is_a_dvc_project(tmp_path: Path) -> None:
    project = make_dvc_project(copy_project(tmp_path))
    media = tmp_path / "clips"
    for number, name in enumerate(("a", "b", "deep/c")):
        write_video(media / f"{name}.mp4", num_frames=6, first_number=40 * number)
        (media / f"{name}.txt").write_text(f"clip {name}", encoding="utf-8")
    init_corpus(project, "mine", Given(media, splits="100,0,0", like="ci"))
    assert status(project)["ingestion"].startswith("will run never run")

    ingestion = "corpora/mine/dvc.yaml:ingestion"
    assert "Running stage 'corpora/mine/dvc.yaml:ingestion'" in dvc(project, "repro", ingestion)
    primary = project / "data/mine/03_primary"
    assert pd.read_parquet(primary / "videos.parquet")["video_id"].tolist() == ["a", "b", "deep/c"]
    assert (project / "corpora/mine/results/ingestion.csv").is_file()
    assert "Running stage" not in dvc(project, "repro", ingestion)
    assert status(project)["ingestion"] == "up to date"

    # A file more, one moved, one gone, and another rule.
    write_video(media / "d.mp4", num_frames=6, first_number=160)
    (media / "b.mp4").rename(media / "deep" / "b.mp4")
    (media / "a.mp4").unlink()
    edit(project / "conf/mine/parameters_ingestion.yml", "min_frames: 4", "min_frames: 5")
    told = status(project)
    assert "parameter ingestion.rules.min_frames: 4 became 5" in told["ingestion"]
    assert "after ingestion, if what it reads of it changes" in told["teacher_features"]
    assert "2 files in" in told[""]
    assert "umt update mine" in told[""]
    assert "1 new, 0 changed, 1 moved, 1 vanished" in update_corpus(project, "mine", {}, None)[0]
    told = status(project)
    assert "data/mine/01_raw/videos.csv changed" in told["ingestion"]
    assert "umt update" not in told[""], "the folder is taken in"
    assert "Running stage" in dvc(project, "repro", ingestion)
    videos = pd.read_parquet(primary / "videos.parquet").set_index("path")["video_id"].to_dict()
    assert videos == {"deep/b.mp4": "b", "deep/c.mp4": "deep/c", "d.mp4": "d"}
    assert "Running stage" not in dvc(project, "repro", ingestion)
