"""Before training: a store is what the parameters ask for, and holds what videos and teacher give now, or is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.features.conftest import MakeStore, World
from tests.features.tiny import make_config, make_teacher_folder, write_clip
from umt_pipeline.core.errors import CheckpointError, StoreError
from umt_pipeline.core.files import read_json, sha256_file, write_json
from umt_pipeline.features.extract import plan_extraction
from umt_pipeline.features.runner import extract
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.features.verify import require_settings, sample_rows, verify_store
from umt_pipeline.models.teacher import load_teacher, teacher_weights_file

PQ = {"codec": {"kind": "pq", "bytes_per_token": 4}, "mask": {"kind": "none"}}
BF16 = {"precision": "bf16"}


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the world's teacher."""
    return make_teacher_folder(tmp_path_factory.mktemp("verify") / "teacher")


def verify(world: World, folder: Path, teacher: Path, share: float = 1.0) -> int:
    return verify_store(folder, share, teacher, world.videos, world.media)


def change(folder: Path, shard: int, name: str, row: int, place: tuple[int, ...], value: Any) -> None:
    """Change one number of a store behind its back, and its hash, as a damaged writer would have."""
    path = folder / f"shards/{shard:05d}/{name}.npy"
    array = np.load(path)
    array[(row, *place)] = value
    np.save(path, array)
    manifest = read_json(folder / "manifest.json")
    manifest["shards"]["files"][name]["sha256"][shard] = sha256_file(path)
    write_json(folder / "manifest.json", manifest)


