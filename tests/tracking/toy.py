"""A Kedro project that trains something in a moment or, on demand, for seconds; and servers that do not behave."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

STEPS = 40
HELD = 10  # the step that a held training waits behind, for a file `go_on`
FILES = {
    "pyproject.toml": """
        [tool.kedro]
        package_name = "toy"
        project_name = "toy"
        kedro_init_version = "1.7.0"
        source_dir = "src"
        """,
    "conf/base/parameters.yml": "train: {lr: 0.1, pause: 0.0, hold: false}\nseed: 3",
    "conf/base/catalog.yml": """
        workspace:
          type: umt_pipeline.datasets.WorkspaceDataset
          filepath: data/.checkpoints
        model:
          type: umt_pipeline.datasets.FolderDataset
          filepath: data/model
          metadata: {mlflow: {model: toy}}
        train_history:
          type: umt_pipeline.datasets.TableDataset
          filepath: results/train_history.csv
          metadata: {mlflow: {history: train, artifact: history}}
        scores:
          type: umt_pipeline.datasets.JsonDataset
          filepath: results/scores.json
          metadata: {mlflow: {metrics: scores, artifact: reports}}
        """,
    "src/toy/__init__.py": "",
    "src/toy/settings.py": "from umt_pipeline.settings import *",
    "src/toy/pipeline_registry.py": f"""
        import time
        from pathlib import Path
        import pandas as pd
        from kedro.pipeline import Node, Pipeline
        from umt_pipeline.tracking import metric_logger

        def train(params: dict, seed: int) -> tuple:
            log_row = metric_logger("train")
            rows = [{{"step": step, "loss": 1 / step, "lr": params["lr"]}} for step in range(1, {STEPS + 1})]
            for row in rows:
                log_row(row)
                time.sleep(params["pause"])
                while params["hold"] and row["step"] == {HELD} and not Path("go_on").exists():
                    time.sleep(0.05)
            folder = Path("staged")
            folder.mkdir(exist_ok=True)
            (folder / "model.safetensors").write_text(str(params["lr"]))
            return folder, pd.DataFrame(rows), {{"accuracy": {{"top1": 50.0}}}}

        def register_pipelines() -> dict:
            node = Node(train, ["params:train", "params:seed"], ["model", "train_history", "scores"])
            return {{"__default__": Pipeline([node]), "train": Pipeline([node])}}
        """,
}


def make_project(folder: Path) -> Path:
    """Write the project into a new folder."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text).strip() + "\n", encoding="utf-8")
    (folder / "conf" / "base" / "mlflow.yml").write_text((ROOT / "conf" / "base" / "mlflow.yml").read_text(encoding="utf-8"))
    (folder / "conf" / "local").mkdir()
    return folder


@dataclass
class Ran:
    """A finished `kedro run`."""

    code: int
    seconds: float
    log: str

    @property
    def warnings(self) -> list[str]:
        """What was warned of tracking; a traceback would be in it too."""
        words = ("WARNING", "ERROR", "Traceback")
        return [line for line in self.log.splitlines() if any(word in line for word in words)]


def start(project: Path, uri: str, params: str) -> subprocess.Popen[str]:
    """Start `kedro run`."""
    plain = {"KEDRO_LOGGING_CONFIG": str(ROOT / "conf" / "logging.yml"), "MLFLOW_TRACKING_URI": uri, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "kedro", "run", "--pipelines", "train", "--params", params]
    return subprocess.Popen(
        command, cwd=project, env={**os.environ, **plain}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str], began: float) -> Ran:
    """Wait for a run."""
    log, _ = process.communicate(timeout=120)
    return Ran(process.returncode, time.monotonic() - began, log)


def run(project: Path, uri: str, pause: float = 0.0) -> Ran:
    """Start `kedro run` and wait for it."""
    began = time.monotonic()
    return finish(start(project, uri, f"train.pause={pause}"), began)


def results(project: Path) -> dict[str, str]:
    """The files that count."""
    files = [project / "data/model/model.safetensors", *sorted((project / "results").iterdir())]
    return {file.name: file.read_text(encoding="utf-8") for file in files}


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Stub:
    """An MLflow server that takes what it is sent, until it was sent so many batches: then it does not answer any more."""

    batches_until_silent: int
    uri: str = ""
    calls: list[str] = field(default_factory=list)
    silent: threading.Event = field(default_factory=threading.Event)


@contextmanager
def stub_server(folder: Path, batches_until_silent: int) -> Iterator[Stub]:
    """Serve, with artifacts in a folder."""
    stub, ending = Stub(batches_until_silent), threading.Event()
    info = {"run_id": "a" * 32, "run_uuid": "a" * 32, "experiment_id": "1", "status": "RUNNING", "start_time": 1}
    info |= {"artifact_uri": folder.as_uri(), "lifecycle_stage": "active"}
    answers: dict[str, Any] = {
        "experiments/get-by-name": {"experiment": {"experiment_id": "1", "name": "toy", "lifecycle_stage": "active"}},
        "runs/create": {"run": {"info": info, "data": {}}},
        "runs/get": {"run": {"info": info, "data": {}}},
    }

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            call = self.path.partition("/mlflow/")[2].partition("?")[0]
            stub.calls.append(call)
            if stub.calls.count("runs/log-batch") > batches_until_silent:
                stub.silent.set()
            if stub.silent.is_set():
                ending.wait(60)
                return
            body = json.dumps(answers.get(call, {})).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _answer

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stub.uri = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield stub
    finally:
        ending.set()
        server.shutdown()
        server.server_close()
