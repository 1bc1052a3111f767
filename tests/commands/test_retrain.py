"""`umt retrain`: what is refused before anything is paid for, and that a killed one is finished by the next."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.small_project import PARAMETERS, clone, finish, git, make_project, programs
from tests.conftest import ROOT
from tests.project_copies import edit
from umt_pipeline.commands.overrides import Override
from umt_pipeline.commands.pull_request import open_pull_request
from umt_pipeline.commands.retrain import Asked, preview, require
from umt_pipeline.commands.retrain_branch import Attempt, Branch
from umt_pipeline.commands.shell import Shell
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.locking import try_lock

LARGER = f"{PARAMETERS}:stage2.width=2"
# In a process of its own, which a stand-in can kill.
RETRAIN = """
import sys
from pathlib import Path
from umt_pipeline.commands.overrides import Override
from umt_pipeline.commands.retrain import Asked, retrain
from umt_pipeline.core.errors import UmtError
try:
    for line in retrain(Path.cwd(), Asked(overrides=tuple(map(Override.parse, sys.argv[1:])))):
        print(line, flush=True)
except UmtError as error:
    sys.exit(f"Error: {error}")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that was never run, as the current folder, and stand-ins for umt and gh on the PATH."""
    made = make_project(tmp_path)
    for name, value in programs(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def finished(project: Path) -> Path:
    """The same, after a first run."""
    finish(project)
    return project


def retrain(project: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RETRAIN, *overrides]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def calls(project: Path) -> list[str]:
    file = project.parent / "calls"
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


# --- before ---------------------------------------------------------------------------------------------------------------
def test_what_is_missing_is_said_before_anything_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require(project, Asked())
    with pytest.raises(ConfigError, match="expected a remote of git, found origin"):
        require(project, Asked(remote="elsewhere"))
    with pytest.raises(ConfigError, match="expected a branch of its own, found the one that the pull request is for"):
        require(project, Asked(branch="main"))
    (project.parent / "bin" / "gh").unlink()
    (project.parent / "bin" / "git").symlink_to(str(shutil.which("git")))
    monkeypatch.setenv("PATH", str(project.parent / "bin"))
    with pytest.raises(ConfigError, match="expected GitHub's command line"):
        require(project, Asked())
    require(project, Asked(pull_request=False))
    edit(project / ".dvc/config", "    remote = kept\n", "")
    with pytest.raises(ConfigError, match="expected a default one, found none"):
        require(project, Asked(pull_request=False))
    require(project, Asked(push=False))


def test_a_checkout_with_other_changes_is_refused(project: Path) -> None:
    branch = Branch(Shell(project), "demo", None)
    edit(project / PARAMETERS, "width: 1", "width: 2")
    (project / "notes.txt").write_text("mine", encoding="utf-8")
    assert branch.changed() == [PARAMETERS]
    edit(project / "src/use.py", "[:5]", "[:4]")
    (project / "src/new.py").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"found also:\n  src/new\.py\n  src/use\.py\n"):
        branch.changed()


def test_of_a_corpus_its_own_files_belong_to_it(project: Path) -> None:
    branch = Branch(Shell(project), "mine", "mine")
    for name in ("conf/mine/corpus.yml", "corpora/mine/dvc.lock", "data/mine/01_raw/a.csv.dvc"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("{}", encoding="utf-8")
    assert branch.changed() == ["conf/mine/corpus.yml", "corpora/mine/dvc.lock", "data/mine/01_raw/a.csv.dvc"]
    assert branch.inputs() == ["conf/mine/corpus.yml", "data/mine/01_raw/a.csv.dvc"]
    edit(project / "dvc.yaml", "src/use.py]", "src/use.py, src/make.py]")
    with pytest.raises(ConfigError, match=r"dvc\.yaml"):
        branch.changed()


def test_the_name_of_a_retraining_follows_from_its_inputs(project: Path) -> None:
    branch = Branch(Shell(project), "demo", None)
    first = branch.identify([""])
    assert branch.identify([""]) == first
    assert branch.identify(["stage2"]) != first
    edit(project / PARAMETERS, "width: 1", "width: 2")
    assert branch.identify([""]) != first


def test_a_branch_of_this_name_of_other_work_is_left_alone(project: Path) -> None:
    branch = Branch(Shell(project), "demo", None)
    id = branch.identify([""])
    assert branch.find(id, None, "origin") == (f"retrain/{id}", None)
    git(project, "switch", "-q", "-c", f"retrain/{id}")
    git(project, "commit", "-q", "--allow-empty", "-m", "somebody's")
    git(project, "push", "-q", "origin", f"retrain/{id}")
    git(project, "switch", "-q", "main")
    assert branch.find(id, None, "origin") == (f"retrain/{id}-2", None)
    git(project, "branch", "-q", "-D", f"retrain/{id}")
    assert branch.find(id, None, "origin") == (f"retrain/{id}-2", None), "another clone's"
    with pytest.raises(ConfigError, match="branch of other work"):
        branch.find(id, f"retrain/{id}", "origin")


def test_a_branch_that_begins_at_a_merged_retraining_is_no_retraining(project: Path) -> None:
    branch = Branch(Shell(project), "demo", None)
    attempt = Attempt("demo-0123abcd", branch.head(), judged=True)
    branch.commit("retrain/demo-0123abcd", "Verdict on demo", attempt, [])
    assert branch.begun(None) == attempt
    assert branch.begun("retrain/mine") is None
    git(project, "switch", "-q", "-c", "idea")
    assert branch.begun(None) is None
    assert branch.begun("idea") == attempt, "somebody says so"


@pytest.mark.parametrize(
    ("state", "same", "expected"),
    [("MERGED", True, "is merged"), ("MERGED", False, "opened"), ("CLOSED", False, "is closed"), ("OPEN", False, "is open")],
)
def test_what_was_decided_stays_and_what_came_after_a_merge_is_proposed(
    project: Path, state: str, same: bool, expected: str
) -> None:
    head = git(project, "rev-parse", "HEAD") if same else "0" * 40
    known = [{"url": "https://example.org/pull/1", "state": state, "headRefOid": head}]
    (project.parent / "calls.pr").write_text(json.dumps(known), encoding="utf-8")
    (project.parent / "text.md").write_text("text", encoding="utf-8")
    told = open_pull_request(Shell(project), "main", "retrain/demo-0123abcd", "Retrain demo", project.parent / "text.md")
    assert expected in told


@pytest.mark.slow
def test_two_at_once_are_one(project: Path) -> None:
    lock = project / "data/.checkpoints/retrain/.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("ab") as handle:
        assert try_lock(handle)
        told = retrain(project)
    assert told.returncode == 1
    assert "another `umt retrain` is at work" in told.stderr


# --- the whole ------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_nothing_changed_says_so_and_leaves_no_branch(finished: Path) -> None:
    told = retrain(finished)
    assert told.returncode == 0, told.stderr
    assert "Nothing changed" in told.stdout
    assert git(finished, "branch", "--list", "retrain/*") == ""
    assert calls(finished) == []


@pytest.mark.slow
def test_a_change_becomes_a_pull_request_in_a_clone_without_data(finished: Path) -> None:
    elsewhere = clone(finished, "elsewhere")
    told = retrain(elsewhere, LARGER)
    assert told.returncode == 0, told.stdout + told.stderr
    branch = git(elsewhere, "symbolic-ref", "--short", "HEAD")
    assert branch.startswith("retrain/demo-")
    assert git(elsewhere, "rev-parse", "HEAD") == git(elsewhere, "ls-remote", "origin", f"refs/heads/{branch}").split()[0]
    assert git(elsewhere, "status", "--porcelain") == ""
    subjects = git(elsewhere, "log", "--format=%s", "main..HEAD").splitlines()
    assert subjects == ["Verdict on demo", "Retrain demo: stage2, evaluation", "Retrain demo: inputs"]
    kind = "--kind stage2"
    assert calls(finished) == [f"umt register demo {kind}", f"umt promote demo {kind} --yes", "gh pr list", "gh pr create"]
    body = (finished.parent / "calls.body").read_text(encoding="utf-8")
    assert "**stage2: refused.** it is worse" in body
    assert "| t2v_r1" in body
    assert "| stage2.width | 1" in body

    # Again, and in another clone: there is nothing left to do, and the pull request is the same.
    for place in (elsewhere, clone(finished, "third")):
        told = retrain(place, LARGER)
        assert told.returncode == 0, told.stdout + told.stderr
        assert "going on with" in told.stdout
        assert "is open" in told.stdout
        assert git(place, "rev-parse", "HEAD") == git(elsewhere, "rev-parse", "HEAD")
    assert calls(finished).count("gh pr create") == 1
    assert calls(finished).count(f"umt promote demo {kind} --yes") == 1


@pytest.mark.slow
@pytest.mark.parametrize("death", ["promote", "create"])
def test_killed_between_two_steps_a_second_run_finishes_the_job(
    finished: Path, death: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEATH", death)
    assert retrain(finished, LARGER).returncode == -signal.SIGKILL
    monkeypatch.setenv("DEATH", "")
    told = retrain(finished, LARGER)
    assert told.returncode == 0, told.stdout + told.stderr
    assert git(finished, "log", "--format=%s", "main..HEAD").splitlines() == [
        "Verdict on demo", "Retrain demo: stage2, evaluation", "Retrain demo: inputs",
    ]  # fmt: skip
    assert git(finished, "branch", "--list", "retrain/*").count("retrain/") == 1
    assert calls(finished)[-1] == "gh pr create"
    assert "Running stage" not in told.stdout


@pytest.mark.slow
def test_a_preview_changes_nothing(finished: Path) -> None:
    told = preview(finished, Asked(overrides=(Override.parse(LARGER),)))
    assert told[0] == f"sets {PARAMETERS}: stage2.width: 1 became 2"
    assert "stage2 will run: parameter stage2.width: 1 became 2" in told
    assert "dvc repro --pull --allow-missing dvc.yaml" in told
    assert git(finished, "status", "--porcelain") == ""
    assert git(finished, "worktree", "list").count("\n") == 0
    assert preview(finished, Asked())[-1] == "no stage would run"
