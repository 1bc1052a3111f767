"""Trains the teacher of the demo: `make teacher`. An hour on two cores; interrupted, it goes on from its last checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from umt_pipeline.training.demo_teacher import DemoTeacherSpec, demo_model
from umt_pipeline.training.launch import run
from umt_pipeline.training.task import TrainConfig

RUN = Path("data/.checkpoints/demo_teacher")
TRAIN = TrainConfig(
    steps=20_000,
    batch_size=64,
    lr=8e-4,
    min_lr=1e-5,
    warmup=0.02,
    betas=(0.9, 0.98),
    weight_decay=0.05,
    clip_grad=1.0,
    precision="fp32",
    device="cpu",
    log_every=50,
    checkpoint_every=500,
)


def main() -> None:
    """Train, measure, and write the package's teacher folder anew."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    finished = run(DemoTeacherSpec(model=demo_model(), train=TRAIN, seed=0), RUN, on_row=print)
    print(finished.summary())


if __name__ == "__main__":
    main()
