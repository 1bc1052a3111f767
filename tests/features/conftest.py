from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from tests.features.tiny import make_config, make_corpus, make_teacher
from umt_pipeline.features.extract import plan_extraction
from umt_pipeline.features.runner import extract
from umt_pipeline.models.teacher import Teacher


class World(NamedTuple):
    media: Path
    videos: pd.DataFrame
    teacher: Teacher


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    videos = make_corpus(folder / "media", ["train", "train", "validation", "train", "train"])
    return World(folder / "media", videos, make_teacher(folder / "teacher"))


MakeStore = Callable[..., tuple[Path, dict[str, Any]]]


@pytest.fixture
def make_store(world: World, tmp_path: Path) -> MakeStore:
    def make(name: str = "store", **changes: Any) -> tuple[Path, dict[str, Any]]:
        config = make_config(**changes)
        plan = plan_extraction(config, world.teacher, world.videos)
        return tmp_path / name, extract(config, world.teacher, plan, world.media, tmp_path / name)

    return make
