"""Which code a run belongs to."""

from __future__ import annotations

import subprocess
from pathlib import Path

from umt_pipeline.tracking.provenance import commit_of, provenance_tags


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_provenance(tmp_path: Path) -> None:
    assert provenance_tags(tmp_path, {}) == {}
    git(tmp_path, "init", "--quiet")
    (tmp_path / "results").mkdir()
    for name in ("code.py", "dvc.lock", "results/metrics.json"):
        (tmp_path / name).write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "dvc.lock").write_text("2")
    (tmp_path / "results" / "metrics.json").write_text("2")
    assert commit_of(tmp_path, tmp_path / "code.py") == commit
    assert commit_of(tmp_path, tmp_path / "dvc.lock") is None, "it was changed since"
    clean = {"git.commit": commit, "git.dirty": "false"}
    assert provenance_tags(tmp_path, {"DVC_STAGE": ""}) == clean
    (tmp_path / "code.py").write_text("2")
    environment = {"DVC_STAGE": "stage1", "DVC_EXP_NAME": "bold-cat", "DVC_EXP_BASELINE_REV": "abc", "OTHER": "x"}
    assert provenance_tags(tmp_path, environment) == {
        "git.commit": commit,
        "git.dirty": "true",
        "dvc.stage": "stage1",
        "dvc.exp_name": "bold-cat",
        "dvc.exp_baseline_rev": "abc",
    }
