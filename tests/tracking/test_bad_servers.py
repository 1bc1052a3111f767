"""No server that is dead, silent, locked or full makes a run fail, wait for long, or say it more than once."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.tracking.toy import HELD, STEPS, Ran, finish, free_port, make_project, results, run, start, stub_server

# What tracking may cost, in all.
MOST_S = 30.0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Ran]:
    """Results of a run that nothing went wrong in."""
    project = make_project(tmp_path_factory.mktemp("undisturbed"))
    MlflowClient(f"sqlite:///{project}/mlflow.db").search_experiments()  # makes it, which takes long on a busy machine
    ran = run(project, f"sqlite:///{project}/mlflow.db")
    assert (ran.code, ran.warnings) == (0, []), ran.log
    return results(project), ran


def assert_unharmed(
    project: Path, ran: Ran, undisturbed: tuple[dict[str, str], Ran], also_s: float = 0.0, warns: bool = True
) -> None:
    expected, other = undisturbed
    assert ran.code == 0, ran.log
    assert results(project) == expected
    assert ran.seconds < other.seconds + also_s + MOST_S
    if not warns:
        assert ran.warnings == []
        return
    (warning,) = ran.warnings
    assert "The run goes on without it" in warning
    assert "`umt track` sends what is missing" in warning


@pytest.mark.slow
def test_nobody_is_there(tmp_path: Path, undisturbed: tuple[dict[str, str], Ran]) -> None:
    project = make_project(tmp_path)
    ran = run(project, f"http://127.0.0.1:{free_port()}")
    assert_unharmed(project, ran, undisturbed)
    assert ran.seconds < undisturbed[1].seconds + 10.0, "a refused connection is known at once"


@pytest.mark.slow
def test_a_database_that_cannot_be_opened(tmp_path: Path, undisturbed: tuple[dict[str, str], Ran]) -> None:
    project = make_project(tmp_path)
    (tmp_path / "mlflow.db").write_text("this is no database, but it is long enough to be taken for one" * 100)
    assert_unharmed(project, run(project, f"sqlite:///{tmp_path}/mlflow.db"), undisturbed)


@pytest.mark.slow
def test_a_server_that_never_answers(tmp_path: Path, undisturbed: tuple[dict[str, str], Ran]) -> None:
    project = make_project(tmp_path)
    with stub_server(tmp_path / "artifacts", 10**6) as stub:
        stub.silent.set()
        assert_unharmed(project, run(project, stub.uri), undisturbed)


@pytest.mark.slow
def test_a_server_that_stops_to_answer_in_the_middle(tmp_path: Path, undisturbed: tuple[dict[str, str], Ran]) -> None:
    project = make_project(tmp_path)
    with stub_server(tmp_path / "artifacts", 3) as stub:
        ran = run(project, stub.uri, pause=0.1)
        assert_unharmed(project, ran, undisturbed, also_s=0.1 * STEPS)
        assert "runs/create" in stub.calls


@pytest.mark.slow
def test_a_locked_database(tmp_path: Path, undisturbed: tuple[dict[str, str], Ran]) -> None:
    project, file = make_project(tmp_path), tmp_path / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").create_experiment("umt_pipeline")
    with sqlite3.connect(file, isolation_level=None) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        assert_unharmed(project, run(project, f"sqlite:///{file}"), undisturbed)
        holder.execute("ROLLBACK")


@pytest.mark.slow
def test_a_full_disk_under_the_database(tmp_path: Path, undisturbed: tuple[dict[str, str], Ran]) -> None:
    """SQLite takes a limit on the size of files for a full disk: that of this run is the database as it is."""
    project, file = make_project(tmp_path), tmp_path / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").create_experiment("umt_pipeline")
    limited = f"ulimit -f {file.stat().st_size // 1024} && exec {sys.executable} -m kedro run --pipelines train"
    began = time.monotonic()
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{file}", "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        ["bash", "-c", f"trap '' XFSZ; {limited}"],
        cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    ran = finish(process, began)
    assert ran.code == 0, ran.log
    assert results(project) == undisturbed[0]
    assert ran.log.count("umt track") == 1


def mlflow_server(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """A real server in a process group of its own, which answers."""
    database = f"sqlite:///{folder}/server.db"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--artifacts-destination", str(folder / "kept")]
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    ended = time.monotonic() + 90
    while time.monotonic() < ended:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return server
        except OSError:
            time.sleep(0.2)
    raise AssertionError((folder / "server.log").read_text()[-2000:])


def kill(server: subprocess.Popen[bytes]) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def losses(client: MlflowClient) -> tuple[str, list[int]]:
    """Status of the one run, and the steps at which it has a loss; "" without a run."""
    experiment = client.get_experiment_by_name("umt_pipeline")
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    if not found:
        return "", []
    steps = [metric.step for metric in client.get_metric_history(found[0].info.run_id, "train/loss")]
    return str(found[0].info.status), sorted(steps)


@pytest.mark.slow
@pytest.mark.parametrize("comes_back", [False, True])
def test_a_server_killed_in_the_middle_of_training(
    tmp_path: Path, undisturbed: tuple[dict[str, str], Ran], comes_back: bool
) -> None:
    project, port = make_project(tmp_path / "project"), free_port()
    uri = f"http://127.0.0.1:{port}"
    client, server = MlflowClient(uri), mlflow_server(tmp_path, port)
    try:
        training = start(project, uri, "train.hold=true")
        while len(losses(client)[1]) < HELD:
            assert training.poll() is None, training.communicate()
            time.sleep(0.2)
        kill(server)
        if comes_back:
            server = mlflow_server(tmp_path, port)
        began = time.monotonic()
        (project / "go_on").touch()
        assert_unharmed(project, finish(training, began), undisturbed, warns=not comes_back)
        if not comes_back:
            server = mlflow_server(tmp_path, port)
        status, steps = losses(client)
        assert (status, steps) == ("FINISHED" if comes_back else "RUNNING", list(range(1, (STEPS if comes_back else HELD) + 1)))
    finally:
        kill(server)
