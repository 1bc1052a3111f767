"""Order of samples and their delivery."""

import multiprocessing
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_tasks import ToyTask, make_toy

from tests.processes import descendants, is_running, wait_until
from umt_pipeline.core.errors import ConfigError, TrainingError
from umt_pipeline.data.samples import Corpus
from umt_pipeline.training.sampler import BatchReader, Loader, MicroBatch, Sampler, needed_pieces

SIZES = st.integers(8, 60)
BATCHES = st.integers(8, 20)
SEEDS = st.integers(0, 2**63)


@given(SIZES, BATCHES, SEEDS, st.integers(0, 5))
def test_each_sample_at_most_once_per_epoch(size: int, batch: int, seed: int, epoch: int) -> None:
    sampler = Sampler(size, batch, seed)
    used = sampler.order(epoch).flatten().tolist()
    assert len(set(used)) == len(used) == sampler.steps_per_epoch * min(batch, size)
    assert set(used) <= set(range(size))


@given(SIZES, BATCHES, SEEDS, st.integers(1, 4), st.integers(1, 2), st.integers(0, 30))
def test_ranks_and_micro_batches_make_up_the_global_batch(
    size: int, batch: int, seed: int, world: int, accumulate: int, step: int
) -> None:
    shares = [Sampler(size, batch, seed, rank, world, accumulate).micro_batches(step) for rank in range(world)]
    assert all(len(share) == accumulate for share in shares)
    indices, passes, _ = Sampler(size, batch, seed).global_batch(step)
    for number, piece in enumerate(np.array_split(indices, accumulate)):
        joined = np.concatenate([share[number].indices_B for share in shares])
        np.testing.assert_array_equal(joined, piece, "a piece is the same for any number of ranks")
    assert set(passes.tolist()) == {step // Sampler(size, batch, seed).steps_per_epoch}, "one corpus: a pass is an epoch"


@pytest.mark.parametrize(("world", "pieces"), [(1, 8), (2, 4), (3, 3), (4, 2), (8, 1), (64, 1)])
def test_fewer_ranks_compute_a_step_in_more_pieces(world: int, pieces: int) -> None:
    assert needed_pieces(64, 1, world, 8, equal_shares=False) == pieces
    assert needed_pieces(64, 2, world, None, equal_shares=True) == 2
    if pieces > 1:
        with pytest.raises(ConfigError, match=rf"on {world} processes would cut the batch of 64 into {pieces} .* use 8 proc"):
            needed_pieces(64, 1, world, 8, equal_shares=True)


def test_epochs_and_seeds_give_other_orders() -> None:
    orders = {tuple(Sampler(50, 8, seed).order(epoch).flatten()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


# --- several corpora ---

CORPORA = st.lists(
    st.builds(
        Corpus,
        name=st.just("some"),
        size=st.integers(6, 40),
        weight=st.sampled_from([0.4, 1.0, 2.5]),
        group=st.sampled_from(["image", "video"]),
    ),
    min_size=1,
    max_size=4,
).filter(lambda corpora: min(round(corpus.size * corpus.weight) for corpus in corpora) >= 4)


def addresses(sampler: Sampler, start: int, stop: int) -> list[tuple[int, str, list[int], list[int]]]:
    return [(m.epoch, m.group, m.indices_B.tolist(), m.passes_B.tolist()) for m in sampler.walk(start, stop)]


@given(CORPORA, SEEDS, st.integers(0, 20), st.integers(0, 20))
def test_resuming_continues_the_same_walk(corpora: list[Corpus], seed: int, start: int, more: int) -> None:
    whole = addresses(Sampler(corpora, 4, seed), 0, start + more)
    assert whole[start:] == addresses(Sampler(corpora, 4, seed), start, start + more)


@given(CORPORA, SEEDS)
def test_a_step_is_of_one_group_and_all_ranks_agree_on_it(corpora: list[Corpus], seed: int) -> None:
    starts = np.cumsum([0, *(corpus.size for corpus in corpora)])
    ranks = [Sampler(corpora, 4, seed, rank, world=2) for rank in range(2)]
    for step in range(2 * ranks[0].steps_per_epoch):
        one, other = (sampler.micro_batches(step)[0] for sampler in ranks)
        assert one.group == other.group
        for index in (*one.indices_B, *other.indices_B):
            assert corpora[int(np.searchsorted(starts, index, side="right")) - 1].group == one.group


@given(CORPORA, SEEDS)
def test_weights_say_how_often_a_sample_is_drawn_and_each_time_is_another_pass(corpora: list[Corpus], seed: int) -> None:
    sampler = Sampler(corpora, 2, seed)
    seen: dict[int, list[int]] = {}
    for step in range(6 * sampler.steps_per_epoch):
        indices, passes, _ = sampler.global_batch(step)
        for index, number in zip(indices.tolist(), passes.tolist(), strict=True):
            seen.setdefault(index, []).append(number)
    assert all(len(set(numbers)) == len(numbers) for numbers in seen.values()), "the same view twice"
    start = 0
    for corpus in corpora:
        drawn = sum(len(seen.get(index, [])) for index in range(start, start + corpus.size))
        start += corpus.size
        # An epoch drops at most one sample of each group, the rest of its last batch.
        assert 0 <= 6 * max(1, round(corpus.weight * corpus.size)) - drawn <= 6


def test_the_mix_is_spread_over_the_epoch() -> None:
    sampler = Sampler([Corpus("stills", 400, group="image"), Corpus("clips", 400, group="video")], 8, seed=0)
    groups = [sampler.global_batch(step)[2] for step in range(100)]
    assert groups.count("image") == groups.count("video") == 50
    assert sampler.share("image") == 0.5
    changes = sum(one != other for one, other in pairwise(groups))
    assert 30 < changes < 70
    later = [sampler.global_batch(step)[2] for step in range(100, 200)]
    assert groups != later


def test_a_group_too_small_for_a_batch_is_refused() -> None:
    corpora = [Corpus("stills", 7, group="image"), Corpus("clips", 40, group="video")]
    with pytest.raises(ConfigError, match="draws 7 samples of group 'image', not enough for one batch of 8"):
        Sampler(corpora, 8, seed=0)
    with pytest.raises(TrainingError, match=r"empty \(clips\)"):
        Sampler([corpora[0], Corpus("clips", 0, group="video")], 4, seed=0)


def test_batch_larger_than_the_data_set_warns(caplog: pytest.LogCaptureFixture) -> None:
    sampler = Sampler(5, 8, seed=0)
    assert (sampler.batch_size, sampler.steps_per_epoch) == (5, 1)
    assert "larger than the data set (5 samples)" in caplog.text


def test_impossible_splits_are_refused() -> None:
    with pytest.raises(TrainingError, match="empty"):
        Sampler(0, 8, seed=0)
    with pytest.raises(ConfigError, match="3 processes"):
        Sampler(2, 8, seed=0, world=3)


def test_equal_shares_round_a_shrunken_batch_down_and_refuse_an_odd_one() -> None:
    sampler = Sampler(11, 16, seed=0, world=4, equal_shares=True)
    assert sampler.batch_size == 8
    assert len(sampler.micro_batches(0)[0].indices_B) == 2
    with pytest.raises(ConfigError, match=r"`batch_size` 12 cannot be .* by 4 processes in 2 micro-batches.* multiple of 8"):
        Sampler(40, 12, seed=0, world=4, accumulate=2, equal_shares=True)
    with pytest.raises(ConfigError, match="`batch_size` 10 cannot be shared equally by 4 processes"):
        Sampler(40, 10, seed=0, world=4, equal_shares=True)
    with pytest.raises(ConfigError, match="3 processes"):
        Sampler(2, 3, seed=0, world=3, equal_shares=True)


def _delivered(task: ToyTask, workers: int) -> list[list[str]]:
    walk = Sampler(40, 8, seed=3).walk(2, 9)
    return [batch["id"] for batch in Loader(BatchReader(task.data), walk, workers, pin=False)]


@pytest.mark.slow
@pytest.mark.parametrize(("fast", "workers"), [(True, 0), (False, 2)])
def test_delivery_does_not_depend_on_workers_or_reading_path(fast: bool, workers: int) -> None:
    expected = [[f"clip{i}" for i in Sampler(40, 8, seed=3).global_batch(step)[0]] for step in range(2, 9)]
    assert _delivered(make_toy(fast=False), 0) == expected
    assert _delivered(make_toy(fast=fast), workers) == expected


def _read_for_ever(read: Any) -> None:
    task = make_toy(fast=False)
    for _ in Loader(BatchReader(task.data), Sampler(40, 8, seed=3).walk(0, 10**6), workers=2, pin=False):
        read.set()
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_workers_and_their_fork_server_end_with_a_rank_that_is_killed() -> None:
    context = multiprocessing.get_context("spawn")
    read = context.Event()
    rank = context.Process(target=_read_for_ever, args=(read,))
    rank.start()
    assert rank.pid is not None
    assert read.wait(60)
    found = descendants(rank.pid)
    assert len(found) >= 3, "two workers, and the fork server"
    rank.kill()
    rank.join()
    wait_until("no process is left", lambda: not any(map(is_running, found)), 10)


def test_errors_of_the_data_set_reach_the_training_thread() -> None:
    class Broken(BatchReader):
        def __getitem__(self, address: MicroBatch) -> dict[str, object]:
            raise OSError("disk gone")

    task = make_toy()
    loader = Loader(Broken(task.data), Sampler(40, 8, seed=3).walk(0, 2), workers=0, pin=False)
    with pytest.raises(OSError, match="disk gone"):
        next(iter(loader))
