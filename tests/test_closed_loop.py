"""Data arrives, stages run, models are registered and judged, a pull request says so: in two clones, whatever dies on the way.

Everything is real but gh: git with a bare repository, DVC with a folder as its remote, MLflow's server on SQLite, which is
killed, kedro runs of the sizes of ``conf/ci``. Without network.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import yaml
from mlflow.exceptions import MlflowException

from tests.commands.small_project import GH, git, set_dvc_remote
from tests.project_copies import copy_project, edit, make_dvc_project
from tests.video_files import write_video

TRAIN, VALIDATION, TEST = 16, 4, 32
ALL = ["ingestion", "teacher_features", "stage1", "stage2", "retrieval", "evaluation"]
# What the gate looks at is made, and no more.
JUDGED = ("--stage", "evaluation")
GATE = """\
gate:
  stage2:
    metrics: {retrieval/test/stage2/dual/t2v_r1: 0.0}
    guards: {}
    confidence: 0.95
    resamples: 2000
    seed: 0
"""
# The real one, but that it ends its caller where DEATH says so.
UMT = """\
#!/bin/sh
if [ "$DEATH" = "$1" ]; then kill -9 $PPID; exit 1; fi
exec {python} -c 'from umt_pipeline.commands.main import main; main()' "$@"
"""


class Server:
    """MLflow's server on a database, at one address however often it is killed."""

    def __init__(self, folder: Path, database: str) -> None:
        self._folder, self._database, self._port = folder, database, free_port()
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, which takes seconds; see :meth:`wait`."""
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self._database, "--host", "127.0.0.1"]
        self._process = subprocess.Popen(
            [*command, "--port", str(self._port), "--workers", "1"],
            cwd=self._folder,
            # Else two processes beside it wait for jobs of MLflow's own, which nobody gives them.
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait(self) -> None:
        """Wait until it answers."""
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=1):
                    return
            except OSError:
                assert self._process.poll() is None, "the server ended"
                time.sleep(0.2)
        raise AssertionError("no server")

    def kill(self) -> None:
        """Kill it, with its workers."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def kill_when_training(self) -> None:
        """Kill it as soon as a run of stage 2 has begun."""
        client = mlflow.MlflowClient(tracking_uri=self._database)
        wanted = "attributes.status = 'RUNNING' and attributes.run_name = 'stage2'"
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            experiments = [experiment.experiment_id for experiment in client.search_experiments()]
            if client.search_runs(experiments, wanted, max_results=1):
                break
            time.sleep(0.2)
        self.kill()


