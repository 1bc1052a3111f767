"""Two machines of two ranks each: the same training as one process, whatever dies in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machines import Machine, free_port, two_machines, wait_until
from toy_tasks import ToySpec

from umt_pipeline.core.files import write_json
from umt_pipeline.core.identity import IDENTITY_FILE
from umt_pipeline.training import launch, state
from umt_pipeline.training.spec import write_spec
from umt_pipeline.training.stopping import INTERRUPTED_STATUS

Cluster = tuple[Machine, Machine]
EXACT = {"dropout": 0.0, "noise": 0.0}
COLUMNS = ("step", "loss", "absolute", "grad_norm", "lr")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with two_machines(tmp_path) as machines:
        yield machines


def make_run(folder: Path, toy: dict[str, Any] | None = None, **train: Any) -> ToySpec:
    """Write down a run of 40 steps, of at least 2 s."""
    settings = {"steps": 40, "batch_size": 8, "lr": 0.01, "log_every": 1, "checkpoint_every": 5, "timeout": 60}
    here = {"device": "cpu", "precision": "fp32"}
    spec = ToySpec.model_validate({"train": {**settings, **here, **train}, "seed": 1, **EXACT, "pause": 0.05, **(toy or {})})
    write_json(folder / IDENTITY_FILE, spec.identity().as_json())
    write_spec(folder / launch.SPEC_FILE, spec)
    return spec


# A machine whose endpoint is gone waits so long for it to come back, and asks so often.
BRIEFLY = "join_timeout=50,read_timeout=10"


def start(
    cluster: tuple[Machine, ...], folder: Path, port: int, *more: str, ranks: int = 2, nodes: str = "2",
    waiting: str = "join_timeout=120",
) -> None:  # fmt: skip
    endpoint = f"{cluster[0].address}:{port}"
    arguments = ["--nnodes", nodes, "--nproc-per-node", str(ranks), "--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint]
    for machine in cluster:
        own = ["--rdzv-id", folder.name, *more]
        own += ["--rdzv-conf", f"is_host={machine is cluster[0]},{waiting}"] if "--rdzv-conf" not in more else []
        machine.start(folder / launch.SPEC_FILE, [*arguments, *own])


def steps(folder: Path) -> int:
    return len(state.read_history(folder))


def require_same_losses(folder: Path, spec: ToySpec, other: Path) -> None:
    """Fail unless the run is finished and equals the one of a single process."""
    alone = launch.run(spec.model_copy(update={"pause": 0.0}), other).result.history
    found = {row["step"]: row for row in state.read_history(folder)}
    assert sorted(found) == [row["step"] for row in alone]
    for row in alone:
        assert [found[row["step"]][name] for name in COLUMNS] == pytest.approx([row[name] for name in COLUMNS], rel=1e-5)
    assert state.final_weights(folder).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("dying", [1, 0], ids=["another", "the one of the endpoint"])
def test_two_machines_train_to_the_losses_of_one_process_though_one_dies_and_comes_back(
    cluster: Cluster, tmp_path: Path, dying: int
) -> None:
    folder, port = tmp_path / "run", free_port()
    spec = make_run(folder)
    start(cluster, folder, port, "--max-restarts", "3")
    wait_until(lambda: steps(folder) >= 12, cluster)
    cluster[dying].kill()
    before = steps(folder)
    endpoint = f"{cluster[0].address}:{port}"
    again = ["--nnodes", "2", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint]
    again += ["--rdzv-id", "run", "--max-restarts", "3", "--rdzv-conf", f"is_host={dying == 0}"]
    cluster[dying].start(folder / launch.SPEC_FILE, again)
    assert [machine.wait(180) for machine in cluster] == [0, 0], cluster[0].said()[-3000:]
    assert before < 40
    assert "resumed from step" in cluster[dying].said()
    require_same_losses(folder, spec, tmp_path / "alone")


@pytest.mark.slow
def test_a_signal_to_one_machine_stops_all_and_another_number_of_ranks_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    spec = make_run(folder, checkpoint_every=1000, device_batch=2)
    start(cluster, folder, free_port())
    wait_until(lambda: steps(folder) >= 10, cluster)
    assert cluster[1].process is not None
    cluster[1].process.send_signal(signal.SIGUSR1)
    assert [machine.wait(120) for machine in cluster] == [INTERRUPTED_STATUS] * 2, cluster[0].said()[-3000:]
    stopped = steps(folder)
    assert state.newest_checkpoint(folder) == folder / "checkpoint" / f"step-{stopped:08d}", "no step is lost"
    assert stopped < 40
    start(cluster[:1], folder, free_port(), ranks=3, nodes="1")
    assert cluster[0].wait(120) == 0, cluster[0].said()[-3000:]
    assert "3 process(es)" in cluster[0].said()
    require_same_losses(folder, spec, tmp_path / "alone")


@pytest.mark.slow
def test_a_killed_rank_is_started_again_with_all_others(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    spec = make_run(folder)
    start(cluster, folder, free_port(), "--max-restarts", "2", ranks=1)
    wait_until(lambda: steps(folder) >= 8, cluster)
    os.kill(cluster[1].ranks()[0], signal.SIGKILL)
    assert [machine.wait(180) for machine in cluster] == [0, 0], cluster[0].said()[-3000:]
    require_same_losses(folder, spec, tmp_path / "alone")


@pytest.mark.slow
def test_a_frozen_rank_ends_the_run_with_what_to_do(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_run(folder, timeout=5)
    start(cluster, folder, free_port(), ranks=1, waiting=BRIEFLY)
    wait_until(lambda: steps(folder) >= 3, cluster)
    frozen = cluster[1].ranks()[0]
    os.kill(frozen, signal.SIGSTOP)
    assert cluster[0].wait(120) == 1
    assert "lost the others" in cluster[0].said()
    assert "did not answer within `timeout: 5` seconds" in cluster[0].said()
    os.kill(frozen, signal.SIGCONT)
    assert cluster[1].wait(120) == 1


@pytest.mark.slow
def test_a_cut_link_that_is_mended_costs_only_time(cluster: Cluster, tmp_path: Path) -> None:
    if cluster[0].namespace is None:
        pytest.skip("no network namespaces here: ip netns needs root")
    folder = tmp_path / "run"
    spec = make_run(folder, timeout=5)
    start(cluster, folder, free_port(), "--max-restarts", "5", ranks=1)
    wait_until(lambda: steps(folder) >= 8, cluster)
    cluster[1].cut(True)
    wait_until(lambda: "lost the others" in cluster[0].said(), cluster)
    cluster[1].cut(False)
    statuses = [machine.wait(240) for machine in cluster]
    assert statuses == [0, 0], cluster[0].said()[-3000:] + cluster[1].said()[-3000:]
    require_same_losses(folder, spec, tmp_path / "alone")


@pytest.mark.slow
def test_a_machine_that_waits_in_vain_says_where_and_who_came(cluster: Cluster, tmp_path: Path) -> None:
    folder, port = tmp_path / "run", free_port()
    make_run(folder)
    start(cluster[:1], folder, port, "--rdzv-conf", "is_host=true,join_timeout=5")
    assert cluster[0].wait(60) == 1
    said = cluster[0].said()
    assert f"the rendezvous at {cluster[0].address}:{port} did not complete within" in said
    assert "expected 2 machines of run 'run', came: " in said
    assert said.count("(since ") == 1


@pytest.mark.slow
def test_a_full_disk_ends_all_ranks_and_names_the_file(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60k", "tmpfs", str(folder)], check=False).returncode == 0
    if not mounted:
        pytest.skip("no small file system here: mount needs root")
    try:
        make_run(folder, {"pause": 0.0}, checkpoint_every=2, keep=1000)
        start(cluster, folder, free_port(), "--max-restarts", "1", ranks=1, waiting=BRIEFLY)
        assert {machine.wait(180) for machine in cluster} == {1}
        said = "".join(machine.said() for machine in cluster)
        assert "cannot be written" in said
        assert "make room" in said
        assert state.newest_checkpoint(folder) is not None
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_machines_with_other_data_are_told_apart(cluster: Cluster, tmp_path: Path) -> None:
    """The second machine has a spec with other rows: as if its disk held another version of them."""
    folder, other = tmp_path / "run", tmp_path / "other"
    make_run(folder)
    make_run(other, {"content": "other rows", "size": 41})
    port = free_port()
    for machine, where in zip(cluster, (folder, other), strict=True):
        conf = f"is_host={machine is cluster[0]},{BRIEFLY}"
        arguments = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "x", "--rdzv-conf", conf]
        machine.start(where / launch.SPEC_FILE, [*arguments, "--rdzv-endpoint", f"{cluster[0].address}:{port}"])
    assert [machine.wait(180) for machine in cluster] == [1, 1], cluster[1].said()[-3000:]
    for machine in cluster:
        assert "do not train the same run" in machine.said()
        assert "rows has other content" in machine.said()
        assert "size: 40 became 41" in machine.said() or "size: 41 became 40" in machine.said()


@pytest.mark.slow
def test_plain_torchrun_attaches_too(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    spec = make_run(folder, {"pause": 0.0})
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", f"localhost:{free_port()}", "-m", "umt_pipeline.training.launch", str(folder / "spec.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    require_same_losses(folder, spec, tmp_path / "alone")
