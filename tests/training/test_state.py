"""Checkpoints that are whole or not there."""

import errno
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from umt_pipeline.core.errors import CheckpointError, TrainingError
from umt_pipeline.core.files import sha256_folder
from umt_pipeline.training import state
from umt_pipeline.training.state import CheckpointInfo, Keep


def _model() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def _save(run_dir: Path, step: int, keep: Keep = Keep()) -> Path:  # noqa: B008  # frozen
    model, optimizer = _model()
    return state.save_checkpoint(run_dir, model, optimizer, None, CheckpointInfo(step, "run", 10, 1.5), keep)


def _names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoint").iterdir())


def test_round_trip(tmp_path: Path) -> None:
    folder = _save(tmp_path, 4)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    info = state.load_checkpoint(folder, model, optimizer, None, samples=10)
    expected_model, expected = _model()
    assert info == CheckpointInfo(4, "run", 10, 1.5)
    assert torch.equal(model.weight, expected_model.get_parameter("weight"))
    moments = [o.state[o.param_groups[0]["params"][0]]["exp_avg"] for o in (optimizer, expected)]
    assert torch.equal(*moments)


def test_newest_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        _save(tmp_path, step, Keep(2))
    assert _names(tmp_path) == ["step-00000010", "step-00000015"]
    assert state.newest_checkpoint(tmp_path) == tmp_path / "checkpoint" / "step-00000015"


def test_every_so_many_steps_a_checkpoint_is_kept_for_good(tmp_path: Path) -> None:
    keep = Keep(1, every=10)
    for step in (5, 10, 13, 15, 20, 25):
        _save(tmp_path, step, keep)
    assert _names(tmp_path) == ["step-00000010", "step-00000020", "step-00000025"]
    state.save_final(tmp_path, nn.Linear(3, 2), None, "run", (30, 1.0), keep)
    assert _names(tmp_path) == ["step-00000010", "step-00000020"]
    state.save_final(tmp_path, nn.Linear(3, 2), None, "run", (30, 1.0), Keep())
    assert not (tmp_path / "checkpoint").exists()


def test_another_machine_waits_until_it_sees_the_same_checkpoint(tmp_path: Path) -> None:
    folder, late = _save(tmp_path / "a", 5), tmp_path / "b"
    sha256 = sha256_folder(folder)
    state.await_same(folder, sha256, 0.0)
    with pytest.raises(CheckpointError, match=r"step-00000005 on .*: expected .* found nothing after 0\.1 sec.*machines share"):
        state.await_same(late / folder.name, sha256, 0.1)
    arrival = threading.Timer(0.3, shutil.copytree, (folder, late / folder.name))
    arrival.start()
    state.await_same(late / folder.name, sha256, 30.0)
    arrival.join()
    (folder / "checkpoint.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"found [0-9a-f]{12} after"):
        state.await_same(folder, sha256, 0.1)


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(state.fcntl, "lockf", refuse)
    with state.run_lock(tmp_path):
        assert "has no locks" in caplog.text


@pytest.mark.slow
def test_a_full_disk_is_named_and_the_older_checkpoint_stays(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from tests.training.test_state import _save\n"
        "_save(Path(sys.argv[1]), 5); resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900)); _save(Path(sys.argv[1]), 10)"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "TrainingError" in ran.stderr, ran.stderr
    assert "step-00000010: cannot be written" in ran.stderr
    assert "make room" in ran.stderr
    assert _names(tmp_path) == ["step-00000005"]


def test_failure_while_writing_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(tmp_path, 5)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match=r"step-00000010: cannot be written: no space .* make room"):
        _save(tmp_path, 10)
    assert _names(tmp_path) == ["step-00000005"]


def test_preparing_removes_remains_and_cuts_the_history(tmp_path: Path) -> None:
    _save(tmp_path, 5)
    (tmp_path / "checkpoint" / ".step-00000010.77.part").mkdir()
    (tmp_path / ".final.77.part").mkdir()
    for step in (4, 5, 6):
        state.append_row(tmp_path, {"step": step})
    with state.history_path(tmp_path).open("a") as handle:
        handle.write('{"step": 7, "lo')
    assert state.prepare(tmp_path, "run") == [{"step": 4}, {"step": 5}]
    assert state.history_path(tmp_path).read_text().splitlines() == ['{"step": 4}', '{"step": 5}']
    assert _names(tmp_path) == ["step-00000005"]
    assert not (tmp_path / ".final.77.part").exists()


def test_preparing_removes_a_half_written_row_behind_whole_ones(tmp_path: Path) -> None:
    _save(tmp_path, 5)
    state.append_row(tmp_path, {"step": 5})
    with state.history_path(tmp_path).open("a") as handle:
        handle.write('{"step": 6, "lo')
    state.prepare(tmp_path, "run")
    state.append_row(tmp_path, {"step": 6})
    assert state.read_history(tmp_path) == [{"step": 5}, {"step": 6}]


def test_preparing_without_a_checkpoint_starts_over(tmp_path: Path) -> None:
    state.append_row(tmp_path, {"step": 4})
    assert state.prepare(tmp_path, "run") == []
    assert state.read_history(tmp_path) == []


def test_damaged_or_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    folder = _save(tmp_path, 5)
    optimizer = torch.optim.AdamW(nn.Linear(3, 2).parameters())
    with pytest.raises(CheckpointError, match="size mismatch"):
        state.load_checkpoint(folder, nn.Linear(4, 2), optimizer, None, 10)
    with pytest.raises(CheckpointError, match="10 samples, the data set now has 11"):
        state.load_checkpoint(folder, nn.Linear(3, 2), optimizer, None, 11)
    for name in ("optimizer.pt", "model.safetensors", "checkpoint.json"):
        (folder / name).write_bytes((folder / name).read_bytes()[:20])
        with pytest.raises(CheckpointError, match="delete"):
            state.load_checkpoint(folder, nn.Linear(3, 2), optimizer, None, 10)


def test_tied_weights_are_written_under_both_names(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    model["b"].weight = model["a"].weight
    state.save_final(tmp_path, model, None, "run", (1, 0.0), Keep())
    assert set(state.load_file(state.final_weights(tmp_path))) == {"a.weight", "b.weight"}


def test_lock_of_a_living_process(tmp_path: Path) -> None:
    code = (
        "import fcntl, os, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print(os.getpid(), file=file, flush=True); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=-1, stdout=-1) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(TrainingError, match=f"process {holder.pid}"), state.run_lock(tmp_path):
            pass
        holder.kill()
        holder.wait()
    with state.run_lock(tmp_path):
        pass
