"""Extraction: the same bytes for any number of workers and interruptions, and loud failures."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.features.conftest import MakeStore, World
from tests.features.test_store import bytes_of
from tests.features.tiny import leave_unfinished, make_config, make_teacher
from umt_pipeline.core.errors import ConfigError, StoreError
from umt_pipeline.core.identity import PACKAGE_FOLDER, closure
from umt_pipeline.features.extract import plan_extraction
from umt_pipeline.features.runner import Progress, begin, extract
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.features.targets import mask_noise
from umt_pipeline.masking import draw_visible
from umt_pipeline.video.pixels import normalise_frames, patchify
from umt_pipeline.video.views import load_view


def test_each_record_is_what_its_recorded_view_gives(world: World, make_store: MakeStore) -> None:
    folder, report = make_store(splits=("train", "validation"), codec="int8", pixels="visible")
    store = FeatureStore(folder)
    store.verify()
    assert store.index["split"].to_pylist() == ["train"] * 12 + ["validation"] * 3
    assert store.index["view_number"].to_pylist() == [0, 1, 2] * 5
    assert (report["rows"], report["clips"], report["views"]) == (15, 5, 3)
    assert report["codec_cosine_error"]["max"] < 1e-3
    assert report["bytes_per_clip_view"]["total"] * 15 == report["store_bytes"]
    paths = world.videos.set_index("video_id")["path"]
    for row in (0, 4, 14):
        record = store.record(row)
        frames = torch.from_numpy(load_view(world.media / paths[record["video_id"]], store.view(row)))
        read = store.read(np.array([row]))
        visible = read["visible"][0]
        assert (patchify(frames[None], 8)[0][visible] == read["patches"][0]).all()
        output = world.teacher(normalise_frames(frames))
        everything = world.teacher.project(output.layers_KFNW).flatten(1, 2)
        assert torch.allclose(everything[:, visible], read["targets"][:, 0], atol=0.02)
        torch.testing.assert_close(read["attention"][0].float(), output.importance_FN, rtol=1e-2, atol=1e-4)
        # The mask can be drawn again from what is stored.
        noise = torch.from_numpy(mask_noise("tiny", record["video_id"], record["view_number"], 2, 16))
        assert (draw_visible(store.manifest.mask, noise[None], read["attention"])[0] == visible).all()


@pytest.mark.parametrize("codec", ["fp16", "pq"])
def test_bytes_do_not_depend_on_workers_or_interruptions(
    world: World, make_store: MakeStore, tmp_path: Path, codec: str
) -> None:
    changes: dict[str, Any] = {"codec": codec, **({"mask": {"kind": "none"}} if codec == "pq" else {})}
    expected = bytes_of(make_store("serial", **changes)[0])
    assert bytes_of(make_store("parallel", workers=2, **changes)[0]) == expected

    config = make_config(**changes)
    plan = plan_extraction(config, world.teacher, world.videos)
    for done in (5, 10, 12):
        leave_unfinished(begin(config, world.teacher, plan, world.media, tmp_path / "killed"), world.teacher, shards=1)
        assert len(list((tmp_path / "killed" / "shards").glob("[0-9]*"))) == -(-done // 5), done
    folder, report = make_store("killed", **changes)
    assert report["rows_resumed"] == 12
    assert "codec_cosine_error" not in report
    assert bytes_of(folder) == expected


def test_code_books_come_from_the_whole_corpus_and_serve_it_well(make_store: MakeStore) -> None:
    # 12 rows of 32 tokens: all of them are the sample.
    folder, report = make_store(codec={"kind": "pq", "bytes_per_token": 4}, mask={"kind": "none"})
    store = FeatureStore(folder)
    assert report["bytes_per_clip_view"]["targets"] == 2 * 32 * 4
    assert report["codec_cosine_error"]["mean"] < 0.02
    exact = FeatureStore(make_store("exact", mask={"kind": "none"})[0])
    rows = np.arange(12)
    cosine = (store.read(rows)["targets"] * exact.read(rows)["targets"].float()).sum(-1)
    assert cosine.mean() > 0.98
    with pytest.raises(ConfigError, match=r"expected at least 256 sampled tokens per layer .* found 96"):
        make_store("few", codec="pq")
    assert len(FeatureStore(make_store("online", codec="pq", views=0)[0])) == 0


def test_a_full_disk_stops_extraction_and_the_next_run_goes_on(world: World, make_store: MakeStore, tmp_path: Path) -> None:
    config = make_config()
    plan = plan_extraction(config, world.teacher, world.videos)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(progress: Progress) -> None:
        if progress.done >= 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))

    try:
        with pytest.raises(StoreError, match=r"cannot write at row \d+ of 12.*Finished shards are kept; make room \(\d+ bytes"):
            extract(config, world.teacher, plan, world.media, tmp_path / "store", fill_the_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in (tmp_path / "store/shards").iterdir()] == ["00000"]
    folder, report = make_store("store")
    assert report["rows_resumed"] == 5
    assert bytes_of(folder) == bytes_of(make_store("whole")[0])


def test_whole_frames_hold_the_visible_patches(make_store: MakeStore) -> None:
    visible = FeatureStore(make_store("visible")[0]).read(np.arange(12))
    frames = FeatureStore(make_store("frames", pixels="frames")[0]).read(np.arange(12))
    assert (visible["visible"] == frames["visible"]).all()
    index = visible["visible"].unsqueeze(-1).expand(-1, -1, 192)
    assert (patchify(frames["frames"], 8).gather(1, index) == visible["patches"]).all()


@pytest.mark.parametrize(("kind", "count"), [("random", 4), ("tube", 4), ("none", 16)])
def test_other_masks(make_store: MakeStore, kind: str, count: int) -> None:
    read = FeatureStore(make_store(kind, mask={"kind": kind, "ratio": 0.8})[0]).read(np.arange(12))
    per_frame = read["visible"].reshape(12, 2, count)
    assert (per_frame // 16 == torch.tensor([0, 1])[None, :, None]).all()
    if kind == "tube":
        assert (per_frame[:, 0] == per_frame[:, 1] - 16).all()


def test_no_views_is_a_store_for_online_training(make_store: MakeStore) -> None:
    folder, report = make_store(views=0)
    assert len(FeatureStore(folder)) == 0
    assert report["rows"] == 0


def test_a_store_says_what_its_teacher_ran_in(make_store: MakeStore) -> None:
    exact, rounded = FeatureStore(make_store("a")[0]), FeatureStore(make_store("b", precision="bf16")[0])
    assert (exact.manifest.precision, rounded.manifest.precision) == ("fp32", "bf16"), "auto takes fp32 in tests"
    records = [store.manifest.header().record_identity() for store in (exact, rounded)]
    assert records[0].differences(records[1]) == ["precision: 'bf16' became 'fp32'"], "none is taken over"
    with pytest.raises(StoreError, match="holds another store: precision: 'bf16' became 'fp32'"):
        make_store("b")
    stored = [store.read_raw(np.arange(12)) for store in (exact, rounded)]
    assert not torch.equal(stored[0]["attention"], stored[1]["attention"])
    torch.testing.assert_close(stored[0]["attention"].float(), stored[1]["attention"].float(), rtol=0.05, atol=1e-3)


def test_the_plan_changes_when_the_content_would(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(**changes: object) -> str:
        return plan_extraction(make_config(**changes), world.teacher, world.videos).identity.key

    keys = [
        key(),
        key(views=2),
        key(codec="int8"),
        key(codec="pq"),
        key(codec={"kind": "pq", "bytes_per_token": 4}),
        key(codec={"kind": "pq", "sample_rows": 5}),
        key(dataset_id="other"),
        key(mask={"ratio": 0.5}),
        key(shard_rows=6),
        key(precision="bf16"),
    ]
    changed = world.videos.assign(sha256="0")
    keys.append(plan_extraction(make_config(), world.teacher, changed).identity.key)
    other = make_teacher(tmp_path / "other", seed=1)
    keys.append(plan_extraction(make_config(), other, world.videos).identity.key)
    assert len(set(keys)) == len(keys)
    assert key(workers=7) == keys[0]
    assert key(precision="fp32") == keys[0], "what auto took decides, not who asked"
    monkeypatch.setattr("umt_pipeline.features.extract.__version__", "99")
    assert key() == keys[0], "a release that changes no code here"


def test_what_does_not_fit_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected videos in split 'test', found train, validation"):
        plan_extraction(make_config(splits=("train", "test")), world.teacher, world.videos)
    with pytest.raises(ConfigError, match=r"grid of 2 patches.*grid of 4"):
        plan_extraction(make_config(patch_size=16), world.teacher, world.videos)
    with pytest.raises(ValueError, match=r"codec\.fp16\.bytes_per_token"):
        make_config(codec={"kind": "fp16", "bytes_per_token": 4})
    with pytest.raises(ConfigError, match=r"codec\.bytes_per_token: expected a divisor of the target width 16, found 3"):
        plan_extraction(make_config(codec={"kind": "pq", "bytes_per_token": 3}), world.teacher, world.videos)
    with pytest.raises(ValueError, match="must be a multiple of patch_size"):
        make_config(patch_size=7)
    with pytest.raises(ValueError, match=r"mask\.ratio must be"):
        make_config(mask={"ratio": 1.0})
    with pytest.raises(ValueError, match="each split once"):
        make_config(splits=("train", "train"))


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_videos_that_fail_now_end_it_with_their_names(world: World, tmp_path: Path, workers: int) -> None:
    videos = world.videos.assign(path=world.videos["path"].replace("clip3.mp4", "gone.mp4"))
    config = make_config(workers=workers)
    plan = plan_extraction(config, world.teacher, videos)
    with pytest.raises(StoreError, match=r"accepted cannot be read now: 1 of 4 clips.*max_rejected_share.*gone\.mp4"):
        extract(config, world.teacher, plan, world.media, tmp_path)
    assert (tmp_path / "shards/00000").is_dir()
    assert not (tmp_path / "manifest.json").exists()


def test_what_is_recorded_depends_on_no_code_of_the_student() -> None:
    files = {file.relative_to(PACKAGE_FOLDER).as_posix() for file in closure(["features.extract", "features.shards"])}
    assert {"models/towers.py", "video/decode.py", "masking.py"} <= files
    assert not {"features/runner.py", "models/vit.py", "models/student.py"} & files
    assert not any(file.startswith(("training/", "data/")) for file in files)
