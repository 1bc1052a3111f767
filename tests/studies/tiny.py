"""A bank of six tiny clips and a study of them that takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from studies.claims.bank import ClipBank, build_bank, choose_clips
from studies.claims.study import StudyConfig
from tests.evaluation.tiny import make_tables
from tests.features.tiny import make_teacher

SPLITS = ("train", "validation", "train", "train", "train", "train", "test", "test")
SIZE, PATCH = 32, 8


def tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return videos of at least four frames and their labels."""
    found = make_tables(folder, SPLITS)
    long = found.videos["num_frames"] >= 4
    return found.videos[long], found.labels


def make_bank(folder: Path) -> ClipBank:
    """Build the bank of all splits."""
    videos, labels = tables(folder / "media")
    clips = choose_clips(videos, labels, ["shape", "motion"], ["train", "validation", "test"], "train", 4)
    return build_bank(folder / "bank", clips, folder / "media", make_teacher(folder / "teacher"), SIZE, PATCH)


def study(**changes: Any) -> StudyConfig:
    """Return a study of two steps."""
    phase = {"lrs": [1e-3], "steps": 2, "batch_size": 4}
    values: dict[str, Any] = {
        "tasks": ["shape", "motion"],
        "size": SIZE,
        "patch_size": PATCH,
        "student": {"dim": 16, "depth": 2, "heads": 2},
        "seeds": [0, 1],
        "pretraining": phase,
        "fine_tuning": {**phase, "lrs": [1e-3, 2e-3]},
        "longer_steps": 3,
        "arms": ["aligned", "scratch"],
        "workers": 1,
    }
    return StudyConfig.model_validate({**values, **changes})
