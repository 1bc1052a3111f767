"""Learning rate by step."""

import math

import numpy as np
import pytest

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.training.schedule import Schedule, make_schedule
from umt_pipeline.training.task import TrainConfig


def test_end_points() -> None:
    schedule = Schedule(total_steps=100, warmup_steps=20, peak=1e-3, floor=1e-5)
    assert schedule.lr(0) == 0.0
    assert schedule.lr(19) == pytest.approx(1e-3)
    assert schedule.lr(20) == pytest.approx(1e-3)
    assert schedule.lr(60) == pytest.approx((1e-3 + 1e-5) / 2)
    assert 1e-5 < schedule.lr(99) < 1.05e-5 + 1e-6
    assert schedule.lr(100) == pytest.approx(1e-5)


def test_matches_the_published_array_form() -> None:
    schedule = Schedule(total_steps=57, warmup_steps=9, peak=0.7, floor=0.1)
    warm = np.linspace(0.0, 0.7, 9)
    rest = np.array([0.1 + 0.3 * (1 + math.cos(math.pi * i / 48)) for i in range(48)])
    np.testing.assert_allclose([schedule.lr(step) for step in range(57)], np.concatenate([warm, rest]), atol=1e-12)


def test_published_recipe_scales_lr_with_the_batch() -> None:
    config = TrainConfig(epochs=201, batch_size=2048, lr=1.5e-4, min_lr=1e-5, scale_lr=True, warmup=40)
    schedule = make_schedule(config, steps_per_epoch=321, batch_size=2048)
    assert (schedule.total_steps, schedule.warmup_steps) == (64521, 12840)
    assert [schedule.peak, schedule.floor] == pytest.approx([1.2e-3, 8e-5])


def test_steps_and_no_warmup() -> None:
    schedule = make_schedule(TrainConfig(steps=7, batch_size=4, lr=0.1), steps_per_epoch=3, batch_size=4)
    assert schedule.total_steps == 7
    assert schedule.lr(0) == 0.1


def test_warmup_as_long_as_training_is_refused() -> None:
    with pytest.raises(ConfigError, match="lower `warmup`"):
        make_schedule(TrainConfig(epochs=2, batch_size=4, lr=0.1, warmup=2), steps_per_epoch=5, batch_size=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 5, "epochs": 1}, "exactly one"),
        ({}, "exactly one"),
        ({"steps": 5, "min_lr": 1.0}, "min_lr"),
        ({"steps": 5, "nproc": 3, "accumulate": 2}, "batch_size"),
        ({"steps": 5, "epoch": 1}, "epoch"),
        ({"steps": 5, "checkpoint_every": 100, "keep_every": 250}, "must be a multiple of `checkpoint_every`"),
    ],
)
def test_illegal_settings_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig.model_validate({"batch_size": 4, "lr": 0.1, **changes})
