"""A task that trains in milliseconds, with all that can make two runs differ: dropout, loss noise, epoch views."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from umt_pipeline.core.identity import OPERATIONAL
from umt_pipeline.data.samples import Batch, Sample, SampleDataset
from umt_pipeline.training.spec import RunSpec
from umt_pipeline.training.task import LossParts, Task


class ToyData(SampleDataset):
    """``size`` rows; row ``bad`` holds a NaN."""

    def __init__(self, size: int, bad: int | None, fast: bool) -> None:
        self.size, self.bad, self.fast = size, bad, fast

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        index, number = key
        x_D = np.random.Generator(np.random.Philox(key=[index, number])).normal(size=6).astype(np.float32)
        if index == self.bad:
            x_D[0] = np.nan
        return {"id": f"clip{index}", "index": index, "x": x_D}

    def batch(self, indices_B: np.ndarray, passes_B: np.ndarray) -> Batch:
        if not self.fast:
            return super().batch(indices_B, passes_B)
        rows = [self[key] for key in zip(indices_B.tolist(), passes_B.tolist(), strict=True)]
        return {"id": [r["id"] for r in rows], "index": indices_B.copy(), "x": np.stack([r["x"] for r in rows])}


class ToyTask(Task):
    """A small regression; ``seen`` collects the indices of every batch, ``looks`` whether the model learns when scored."""

    def __init__(
        self, size: int, dropout: float, noise: float, bad: int | None, fast: bool, pause: float, flops: float | None
    ) -> None:
        layers = [nn.Linear(6, 16), nn.GELU(), nn.LayerNorm(16), nn.Dropout(dropout), nn.Linear(16, 6)]
        self.model = nn.Sequential(*layers)
        self.data, self.noise, self.pause = ToyData(size, bad, fast), noise, pause
        self.seen: list[list[int]] = []
        self.flops = flops
        self.looks: list[bool] = []

    def dataset(self) -> SampleDataset:
        return self.data

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> LossParts:
        time.sleep(self.pause)
        self.seen.append(batch["index"].tolist())
        x_BD = batch["x"]
        target_BD = torch.sin(x_BD.flip(1)) + self.noise * torch.randn(x_BD.shape, generator=generator)
        error_BD = model(x_BD) - target_BD
        squared = error_BD.square().mean()
        return LossParts(squared, {"absolute": error_BD.abs().mean()})

    def scores(self) -> dict[str, float]:
        self.looks.append(self.model.training or torch.is_grad_enabled())
        return {"held_out": float(self.model(torch.ones(1, 6)).sum())}

    def flops_per_clip(self, batch: Batch) -> float | None:
        return self.flops

    def sample_ids(self, batch: Batch) -> Sequence[str]:
        return batch["id"]


class ToySpec(RunSpec):
    """A run of the toy; ``broken`` fails on every rank."""

    size: int = 40
    dropout: float = 0.2
    noise: float = 0.1
    bad: int | None = None
    fast: bool = False
    pause: Annotated[float, OPERATIONAL] = 0.0
    flops: float | None = None
    broken: bool = False
    content: str = "rows"

    def build(self) -> ToyTask:
        if self.broken:
            raise ValueError("the toy is broken on purpose")
        return ToyTask(self.size, self.dropout, self.noise, self.bad, self.fast, self.pause, self.flops)

    def inputs(self) -> dict[str, str]:
        return {"rows": self.content}

    def export(self, weights: Mapping[str, Tensor], folder: Path, facts: Mapping[str, Any]) -> None:
        save_file(dict(weights), folder / "toy.safetensors")
def make_toy(
    size: int = 40,
    dropout: float = 0.2,
    noise: float = 0.1,
    bad: int | None = None,
    fast: bool = False,
    pause: float = 0.0,
    flops: float | None = None,
) -> ToyTask:
    """Make a task."""
    return ToyTask(size, dropout, noise, bad, fast, pause, flops)
