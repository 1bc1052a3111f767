"""A DVC project whose stages are real and cheap: `kedro` is a stand-in that writes what a stage declares.

What it writes follows from the stage's parameters and from what it reads; pages and times are others in every run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dvc.utils.hydra import apply_overrides

from tests.conftest import ROOT
from tests.project_copies import copy_project, make_dvc_project

KEDRO = '''#!{python}
"""Stands in for `kedro run [--env CORPUS] --pipelines STAGE`: writes all that the stage declares, and its name into a file."""
import hashlib, json, sys, time
from pathlib import Path

import pandas as pd
import yaml

given = dict(zip(sys.argv[2::2], sys.argv[3::2]))
name, corpus = given["--pipelines"], given.get("--env")
stages = Path("corpora", corpus, "dvc.yaml") if corpus else Path("dvc.yaml")
stage = yaml.safe_load(stages.read_text())["stages"][name]
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
        path.write_text(json.dumps({{"written_at": time.time_ns()}}))
    elif path.name.startswith("headline"):
        headline = json.loads(Path("{root}", "results", path.name).read_text())
        path.write_text(json.dumps({{key: int(digest[:6], 16) % 100000 / 1000 for key in headline}}))
    elif path.name.endswith("records.json"):
        path.write_text("[]")
    elif path.suffix == ".parquet":
        pd.DataFrame({{"digest": [digest]}}).to_parquet(path)
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


class Place:
    """A DVC project of this project's stages, in git, with the stand-in for Kedro; nothing is run or committed yet.

    Args:
        folder: that it is made in.

    Attributes:
        project: its folder.
    """

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
        """Return what git keeps of the demo's results."""
        files = sorted(file for file in (self.project / "results").rglob("*") if file.is_file())
        return {file.relative_to(self.project).as_posix(): file.read_bytes() for file in files}

    def set(self, file: str, parameter: str) -> None:
        """Change a parameter."""
        apply_overrides(str(self.project / file), [parameter])
