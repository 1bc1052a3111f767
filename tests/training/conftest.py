"""Makes ``toy_tasks`` importable here and, through ``PYTHONPATH``, in the processes that the launcher starts."""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

from tests.features.test_image_store import write_images
from tests.features.tiny import make_config, make_corpus, make_teacher_folder
from umt_pipeline.data.mapped import write_mapped
from umt_pipeline.data.samples import Batch
from umt_pipeline.features.extract import plan_extraction
from umt_pipeline.features.runner import extract
from umt_pipeline.features.source import TargetSource
from umt_pipeline.models.student import StudentConfig
from umt_pipeline.models.teacher import TeacherConfig, load_teacher
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.training.sampler import BatchReader, MicroBatch
from umt_pipeline.training.task import Task

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def read_batch(task: Task, indices: list[int], number: int = 0) -> Batch:
    """Read samples as the loop does: in their pass ``number``, which is the epoch too."""
    dataset = task.dataset()
    bounds = np.cumsum([corpus.size for corpus in dataset.corpora()])
    group = dataset.corpora()[int(np.searchsorted(bounds, indices[0], side="right"))].group
    address = MicroBatch(0, number, group, np.array(indices), np.full(len(indices), number))
    return BatchReader(dataset)[address]


class StageWorld(NamedTuple):
    """Four training clips and three images, their recorded views (whole frames), a random teacher, and a fitting student."""

    source: TargetSource
    student: StudentConfig
    videos: pd.DataFrame
    folder: Path

    def online(self) -> TargetSource:
        return self.source.model_copy(update={"targets": "online"})


@pytest.fixture(scope="session")
def stage_world(tmp_path_factory: pytest.TempPathFactory) -> StageWorld:
    folder = tmp_path_factory.mktemp("stages")
    videos = make_corpus(folder / "media", ["train", "train", "validation", "train", "train"])
    images = write_images(folder / "media", ["train", "train", "validation", "train"]).assign(corpus="stills")
    videos = pd.concat([videos, images], ignore_index=True)
    write_mapped(folder / "videos.arrow", videos)
    teacher = load_teacher(make_teacher_folder(folder / "teacher"), TeacherConfig(layers=2), 4)
    config = make_config(pixels="frames")
    extract(config, teacher, plan_extraction(config, teacher, videos), folder / "media", folder / "store")
    plan = plan_extraction(config.image_config(), teacher, videos, "image")
    extract(config.image_config(), teacher, plan, folder / "media", folder / "image_store")
    source = TargetSource(
        store=folder / "store", teacher=folder / "teacher", clips=folder / "videos.arrow", media_root=folder / "media"
    )
    vision = ViTConfig(image_size=32, patch_size=8, frames=2, dim=24, depth=3, heads=2)
    return StageWorld(source, StudentConfig(vision=vision, align_layers=2, target_dim=16), videos, folder)
