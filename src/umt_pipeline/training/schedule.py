"""Length and learning rate of a run, counted in steps of the real loader."""

from __future__ import annotations

import math
from dataclasses import dataclass

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.training.task import TrainConfig


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from 0 to ``peak``, then half a cosine towards ``floor``.

    As in the published code (UMT's per-step schedule, inherited from BEiT): the warm-up holds both its ends, so step 0
    has learning rate 0 and step ``warmup_steps - 1`` has ``peak``; the cosine starts at ``peak`` again, and its last
    step is one step short of ``floor``.

    Args:
        total_steps: optimiser steps of the run.
        warmup_steps: how many of them warm up.
        peak: largest learning rate, already scaled.
        floor: end of the cosine, already scaled.
    """

    total_steps: int
    warmup_steps: int
    peak: float
    floor: float

    def __post_init__(self) -> None:
        if self.warmup_steps >= self.total_steps:
            raise ConfigError(
                f"warm-up must be shorter than training: `warmup` gives {self.warmup_steps} steps, the run has "
                f"{self.total_steps}; lower `warmup` or raise `epochs` or `steps`"
            )

    def lr(self, step: int) -> float:
        """Learning rate of the 0-based ``step``."""
        if step < self.warmup_steps:
            return self.peak * step / (self.warmup_steps - 1) if self.warmup_steps > 1 else 0.0
        progress = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return self.floor + 0.5 * (self.peak - self.floor) * (1.0 + math.cos(math.pi * progress))


def make_schedule(config: TrainConfig, steps_per_epoch: int, batch_size: int) -> Schedule:
    """The schedule of ``config``.

    Args:
        config: settings.
        steps_per_epoch: of the real loader.
        batch_size: clips per step that the loader really gives (smaller than asked for on a tiny data set).

    Raises:
        ConfigError: the warm-up is not shorter than the run.
    """
    if config.steps is not None:
        total = config.steps
    else:
        assert config.epochs is not None
        total = max(1, round(config.epochs * steps_per_epoch))
    scale = batch_size / 256 if config.scale_lr else 1.0
    return Schedule(total, int(config.warmup * steps_per_epoch), config.lr * scale, config.min_lr * scale)