class Loop:
    """Everything that the test plays with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.media, self.database = folder, folder / "media", f"sqlite:///{folder}/mlflow.db"
        self.server = Server(folder, self.database)
        # pandera imports hypothesis where there is one, a second in each of thirty processes. Users have none.
        (folder / "absent").mkdir()
        (folder / "absent/hypothesis.py").write_text("raise ImportError('as users have it')\n", encoding="utf-8")
        (folder / "bin").mkdir()
        for name, text in (("umt", UMT.format(python=sys.executable)), ("gh", GH)):
            (folder / "bin" / name).write_text(text, encoding="utf-8")
            (folder / "bin" / name).chmod(0o755)
        self.splits: dict[str, str] = {}
        self.first = self._first_clone()

    def run(self, clone: Path, *command: str, fine: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a clone, with that clone's code."""
        author = {f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        path = os.pathsep.join([str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {
            **os.environ, **author, "PATH": path, "PYTHONPATH": f"{clone / 'src'}{os.pathsep}{self.folder / 'absent'}",
            "MLFLOW_TRACKING_URI": self.server.address, "CALLS": str(self.folder / "calls"), "DEATH": "", **variables,
        }  # fmt: skip
        done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
        assert not fine or done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done

    def retrain(self, clone: Path, *options: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        return self.run(clone, "umt", "retrain", "mine", *options, **variables)

    def film(self, count: int, split: str) -> None:
        """Write clips of a split, with captions, into the folder that all clones read."""
        for number in range(len(self.splits), len(self.splits) + count):
            name = f"{number:03d}.mp4"
            write_video(self.media / name, num_frames=6, first_number=4 * number)
            self.splits[name] = split
        table = pd.DataFrame({"video": list(self.splits), "set": list(self.splits.values())})
        table.assign(caption=[f"bars of {name[:-4]}" for name in table["video"]]).to_csv(self.captions, index=False)

    @property
    def captions(self) -> Path:
        return self.folder / "captions.csv"

    def _first_clone(self) -> Path:
        project = make_dvc_project(copy_project(self.folder))
        (project / "conf/local/.gitkeep").touch()
        set_dvc_remote(project, self.folder / "kept")
        for count, split in ((TRAIN, "train"), (VALIDATION, "validation"), (TEST, "test")):
            self.film(count, split)
        tables = ["--captions", str(self.captions), "--splits", f"{self.captions}:set"]
        self.run(project, "umt", "init", "mine", "--videos", str(self.media), *tables, "--like", "ci")
        (project / "conf/mine/parameters_gate.yml").write_text(GATE, encoding="utf-8")
        for stage in ("stage1", "stage2"):
            # It loads the teacher, which takes as long as all the rest of a stage of this size.
            edit(project / f"conf/mine/parameters_{stage}.yml", "verify: 0.01", "verify: 0")
        edit(project / "conf/mine/parameters_stage2.yml", "control: true", "control: false")
        git(self.folder, "init", "-q", "--bare", "-b", "main", "origin.git")
        git(project, "remote", "add", "origin", str(self.folder / "origin.git"))
        git(project, "add", "-A")
        git(project, "commit", "-q", "-m", "corpus")
        git(project, "push", "-q", "origin", "main")
        # Tables of the corpus; the media stay where they are.
        self.run(project, "dvc", "push")
        return project

    def clone(self, name: str) -> Path:
        git(self.folder, "clone", "-q", str(self.folder / "origin.git"), name)
        return self.folder / name

    def merge(self, clone: Path) -> None:
        """Merge the branch of a retraining, as somebody does who has read the pull request."""
        branch = git(clone, "symbolic-ref", "--short", "HEAD")
        git(clone, "switch", "-q", "main")
        git(clone, "merge", "-q", "--no-ff", "-m", f"Merge {branch}", branch)
        git(clone, "push", "-q", "origin", "main")
        (self.folder / "calls.pr").unlink(missing_ok=True)  # it is merged: the next one is another

    def version(self, alias: str) -> str | None:
        client = mlflow.MlflowClient(tracking_uri=self.database, registry_uri=self.database)
        try:
            return str(client.get_model_version_by_alias("mine_stage2", alias).version)
        except MlflowException:
            return None

    def verdict(self, clone: Path) -> dict[str, Any]:
        return json.loads((clone / "corpora/mine/results/promotion_stage2.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    loop = Loop(tmp_path)
    loop.server.wait()
    yield loop
    loop.server.kill()


def ran(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the stages that DVC ran, in order."""
    return re.findall(r"Running stage '(?:corpora/mine/dvc\.yaml:)?(\w+)'", done.stdout)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_the_loop_closes(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", loop.database)

    # The first retraining makes the first model, which becomes the champion: there is nobody to beat.
    done = loop.retrain(loop.first)
    assert ran(done) == ALL
    assert (loop.version("champion"), loop.version("challenger")) == ("1", "1")
    assert loop.verdict(loop.first)["verdict"] == "promoted"
    assert "**stage2: promoted.**" in (loop.folder / "calls.body").read_text(encoding="utf-8")
    loop.merge(loop.first)

    # In another clone nothing is due, and that is known without data.
    second = loop.clone("second")
    assert json.loads(loop.run(second, "umt", "status", "--due").stdout) == []

    # Three clips arrive: every stage that the evaluation needs reads clips or what was made of them, and is run again; search
    # by a fine-tuned model is not asked for. The tracking server is killed while stage 2 trains; all stages succeed, and
    # nothing is proposed that is not registered.
    loop.film(3, "train")
    loop.run(second, "dvc", "pull", "-R", "data/mine")
    loop.run(second, "umt", "update", "mine", "--captions", str(loop.captions), "--splits", f"{loop.captions}:set")
    killer = threading.Thread(target=loop.server.kill_when_training)
    killer.start()
    done = loop.retrain(second, *JUDGED, fine=False)
    killer.join()
    assert done.returncode == 1, (done.stdout + done.stderr)[-6000:]
    assert ran(done) == [stage for stage in ALL if stage != "retrieval"], "all have succeeded"
    assert "umt register" in done.stderr
    assert loop.version("challenger") == "1"

    # When the server is back, the same command fills in what is missing: the model is registered. It is killed before the
    # model is judged; another one trains nothing, and finishes the job. The gate cannot tell models that know nothing apart.
    loop.server.start()
    done = loop.retrain(second, *JUDGED, fine=False, DEATH="promote")
    assert done.returncode == -signal.SIGKILL
    assert ran(done) == []
    assert loop.version("challenger") == "2"
    assert not (second / "corpora/mine/results/promotion_stage2.json").read_text().count("cannot_be_told")
    done = loop.retrain(second, *JUDGED)
    assert ran(done) == []
    assert (loop.version("champion"), loop.version("challenger")) == ("1", "2"), "a model that is merely lucky is not promoted"
    assert loop.verdict(second)["verdict"] in ("cannot_be_told", "refused")
    tables = pd.read_parquet(second / "data/mine/03_primary/videos.parquet")
    assert len(tables) == TRAIN + VALIDATION + TEST + 3
    loop.merge(second)

    # A worse one: stage 2 learns nothing.
    worse = ("--set", "conf/mine/parameters_stage2.yml:stage2.train.lr=2.0e-05")
    assert ran(loop.retrain(second, *worse, *JUDGED)) == ["stage2", "evaluation"]
    assert (loop.version("champion"), loop.version("challenger")) == ("1", "3")
    assert loop.verdict(second)["verdict"] in ("cannot_be_told", "refused")
    calls = (loop.folder / "calls").read_text(encoding="utf-8")
    assert calls.count("gh pr create") == 3, "one pull request for each retraining"

    # What the registry has says where it comes from, and a run can be had again.
    version = mlflow.MlflowClient(tracking_uri=loop.database).get_model_version_by_alias("mine_stage2", "champion")
    assert git(second, "cat-file", "-t", version.tags["git.commit"]) == "commit"
    lock = yaml.safe_load((second / "corpora/mine/dvc.lock").read_text(encoding="utf-8"))
    made = {out["path"]: out["md5"] for out in lock["stages"]["stage2"]["outs"]}
    challenger = mlflow.MlflowClient(tracking_uri=loop.database).get_model_version_by_alias("mine_stage2", "challenger")
    assert challenger.tags["dvc.md5"] == made["data/mine/06_models/stage2"]
