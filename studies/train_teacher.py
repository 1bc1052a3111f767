"""Trains the teacher that comes with the demo world: `make teacher`. About an hour of one core.

Frames are drawn as they are needed, and none comes twice. A run that was stopped goes on from its last checkpoint. At the end
the package's folder is written anew: weights, tokenizer, and the card with what the model knows, measured on frames that it
was not trained on.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from studies.teacher_card import card
from umt_pipeline.core.files import sha256_file, staged_folder
from umt_pipeline.demo_world import teacher
from umt_pipeline.models.teacher import CLIP_WEIGHTS_FILE
from umt_pipeline.training.demo_teacher import DemoTeacherSpec, demo_model
from umt_pipeline.training.launch import FinishedRun, run
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
SEED = 0


def main() -> None:
    """Train, measure, and write the package's folder anew."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    # On more threads sums are made in another order, and the weights differ in their last digits.
    torch.set_num_threads(1)
    publish(run(DemoTeacherSpec(model=demo_model(), train=TRAIN, seed=SEED), RUN))


def publish(finished: FinishedRun) -> None:
    """Write what was trained into the package's folder, with its card."""
    settings = TRAIN.model_dump(mode="json", exclude_defaults=True, exclude={"log_every", "checkpoint_every", "device"})
    recipe = {"seed": SEED, **settings}
    # Not the seconds, which count when other work had the core.
    minutes = TRAIN.batch_size * finished.result.steps / finished.times()["median_clips_per_s"] / 60
    with staged_folder(teacher.FOLDER) as folder:
        finished.export(folder)
        (folder / "README.md").write_text(card(folder, recipe, f"{minutes:.0f} minutes"), encoding="utf-8")
    if (sha256 := sha256_file(teacher.FOLDER / CLIP_WEIGHTS_FILE)) != teacher.SHA256:
        print(f"The weights are new. Write their hash into {Path(teacher.__file__).name}: SHA256 = {sha256!r}")


if __name__ == "__main__":
    main()
