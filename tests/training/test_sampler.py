"""Order of samples and their delivery."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_tasks import ToyTask, make_toy

from umt_pipeline.errors import ConfigError, TrainingError
from umt_pipeline.training.sampler import BatchReader, Loader, MicroBatch, Sampler

SIZES = st.integers(8, 60)
BATCHES = st.integers(8, 20)
SEEDS = st.integers(0, 2**63)


@given(SIZES, BATCHES, SEEDS, st.integers(0, 5))
def test_each_sample_at_most_once_per_epoch(size: int, batch: int, seed: int, epoch: int) -> None:
    sampler = Sampler(size, batch, seed)
    assert sorted(sampler.order(epoch)) == list(range(size))
    first = epoch * sampler.steps_per_epoch
    used = np.concatenate([sampler.global_batch(first + i) for i in range(sampler.steps_per_epoch)])
    assert len(set(used.tolist())) == len(used) == sampler.steps_per_epoch * min(batch, size)


@given(SIZES, BATCHES, SEEDS, st.integers(1, 4), st.integers(1, 2), st.integers(0, 30))
def test_ranks_and_micro_batches_make_up_the_global_batch(
    size: int, batch: int, seed: int, world: int, accumulate: int, step: int
) -> None:
    shares = [Sampler(size, batch, seed, rank, world, accumulate).micro_batches(step) for rank in range(world)]
    assert all(len(share) == accumulate for share in shares)
    joined = np.concatenate([micro.indices_B for share in shares for micro in share])
    np.testing.assert_array_equal(joined, Sampler(size, batch, seed).global_batch(step))


@given(SIZES, SEEDS, st.integers(0, 20), st.integers(0, 20))
def test_resuming_continues_the_same_walk(size: int, seed: int, start: int, more: int) -> None:
    whole = [micro.indices_B.tolist() for micro in Sampler(size, 8, seed).walk(0, start + more)]
    rest = [micro.indices_B.tolist() for micro in Sampler(size, 8, seed).walk(start, start + more)]
    assert whole[start:] == rest


def test_epochs_and_seeds_give_other_orders() -> None:
    orders = {tuple(Sampler(50, 8, seed).order(epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_batch_larger_than_the_data_set_warns(caplog: pytest.LogCaptureFixture) -> None:
    sampler = Sampler(5, 8, seed=0)
    assert (sampler.batch_size, sampler.steps_per_epoch) == (5, 1)
    assert "larger than the data set (5 samples)" in caplog.text


def test_impossible_splits_are_refused() -> None:
    with pytest.raises(TrainingError, match="empty"):
        Sampler(0, 8, seed=0)
    with pytest.raises(ConfigError, match="3 processes"):
        Sampler(2, 8, seed=0, world=3)


def _delivered(task: ToyTask, workers: int) -> list[list[str]]:
    addresses = Sampler(40, 8, seed=3).walk(2, 9)
    return [batch["id"] for batch in Loader(BatchReader(task.data, task.collate), addresses, workers, pin=False)]


@pytest.mark.parametrize(("fast", "workers"), [(True, 0), (False, 2)])
def test_delivery_does_not_depend_on_workers_or_reading_path(fast: bool, workers: int) -> None:
    expected = [[f"clip{i}" for i in Sampler(40, 8, seed=3).global_batch(step)] for step in range(2, 9)]
    assert _delivered(make_toy(fast=False), 0) == expected
    assert _delivered(make_toy(fast=fast), workers) == expected


def test_errors_of_the_data_set_reach_the_training_thread() -> None:
    class Broken(BatchReader):
        def __getitem__(self, address: MicroBatch) -> dict[str, object]:
            raise OSError("disk gone")

    task = make_toy()
    loader = Loader(Broken(task.data, task.collate), Sampler(40, 8, seed=3).walk(0, 2), workers=0, pin=False)
    with pytest.raises(OSError, match="disk gone"):
        next(iter(loader))
