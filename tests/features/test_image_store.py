"""The store of images: an ordinary store with one frame a view, beside that of the videos of the same table."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from tests.features.conftest import World
from tests.features.test_store import bytes_of
from tests.features.tiny import leave_unfinished, make_config, make_teacher_folder
from umt_pipeline.core.errors import ConfigError, StoreError
from umt_pipeline.features.extract import plan_extraction, select_clips
from umt_pipeline.features.runner import begin, extract
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.features.verify import require_settings, verify_store
from umt_pipeline.masking import MaskConfig
from umt_pipeline.video.pixels import patchify
from umt_pipeline.video.views import load_view

SPLITS = ("train", "train", "validation", "train")


def write_images(folder: Path, splits: Sequence[str]) -> pd.DataFrame:
    """Write one picture per entry of ``splits``, of varying size, and return their rows of the clean table."""
    records = []
    for number, split in enumerate(splits):
        height, width = 40 + number, 64 - 3 * number
        picture = np.random.default_rng(number).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        path = f"stills/{number}.{('png', 'jpg')[number % 2]}"
        (folder / path).parent.mkdir(exist_ok=True)
        Image.fromarray(picture).resize((width, height)).save(folder / path)
        sha256 = hashlib.sha256((folder / path).read_bytes()).hexdigest()
        row = {"video_id": f"stills/{number}", "path": path, "split": split, "media": "image", "num_frames": 1}
        records.append({**row, "height": height, "width": width, "sha256": sha256})
    return pd.DataFrame(records)


@pytest.fixture(scope="session")
def mixed(world: World) -> World:
    """The world's videos, and four images between them."""
    images = write_images(world.media, SPLITS)
    return world._replace(videos=pd.concat([images[:2], world.videos, images[2:]], ignore_index=True))


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher_folder(tmp_path_factory.mktemp("images") / "teacher")


def make_store(world: World, folder: Path, **changes: Any) -> dict[str, Any]:
    config = make_config(**changes).image_config()
    return extract(config, world.teacher, plan_extraction(config, world.teacher, world.videos, "image"), world.media, folder)


def test_each_record_is_what_its_recorded_view_gives(mixed: World, tmp_path: Path) -> None:
    report = make_store(mixed, tmp_path, splits=("validation", "train"), images={"views": 2})
    store = FeatureStore(tmp_path)
    store.verify()
    assert store.index["video_id"].to_pylist() == [f"stills/{number}" for number in (2, 2, 0, 0, 1, 1, 3, 3)]
    assert (report["rows"], report["clips"], report["views"]) == (8, 4, 2)
    manifest = store.manifest
    assert (manifest.frames, manifest.view.frames, manifest.mask.ratio, manifest.visible_per_frame) == (1, 1, 0.5, 8)
    for row in range(8):
        view = store.view(row)
        assert view.frame_indices == (0,)
        path = mixed.videos.set_index("video_id")["path"][store.record(row)["video_id"]]
        read = store.read(np.array([row]))
        patches = patchify(torch.from_numpy(load_view(mixed.media / path, view))[None], 8)[0]
        assert (patches[read["visible"][0]] == read["patches"][0]).all()


def test_bytes_do_not_depend_on_workers_or_interruptions(mixed: World, tmp_path: Path) -> None:
    make_store(mixed, tmp_path / "serial")
    expected = bytes_of(tmp_path / "serial")
    make_store(mixed, tmp_path / "parallel", workers=2)
    assert bytes_of(tmp_path / "parallel") == expected
    config = make_config().image_config()
    plan = plan_extraction(config, mixed.teacher, mixed.videos, "image")
    leave_unfinished(begin(config, mixed.teacher, plan, mixed.media, tmp_path / "killed"), mixed.teacher, shards=1)
    assert make_store(mixed, tmp_path / "killed")["rows_resumed"] == 5
    assert bytes_of(tmp_path / "killed") == expected


def test_settings_and_content_are_verified(mixed: World, teacher: Path, tmp_path: Path) -> None:
    make_store(mixed, tmp_path, codec="int8", pixels="frames")
    config = make_config(codec="int8", pixels="frames")
    require_settings(tmp_path, config.image_config(), teacher)
    assert verify_store(tmp_path, 1.0, teacher, mixed.videos, mixed.media) == 9
    images = select_clips(mixed.videos, ("train",), media="image")
    assert verify_store(tmp_path, 0.1, teacher, images, mixed.media) == 2
    with pytest.raises(StoreError, match=r"view\.frames: the parameters say 2, the store has 1; mask\.ratio"):
        require_settings(tmp_path, config, teacher)
    other = config.model_copy(update={"images": config.images.model_copy(update={"views": 5})})
    with pytest.raises(StoreError, match="views: the parameters say 5, the store has 3"):
        require_settings(tmp_path, other.image_config(), teacher)
    with pytest.raises(StoreError, match=r"clip 'stills/0'.*the file's SHA-256 was"):
        verify_store(tmp_path, 1.0, teacher, mixed.videos.assign(sha256="0" * 64), mixed.media)


def test_the_video_store_knows_no_images(mixed: World, world: World) -> None:
    alone = plan_extraction(make_config(), world.teacher, world.videos)
    beside = plan_extraction(make_config(), mixed.teacher, mixed.videos)
    assert beside.identity.agrees_with(alone.identity)
    assert beside.index.equals(alone.index)


def test_no_images_and_no_views_are_stores_without_rows(mixed: World, world: World, tmp_path: Path) -> None:
    for name, source, changes in (
        ("none", world, {}),
        ("other split", mixed, {"splits": ("test",)}),
        ("no views", mixed, {"images": {"views": 0}}),
        ("books", world, {"codec": "pq"}),
    ):
        assert make_store(source, tmp_path / name, **changes)["rows"] == 0
        assert len(FeatureStore(tmp_path / name)) == 0
        require_settings(tmp_path / name, make_config(**changes).image_config(), None)


def test_without_videos_there_is_nothing_to_record(mixed: World) -> None:
    images = mixed.videos[mixed.videos["media"] == "image"]
    with pytest.raises(ConfigError, match="expected videos in split 'train', found 4 images and no video"):
        plan_extraction(make_config(), mixed.teacher, images)
    with pytest.raises(ConfigError, match="expected videos in split 'test', found train, validation"):
        select_clips(mixed.videos, ("test",))
    assert select_clips(mixed.videos, ("test",), media="image").empty
    assert len(select_clips(mixed.videos, ("train", "test"), media="image")) == 3


def test_what_is_different_for_images() -> None:
    config = make_config(mask={"kind": "random", "ratio": 0.8}).image_config()
    assert (config.view.frames, config.views, config.mask) == (1, 3, MaskConfig(kind="random", ratio=0.5))
    changed = make_config(images={"views": 1, "mask": {"kind": "none", "ratio": 0.25}}).image_config()
    assert (changed.views, changed.mask) == (1, MaskConfig(kind="none", ratio=0.25))
    assert (changed.dataset_id, changed.view.size, changed.codec.kind) == ("tiny", 32, "fp16")
    for wrong in ({"views": -1}, {"mask": {"ratio": 1.0}}, {"frames": 1}):
        with pytest.raises(ValidationError):
            make_config(images=wrong)