@pytest.mark.parametrize(
    "changes",
    [{}, {"codec": "int8"}, PQ, {"pixels": "frames"}, {"mask": {"kind": "tube"}}, {"mask": {"kind": "random"}}, BF16],
    ids=str,
)
def test_what_was_extracted_is_verified(
    world: World, make_store: MakeStore, teacher: Path, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_store(**changes)[0]
    with caplog.at_level(logging.INFO):
        assert verify(world, folder, teacher) == 12
        assert verify(world, folder, teacher, 0.01) == 3, "one row of each shard"
        assert verify(world, folder, teacher, 0.0) == 0
    assert "12 of 12 rows verified in" in caplog.text
    assert "not verified, because verify is 0" in caplog.text


def test_a_store_of_layers_at_an_interval_is_verified_by_the_same_layers(world: World, teacher: Path, tmp_path: Path) -> None:
    config = make_config(teacher={"layers": 2, "interval": 2.0})
    tower = load_teacher(teacher, config.teacher, config.grid)
    assert tower.layer_indices == [0, 2]
    folder = tmp_path / "store"
    extract(config, tower, plan_extraction(config, tower, world.videos), world.media, folder)
    assert verify(world, folder, teacher) == 12
    assert FeatureStore(folder).manifest.teacher_config() == config.teacher


def test_the_sample_touches_every_shard_and_is_always_the_same(make_store: MakeStore) -> None:
    store = FeatureStore(make_store()[0])
    rows = sample_rows(store, 0.4)
    assert [int((rows // 5 == shard).sum()) for shard in range(3)] == [2, 2, 1]
    assert (rows == sample_rows(store, 0.4)).all()
    assert (sample_rows(store, 1.0) == np.arange(12)).all()


@pytest.mark.parametrize(
    ("changes", "array", "place", "value", "message"),
    [
        ({}, "pixels", (3, 7), 255, r"pixels differ in 1 of 1536 bytes, by up to \d+"),
        ({"pixels": "frames"}, "pixels", (1, 30, 2, 0), 255, r"pixels differ in 1 of 6144 bytes, by up to \d+"),
        ({}, "targets", (1, 6, 0), 5.0, r"targets differ in 1 of 16 tokens .*the codec fp16 itself errs.*by up to 0\.\d+"),
        ({"codec": "int8"}, "targets", (0, 2, 3), -128, r"targets differ in 1 of 16 tokens .*the codec int8 itself errs"),
        ({"codec": "int8"}, "scales", (1, 3), np.nan, r"targets differ in 1 of 16 tokens .*by up to nan"),
        (PQ, "targets", (0, 31, 2), 0, r"targets differ in 1 of 64 tokens .*the codec pq itself errs"),
        ({"mask": {"kind": "random"}}, "attention", (1, 9), 0.9, r"attention differ in 1 of 32 patches"),
        ({"mask": {"kind": "random"}, "pixels": "frames"}, "visible", (0,), 1, r"mask differ in 1 of 1 masks"),
        ({}, "visible", (3,), 15, r"mask differ in 1 of 1 masks that the stored attention does not give"),
        ({}, "visible", (7,), 99, r"mask differ in 1 of 8 positions outside the view"),
    ],
    ids=lambda value: value if isinstance(value, str) and "differ" not in value else None,
)
def test_a_row_that_differs_is_named(
    world: World,
    make_store: MakeStore,
    teacher: Path,
    changes: dict[str, Any],
    array: str,
    place: tuple[int, ...],
    value: Any,
    message: str,
) -> None:
    folder = make_store(**changes)[0]
    change(folder, 1, array, 2, place, value)
    clip_and_view = r"row 7 \(shard 1, clip 'clip3', view 1\) is not what the video and the teacher give now: "
    with pytest.raises(StoreError, match=clip_and_view + message) as error:
        verify(world, folder, teacher)
    assert "run teacher_features again; verify: 0 trains" in str(error.value)


def test_swapped_shards_are_found_by_the_smallest_sample(world: World, make_store: MakeStore, teacher: Path) -> None:
    folder = make_store()[0]
    shards = folder / "shards"
    (shards / "00000").rename(shards / "kept")
    (shards / "00001").rename(shards / "00000")
    (shards / "kept").rename(shards / "00001")
    with pytest.raises(StoreError, match=r"row \d .*(mask|pixels) differ"):
        verify(world, folder, teacher, 0.0001)


def test_a_video_that_was_replaced_is_found(world: World, make_store: MakeStore, teacher: Path, tmp_path: Path) -> None:
    folder = make_store()[0]
    for number, clip in enumerate(world.videos.to_dict("records")):
        write_clip(tmp_path / "media" / clip["path"], clip["num_frames"], clip["height"], clip["width"], seed=number + 100)
    with pytest.raises(StoreError, match=r"row 0 \(shard 0, clip 'clip0', view 0\).*pixels differ .*more rows"):
        verify_store(folder, 1.0, teacher, world.videos, tmp_path / "media")
    changed = world.videos.assign(sha256="0" * 64)
    with pytest.raises(StoreError, match=r"the file's SHA-256 was \w{64}, the table videos has 0{64}"):
        verify_store(folder, 1.0, teacher, changed, world.media)
    with pytest.raises(StoreError, match=r"the view recorded is View.* drawn now it is View"):
        verify_store(folder, 1.0, teacher, world.videos.assign(height=32), world.media)
    with pytest.raises(StoreError, match=r"clip 'clip4'.*the clip is not in the table videos"):
        verify_store(folder, 1.0, teacher, world.videos.iloc[:-1], world.media)


def test_without_videos_or_teacher_the_message_says_how_to_go_on(
    world: World, make_store: MakeStore, teacher: Path, tmp_path: Path
) -> None:
    folder = make_store()[0]
    with pytest.raises(StoreError, match=r"cannot be verified, a file .*clip0\.mp4.*set verify to 0"):
        verify_store(folder, 1.0, teacher, world.videos, tmp_path / "nowhere")
    with pytest.raises(StoreError, match=r"cannot be verified, the teacher .*is no teacher folder.*set verify to 0"):
        verify(world, folder, tmp_path)
    other = make_teacher_folder(tmp_path / "other", seed=1)
    with pytest.raises(StoreError, match=r"was made by the teacher 'train_small' with weights \w{12}…, found weights \w{12}…"):
        verify(world, folder, other)
    # With verify 0 none of them is looked at.
    assert verify_store(folder, 0.0, tmp_path, world.videos.iloc[:0], tmp_path / "nowhere") == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset_id": "other"}, 'dataset_id: the parameters say "other", the store has "tiny"'),
        ({"teacher": {"layers": 3}}, "teacher.layers: the parameters say 3, the store has 2"),
        ({"teacher": {"layers": 2, "interval": 2}}, "teacher.interval: the parameters say 2.0, the store has 1.0"),
        (
            {"teacher": {"source": "open_clip:ViT-B-16/openai", "layers": 2}},
            'teacher.source: the parameters say "open_clip:ViT-B-16/openai", the store has "train_small"',
        ),
        ({"view": {"frames": 2, "size": 64}}, "view.size: the parameters say 64, the store has 32"),
        ({"view": {"frames": 4, "size": 32}}, "view.frames: the parameters say 4, the store has 2"),
        ({"codec": "int8"}, 'codec.kind: the parameters say "int8", the store has "fp16"'),
        ({"codec": "pq"}, "codec.bytes_per_token: the parameters say 2, the store has null"),
        ({"views": 8}, "views: the parameters say 8, the store has 3"),
        ({"mask": {"ratio": 0.5}}, "mask.ratio: the parameters say 0.5, the store has 0.8"),
        ({"pixels": "frames"}, 'pixels: the parameters say "frames", the store has "visible"'),
        ({"precision": "bf16"}, 'precision: the parameters say "bf16", the store has "fp32"'),
        ({"splits": ("train", "validation")}, 'splits: the parameters say ["train", "validation"], the store has ["train"]'),
    ],
    ids=str,
)
def test_a_store_made_with_other_settings_is_refused(
    make_store: MakeStore, teacher: Path, changes: dict[str, Any], message: str
) -> None:
    folder = make_store()[0]
    require_settings(folder, make_config(shard_rows=100, batch_size=7, workers=3), teacher)
    with pytest.raises(StoreError) as error:
        require_settings(folder, make_config(**changes), teacher)
    assert message in str(error.value)
    assert "Run teacher_features again, or set the parameters back" in str(error.value)


def test_auto_takes_a_store_of_either_precision(make_store: MakeStore, teacher: Path) -> None:
    folder = make_store(**BF16)[0]
    require_settings(folder, make_config(), teacher)
    with pytest.raises(StoreError, match='precision: the parameters say "fp32", the store has "bf16"'):
        require_settings(folder, make_config(precision="fp32"), teacher)


def test_a_store_of_another_version_or_of_other_weights_is_refused(
    make_store: MakeStore, teacher: Path, tmp_path: Path
) -> None:
    folder = make_store()[0]
    with pytest.raises(StoreError, match=r"was made by the teacher 'train_small' with weights \w{12}…, found"):
        require_settings(folder, make_config(), make_teacher_folder(tmp_path / "other", seed=1))
    manifest = read_json(folder / "manifest.json")
    write_json(folder / "manifest.json", {**manifest, "schema_version": 0})
    with pytest.raises(StoreError, match=r"expected schema_version 4, found 0\. Make the store again"):
        require_settings(folder, make_config(), teacher)


def test_the_weights_of_a_timm_teacher_are_compared_too(make_store: MakeStore, tmp_path: Path) -> None:
    folder = make_store()[0]
    require_settings(folder, make_config(), None)
    with pytest.raises(CheckpointError, match=r"is no teacher folder: open_clip_config\.json is missing"):
        teacher_weights_file(tmp_path)
    require_settings(folder, make_config(), tmp_path)
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"others")
    with pytest.raises(StoreError, match=f"found weights {sha256_file(weights)[:12]}"):
        require_settings(folder, make_config(), tmp_path)
