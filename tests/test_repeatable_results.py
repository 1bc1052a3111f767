"""Results that repeat: of two runs in two places; and with DVC itself and the stages of dvc.yaml, which a stand-in runs."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.conftest import ROOT
from tests.documented import assigned
from tests.project_copies import copy_project, kedro_run
from tests.stage_stand_in import Place
from umt_pipeline.commands.main import app

pytestmark = pytest.mark.slow

STAGES = list(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"])
LR = "conf/base/parameters_stage1.yml"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """After a first `dvc repro` of everything, which is committed."""
    place = Place(tmp_path_factory.mktemp("repeat"))
    place.dvc("repro")
    assert place.ran() == sorted(STAGES)
    place.call("git", "add", "-A")
    place.call("git", "commit", "-q", "-m", "first")
    return place


def test_two_runs_in_two_places_give_equal_results(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        project = copy_project(tmp_path / name)
        kedro_run(project, ",".join(STAGES))
        results = project / "data/ci/08_reporting/results"
        found.append({path.relative_to(results): path.read_bytes() for path in results.rglob("*") if path.is_file()})
        assert (project / "data/ci/08_reporting/stage1_times.json").is_file()
    assert len(found[0]) > 2 * len(STAGES)
    assert found[0] == found[1], [path for path in found[0] if found[0][path] != found[1].get(path)]


def test_a_parameter_flipped_back_reruns_nothing(place: Place) -> None:
    first = place.results()
    assert "results/headline.json" in first
    place.set(LR, "stage1.train.lr=0.123")
    place.dvc("repro")
    # The tasks and the evaluation too, for the student is another one.
    assert place.ran() == sorted(set(STAGES) - {"demo_corpus", "ingestion", "teacher_features"})
    assert place.results() != first
    place.set(LR, "stage1.train.lr=0.003")
    said = place.dvc("repro")
    assert place.ran() == []
    assert said.count("is cached - skipping run") == 7
    assert place.results() == first


def test_another_run_of_the_same_differs_in_times_and_nothing_runs_for_that(place: Place) -> None:
    first, times = place.results(), (place.project / "data/08_reporting/stage1_times.json").read_bytes()
    place.dvc("repro", "--force", "--single-item", "stage1")
    assert place.ran() == ["stage1"]
    assert (place.project / "data/08_reporting/stage1_times.json").read_bytes() != times
    place.dvc("repro")
    assert place.ran() == []
    assert place.results() == first


def test_three_experiments_fit_a_terminal_and_change_a_line_each(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the commands of docs/experiments.md, and one experiment more."""
    place.call("git", "checkout", "-q", "--", ".")
    place.dvc("checkout")
    monkeypatch.chdir(place.project)
    commands = assigned("test_three_experiments_fit_a_terminal_and_change_a_line_each", "experiments.md")
    runs = [words[1:] for words in commands if words[:3] == ["dvc", "exp", "run"]]
    assert runs
    names = [f"try-{number}-lr" for number in range(len(runs) + 1)]  # as long as those that DVC gives, or shorter
    for name, words in zip(names, [*runs, ["exp", "run", "-S", f"{LR}:stage1.train.lr=0.012"]], strict=True):
        place.dvc(*words, "--name", name)
        assert place.call("git", "diff", "--numstat", "--", "conf").split() == ["1", "1", LR]
        place.call("git", "checkout", "-q", "--", "conf")

    headline = {name for file in (ROOT / "results").glob("headline*.json") for name in yaml.safe_load(file.read_text())}
    (table,) = (umt(words[1:]) for words in commands if words[:2] == ["umt", "experiments"])
    for text in (place.dvc("exp", "show", "--only-changed", "--no-pager"), table):
        assert max(map(len, text.splitlines())) <= 160
        for told in (*names, *headline, "stage1.train.lr", "0.006"):
            assert told in text, text
    lines = {line.split()[0]: line for line in table.splitlines() if line.strip()}
    assert "stage1.train.lr=0.006" in lines["try-1-lr"]
    assert "lr" not in lines["main"]

    (apply,) = (words[1:] for words in commands if words[:3] == ["dvc", "exp", "apply"])
    place.call("git", "checkout", "-q", "--", ".")
    place.dvc(*("try-1-lr" if word == "NAME" else word for word in apply))
    assert "lr: 0.006" in (place.project / LR).read_text(encoding="utf-8")
    assert place.ran()
    place.dvc("repro")
    assert place.ran() == [], "its results came along"
    (status,) = (umt(words[1:]) for words in commands if words[:2] == ["umt", "status"])
    assert "stage1" in status
    place.call("git", "checkout", "-q", "--", ".")


def umt(words: list[str]) -> str:
    """Run a command of ours in the current folder, and return what it says."""
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"{shlex.join(words)}: {done.output}\n{done.exception}"
    return done.output
