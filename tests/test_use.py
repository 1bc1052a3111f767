"""What docs/use.md and the notebook beside it show: every block of Python, every command and every cell runs."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.conftest import ROOT
from tests.registry.finished import FinishedProject
from umt_pipeline.commands.main import app

GUIDE = (ROOT / "docs" / "use.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with tiny models and clips where the demo has its own."""
    made = FinishedProject(tmp_path_factory.mktemp("use") / "project", ("stage2", "classification", "question_answering"))
    clips = made.folder / "data" / "01_raw" / "demo" / "videos" / "test"
    clips.mkdir(parents=True)
    for number in range(4):
        shutil.copy(made.tables.media_root / f"clip{number % 2}.mp4", clips / f"{number:05}.mp4")
    return made.folder


def test_the_guide_runs_from_top_to_bottom(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    names: dict[str, object] = {}
    kinds = []
    for kind, block in BLOCK.findall(GUIDE):
        kinds.append(kind)
        if kind == "python":
            exec(compile(block, f"block {len(kinds)} of docs/use.md", "exec"), names)
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "umt", line
            done = CliRunner().invoke(app, arguments)
            assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception}"
    assert kinds.count("python") >= 8
    assert kinds.count("sh") == 2


@pytest.mark.slow
def test_the_notebook_runs(project: Path) -> None:
    """In a fresh process and from the folder of the notebook, as Jupyter does."""
    notebook = json.loads((ROOT / "docs" / "use.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) == 7
    assert all(not cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"), "commit it without outputs"
    (project / "docs").mkdir(exist_ok=True)
    command = [sys.executable, "-c", "\n".join(cells)]
    done = subprocess.run(command, cwd=project / "docs", env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    texts = next(line for line in "\n".join(cells).splitlines() if line.startswith("texts = "))
    assert all(f"{text}: " in done.stdout for text in ast.literal_eval(texts.removeprefix("texts = ")))
