"""What DVC would say of files, without asking it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from umt_pipeline.tracking.dependencies import Stages, dvc_md5, joining_tags

DVC_YAML = {
    "stages": {
        "first": {
            "cmd": "true",
            "deps": ["data/raw.csv", "src/code"],
            "params": [{"conf/base/parameters_first.yml": ["first"]}],
            "outs": ["data/06_models/first", "data/store"],
            "metrics": [{"results/first.json": {"cache": False}}],
        },
        "second": {"cmd": "true", "deps": ["data/06_models/first", "data/store", "results/first.json"], "outs": ["data/end"]},
    }
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = {
        "data/raw.csv": "a\n1\n",
        "src/code/one.py": "1",
        "src/code/deeper/two.py": "2",
        "src/code/__pycache__/one.pyc": "compiled",
        "conf/base/parameters_first.yml": "first: {lr: 1e-05}\n",
        "data/06_models/first/model.safetensors": "weights",
        "data/store/shard": "targets",
        "results/first.json": "{}",
        "data/end": "the end",
        "dvc.yaml": yaml.safe_dump(DVC_YAML),
        ".dvcignore": (ROOT / ".dvcignore").read_text(encoding="utf-8"),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def dvc(project: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=project, check=True, capture_output=True)


def test_the_md5s_are_those_of_dvc(project: Path) -> None:
    dvc(project, "init", "--no-scm", "--quiet")
    dvc(project, "commit", "--force")
    under = Stages.of(project, "demo", under_dvc=True)
    for stage in ("first", "second"):
        assert under.dependencies(stage) == under.locked_dependencies(stage)
    assert len(under.dependencies("second")) == 3
    assert under.join() == under.locked_join()
    assert under.is_locked("first", ["results/first.json"])
    assert under.locked_params("first") == {"first": {"lr": 1e-05}}
    assert dvc_md5(project / "data/store") == under.made["data/store"]


def test_without_dvc_what_may_be_large_is_not_read(project: Path) -> None:
    stages = Stages.of(project, "demo")
    assert set(stages.dependencies("second")) == {"data/06_models/first", "results/first.json"}
    assert set(stages.dependencies("first")) == {"data/raw.csv", "src/code"}
    assert stages.dependencies("third") == {}
    assert Stages.of(project, "mine").join() is None


def test_a_file_that_dvc_keeps_is_known_by_it(project: Path) -> None:
    (project / "data/raw.csv.dvc").write_text("outs: [{md5: abc, path: raw.csv}]", encoding="utf-8")
    (project / "data/raw.csv").unlink()
    assert Stages.of(project, "demo").dependencies("first")["data/raw.csv"] == "abc"


def test_runs_of_one_reproduction_join_until_a_source_changes(project: Path) -> None:
    before = Stages.of(project, "demo").join()
    (project / "results/first.json").write_text("{}\n")
    assert Stages.of(project, "demo").join() == before, "that is made by a stage"
    for name in ("src/code/one.py", "conf/base/parameters_first.yml", "data/raw.csv"):
        file = project / name
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace("1", "3"), encoding="utf-8")
        assert Stages.of(project, "demo").join() != before, name
        file.write_text(text, encoding="utf-8")
    assert Stages.of(project, "demo").join() == before


def test_a_stage_is_called_as_dvc_calls_it(project: Path) -> None:
    assert Stages.of(project, "demo").address("first") == "first"
    assert Stages.of(project, "mine").address("first") == "corpora/mine/dvc.yaml:first"


def test_tags_that_join_are_of_data_and_models() -> None:
    md5s = {"data/06_models/stage1": "1.dir", "src/umt_pipeline/models": "2.dir", "/elsewhere/a,b": "3"}
    assert joining_tags(md5s) == {"dvc.md5.data/06_models/stage1": "1.dir"}
