"""What processes agree on, in this process alone, and between two threads' worth of processes."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
import torch.distributed as dist

from umt_pipeline.core.errors import ConfigError, TrainingError
from umt_pipeline.training.peers import Peers, lost_peers_named


def test_a_process_by_itself_agrees_with_itself() -> None:
    peers = Peers(1.0)
    assert (peers.rank, peers.world) == (0, 1)
    assert peers.gather("a") == ["a"]
    assert peers.decided_by_first(lambda: 3) == 3
    assert [peers.agree_to_stop(wish) for wish in (False, True)] == [False, True]
    peers.meet()


def _refuse() -> int:
    raise ConfigError("not so")


def _break() -> int:
    raise OSError("the disk is gone")


def _talk(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    peers = Peers(60.0)
    assert peers.gather(rank * 10) == [0, 10]
    assert peers.decided_by_first(lambda: f"by {rank}") == "by 0"
    with pytest.raises(ConfigError, match="not so"):
        peers.decided_by_first(_refuse if rank == 0 else lambda: 1)
    with pytest.raises(OSError if rank == 0 else TrainingError, match="the disk is gone"):
        peers.decided_by_first(_break if rank == 0 else lambda: 1)
    # The wish of the second process at its third step is known to both after the fourth.
    wishes = [False, False, rank == 1, False, False]
    assert [peers.agree_to_stop(wish) for wish in wishes] == [False, False, False, True, False]
    peers.meet()
    (folder / f"done{rank}").touch()
    os._exit(0)


def test_two_processes_agree(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_talk, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert {path.name for path in tmp_path.glob("done*")} == {"done0", "done1"}


def test_a_lost_process_is_named_in_plain_words() -> None:
    said = pytest.raises(TrainingError, match=r"process 3 of 8 on node7 lost the others.*timeout: 600` seconds.*gloo")
    with said, lost_peers_named(3, 8, "node7", 600.0):
        raise RuntimeError("[../third_party/gloo/pair.cc:545] Connection closed by peer")
    with pytest.raises(RuntimeError, match="size mismatch"), lost_peers_named(0, 2, "node7", 600.0):
        raise RuntimeError("size mismatch")
