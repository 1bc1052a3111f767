"""A DVC project of two small stages, named as real ones, with remotes of git and DVC; stand-ins for umt and gh."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.commands.registry_files import records
from tests.conftest import ROOT

PARAMETERS = "conf/base/parameters_stage2.yml"
DVC_YAML = """\
stages:
  stage2:
    cmd: python src/make.py
    deps: [src/make.py]
    params:
      - conf/base/parameters_stage2.yml: [stage2]
    outs: [data/06_models/model]
    metrics:
      - results/headline.json: {cache: false}
  evaluation:
    cmd: python src/use.py
    deps: [data/06_models/model, src/use.py]
    outs: [data/07_model_output/answer.txt, data/07_model_output/evaluation_records.json]
"""
CATALOG = """\
stage2_model:
  type: umt_pipeline.datasets.FolderDataset
  filepath: data/06_models/model
  metadata: {mlflow: {model: stage2}}
stage2_metrics:
  type: umt_pipeline.datasets.JsonDataset
  filepath: results/headline.json
  metadata: {mlflow: {metrics: stage2}}
evaluation_evidence:
  type: umt_pipeline.datasets.TableDataset
  filepath: data/07_model_output/answer.txt
records:
  type: umt_pipeline.datasets.JsonDataset
  filepath: data/07_model_output/evaluation_records.json
"""
MAKE = """\
import json, pathlib, re
width = re.search(r"width: (\\d+)", pathlib.Path("conf/base/parameters_stage2.yml").read_text())[1]
pathlib.Path("data/06_models/model").mkdir(parents=True, exist_ok=True)
pathlib.Path("data/06_models/model/model.safetensors").write_text("model " + width)
pathlib.Path("results").mkdir(exist_ok=True)
pathlib.Path("results/headline.json").write_text(json.dumps({"t2v_r1": int(width)}))
"""
USE = f"""\
import hashlib, json, pathlib
model = pathlib.Path("data/06_models/model/model.safetensors").read_bytes()
record = json.loads({json.dumps(records()[0])!r})
record["protocol"]["checkpoint_sha256"] = hashlib.sha256(model).hexdigest()
pathlib.Path("data/07_model_output").mkdir(parents=True, exist_ok=True)
pathlib.Path("data/07_model_output/answer.txt").write_bytes(model[:5])
pathlib.Path("data/07_model_output/evaluation_records.json").write_text(json.dumps([record]))
"""
# Each notes how it was called. DEATH names a call that ends the caller instead.
UMT = """\
#!/bin/sh
echo "umt $*" >> "$CALLS"
if [ "$DEATH" = "$1" ]; then kill -9 $PPID; exit 1; fi
if [ "$1" = promote ]; then
  echo '{"verdict": "refused", "reason": "it is worse", "metrics": []}' > results/promotion_stage2.json
  exit 3
fi
"""
GH = """\
#!/bin/sh
echo "gh $1 $2" >> "$CALLS"
if [ "$DEATH" = "$2" ]; then kill -9 $PPID; exit 1; fi
case "$2" in
  list) if [ -f "$CALLS.pr" ]; then cat "$CALLS.pr"; else echo '[]'; fi;;
  create)
    echo '[{"url": "https://example.org/pull/1", "state": "OPEN"}]' > "$CALLS.pr"
    while [ "$1" != --body-file ]; do shift; done
    cp "$2" "$CALLS.body"
    echo https://example.org/pull/1;;
esac
"""


def git(folder: Path, *arguments: str) -> str:
    """Run git, and return what it prints."""
    command = ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def dvc(folder: Path, *arguments: str) -> None:
    """Run DVC."""
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, check=True, capture_output=True)


def programs(folder: Path) -> dict[str, str]:
    """Write the stand-ins, and return variables with which they are found; CALLS is where they note how they were called."""
    (folder / "bin").mkdir()
    for name, text in (("umt", UMT), ("gh", GH)):
        (folder / "bin" / name).write_text(text, encoding="utf-8")
        (folder / "bin" / name).chmod(0o755)
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    author = {f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {"PATH": path, "CALLS": str(folder / "calls"), "DEATH": "", **author}


def set_dvc_remote(project: Path, folder: Path) -> None:
    """Make a folder DVC's remote, in the configuration that git keeps."""
    config = project / ".dvc/config"
    text = config.read_text(encoding="utf-8").replace("[core]\n", "[core]\n    remote = kept\n")
    config.write_text(f"{text}['remote \"kept\"']\n    url = {folder}\n", encoding="utf-8")


def make_project(folder: Path) -> Path:
    """Make the project, never run, committed on ``main`` and pushed."""
    project = folder / "project"
    files = {
        "dvc.yaml": DVC_YAML,
        PARAMETERS: "stage2:\n  width: 1\n",
        "conf/base/parameters_gate.yml": "gate:\n  stage2: {}\n",
        "conf/base/globals.yml": "data: data\nresults: results\n",
        "conf/base/catalog.yml": CATALOG,
        "conf/local/.gitkeep": "",
        "conf/base/mlflow.yml": (ROOT / "conf/base/mlflow.yml").read_text(encoding="utf-8"),
        "src/make.py": MAKE,
        "src/use.py": USE,
    }
    for name, text in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text, encoding="utf-8")
    for name in (".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        (project / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, project / name)
    set_dvc_remote(project, folder / "kept")
    git(folder, "init", "-q", "--bare", "-b", "main", "origin.git")
    git(project, "init", "-q", "-b", "main")
    git(project, "remote", "add", "origin", str(folder / "origin.git"))
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "start")
    git(project, "push", "-q", "origin", "main")
    return project


def finish(project: Path) -> None:
    """Run the stages, and let everything be where others find it."""
    dvc(project, "repro")
    dvc(project, "push")
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "first results")
    git(project, "push", "-q", "origin", "main")


def clone(project: Path, name: str) -> Path:
    """Clone the project's remote beside it."""
    git(project.parent, "clone", "-q", str(project.parent / "origin.git"), name)
    return project.parent / name
