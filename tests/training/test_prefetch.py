"""Batches come in order, the same ones, and reading ends with the iterator; what a step may not do is found."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing

import pytest
import torch

from tests.waits import NoWaits
from umt_pipeline.data.samples import Batch
from umt_pipeline.training.prefetch import DeviceBatches

CPU = torch.device("cpu")


def batches(ended: list[bool]) -> Generator[Batch, None, None]:
    try:
        for number in range(4):
            yield {"x": torch.full((3,), number), "clip": [str(number)]}
    finally:
        ended.append(True)


def test_on_a_cpu_batches_pass_through() -> None:
    ended: list[bool] = []
    moved = DeviceBatches(batches(ended), CPU)
    found = []
    for batch in moved:
        moved.copy_ahead()
        found.append((int(batch["x"][0]), batch["clip"]))
    assert found == [(number, [str(number)]) for number in range(4)]


def test_closing_it_ends_reading() -> None:
    ended: list[bool] = []
    with closing(DeviceBatches(batches(ended), CPU)) as moved:
        next(moved)
        assert not ended
    assert ended


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x * torch.tensor([1.0, 2.0]),
        lambda x: x.unique(),
    ],
)
def test_what_would_make_a_host_wait_is_found(wait: Callable[[torch.Tensor], object]) -> None:
    x = torch.arange(2.0)
    with pytest.raises(AssertionError, match=r"wait|host"), NoWaits():
        wait(x)


def test_what_would_not_is_let_through() -> None:
    x = torch.arange(4.0, requires_grad=True)
    with NoWaits():
        torch.where(x > 1, x, 0.0)[torch.arange(2)].repeat_interleave(2).sum().backward()
    assert x.grad is not None
