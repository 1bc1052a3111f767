"""Results that repeat: of two runs in two places; and with DVC itself and the stages of dvc.yaml.

There `kedro` is a stand-in that writes what a stage declares. What it writes follows from the stage's parameters and from what
it reads; pages and times are others in every run.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from rich.console import Console

from tests.conftest import ROOT
from tests.project_copies import copy_project, kedro_run, make_dvc_project
from umt_pipeline.commands.experiments import print_experiments

pytestmark = pytest.mark.slow

KEDRO = '''#!{python}
"""Stands in for `kedro run --pipelines STAGE`: writes all that the stage declares, and its name into a file."""
import hashlib, json, sys, time
from pathlib import Path

import yaml

name = sys.argv[-1]
stage = yaml.safe_load(Path("dvc.yaml").read_text())["stages"][name]
read = hashlib.sha256()
for dependency in map(Path, stage["deps"]):
    for file in sorted(dependency.rglob("*")) if dependency.is_dir() else [dependency]:
        if file.is_file() and not dependency.is_relative_to("src"):
            read.update(file.read_bytes())
for path, blocks in (pair for entry in stage["params"] for pair in entry.items()):
    values = yaml.safe_load(Path(path).read_text())
    read.update(json.dumps(values[blocks[0]], sort_keys=True).encode())  # the others are in it
digest = read.hexdigest()
for entry in (entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])):
    path = Path(entry if isinstance(entry, str) else next(iter(entry)))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith("_times.json") or path.suffix == ".html":
        path.write_text(str(time.time_ns()))
    elif path.name.startswith("headline"):
        headline = json.loads(Path("{root}", path).read_text())
        path.write_text(json.dumps({{key: int(digest[:6], 16) % 100000 / 1000 for key in headline}}))
    elif path.suffix == ".csv":
        path.write_text("name,value,step,loss\\n{{}},1,1,1\\n".format(digest))
    elif path.suffix:
        path.write_text(json.dumps({{"digest": digest}}))
    else:
        path.mkdir(parents=True)
        (path / "content").write_text(digest + path.name)
with Path("{log}").open("a") as log:
    print(name, file=log)
'''
STAGES = list(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"])
LR = "conf/base/parameters_stage1.yml"


class Place:
    """A DVC project of this project's stages, in git, with the stand-in for Kedro."""

    def __init__(self, folder: Path) -> None:
        self.project = make_dvc_project(copy_project(folder))
        self.log = folder / "ran.txt"
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        kedro = bin_folder / "kedro"
        kedro.write_text(KEDRO.format(python=sys.executable, root=ROOT, log=self.log), encoding="utf-8")
        kedro.chmod(0o755)
        (self.project / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
        (self.project / "conf" / "local" / ".gitkeep").touch()
        author = {f"GIT_{who}_{what}": "test@test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        path = os.pathsep.join([str(bin_folder), str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {**os.environ, **author, "PATH": path, "COLUMNS": "160"}

    def call(self, *command: str) -> str:
        """Run a command in the project and return what it says."""
        done = subprocess.run(
            command, cwd=self.project, env=self.environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done.stdout

    def dvc(self, *arguments: str) -> str:
        """Run dvc."""
        return self.call(sys.executable, "-m", "dvc", *arguments)

    def ran(self) -> list[str]:
        """Return the stages that were run since this was asked before, sorted."""
        names = self.log.read_text(encoding="utf-8").split() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return sorted(names)

    def results(self) -> dict[str, bytes]:
        """Return what git keeps."""
        files = sorted(file for file in (self.project / "results").rglob("*") if file.is_file())
        return {file.relative_to(self.project).as_posix(): file.read_bytes() for file in files}

    def set(self, parameter: str) -> None:
        """Change a parameter."""
        apply_overrides(str(self.project / LR), [parameter])


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
    place.set("stage1.train.lr=0.123")
    place.dvc("repro")
    # The tasks and the evaluation too, for the student is another one.
    assert place.ran() == sorted(set(STAGES) - {"demo_corpus", "ingestion", "teacher_features"})
    assert place.results() != first
    place.set("stage1.train.lr=0.0015")
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


def test_three_experiments_fit_a_terminal_and_change_a_line_each(place: Place) -> None:
    place.call("git", "checkout", "-q", "--", ".")
    place.dvc("checkout")
    names = []
    for number, parameter in enumerate(("stage1.train.lr=0.003", "stage1.train.lr=0.006", "stage1.train.lr=0.012")):
        names.append(f"experiment-{number}")
        place.dvc("exp", "run", "--name", names[-1], "-S", f"{LR}:{parameter}")
        assert place.call("git", "diff", "--numstat", "--", "conf").split() == ["1", "1", LR]
        place.call("git", "checkout", "-q", "--", "conf")

    headline = {name for file in (ROOT / "results").glob("headline*.json") for name in yaml.safe_load(file.read_text())}
    for text in (place.dvc("exp", "show", "--only-changed", "--no-pager"), table_of(place.project)):
        assert max(map(len, text.splitlines())) <= 160
        for told in (*names, *headline, "stage1.train.lr", "0.006"):
            assert told in text, text
    lines = {line.split()[0]: line for line in table_of(place.project).splitlines() if line.strip()}
    assert "stage1.train.lr=0.006" in lines["experiment-1"]
    assert "lr" not in lines["main"]


def table_of(project: Path) -> str:
    console = Console(file=io.StringIO(), width=160)
    print_experiments(console, project, None)
    return console.file.getvalue()  # type: ignore[attr-defined]
