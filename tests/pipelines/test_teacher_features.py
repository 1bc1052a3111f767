"""The nodes that get a published teacher and extract its features."""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import torch
from pydantic import ValidationError

from tests.features.test_image_store import write_images
from tests.features.test_store import bytes_of
from tests.features.tiny import make_config, make_corpus, make_teacher_folder
from tests.video import crashing
from umt_pipeline.compute import precision
from umt_pipeline.compute.gain import Speeds
from umt_pipeline.core.errors import CheckpointError, ConfigError, StoreError
from umt_pipeline.core.files import move_folder
from umt_pipeline.data.mapped import MappedTable, write_mapped
from umt_pipeline.features.codecs import Int8
from umt_pipeline.features.provider import OnlineTargets
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.models.teacher import TeacherConfig, load_teacher
from umt_pipeline.pipelines.sources import gather_views
from umt_pipeline.pipelines.teacher_features.nodes import extract_features
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.pipelines.teacher_features.teacher_nodes import get_teacher, plan_teacher
from umt_pipeline.video import decode
from umt_pipeline.video.views import ViewConfig


def test_what_was_extracted_is_not_extracted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = make_corpus(tmp_path / "media", ["train", "test", "train"])
    images = write_images(tmp_path / "media", ["train", "test"])
    videos = pd.concat([images, videos], ignore_index=True)
    teacher = make_teacher_folder(tmp_path / "teacher")
    params = TeacherFeaturesParams(**dict(make_config()))
    arguments = (params, teacher, tmp_path / "media", videos, tmp_path / "workspace")
    folder, image_folder, report, took = extract_features(*arguments)
    assert (report["rows"], report["images"]["rows"]) == (6, 3)
    assert (took["rows_found"], took["images"]["rows_found"]) == (0, 0)
    assert not {"seconds", "rows_found", "store_bytes", "codec_cosine_error"} & set(report), "they differ between equal runs"
    first = bytes_of(folder)
    for name, source in (("store", folder), ("image_store", image_folder)):
        move_folder(source, tmp_path / name)  # as the catalog does
        FeatureStore(tmp_path / name).verify()

    def no_extraction(*_: object) -> None:
        raise AssertionError("nothing changed")

    with monkeypatch.context() as patch:
        patch.setattr("umt_pipeline.pipelines.teacher_features.nodes.extract", no_extraction)
        again, _, *told_again = extract_features(*arguments)
        assert (bytes_of(again), told_again) == (first, [report, took])
        with pytest.raises(AssertionError, match="nothing changed"):
            extract_features(params.model_copy(update={"views": 1}), *arguments[1:])

    # Changed in place where the catalog put it: links share their bytes.
    with next((tmp_path / "store/shards").glob("*/targets.npy")).open("r+b") as handle:
        handle.seek(-1, 2)
        handle.write(b"x")
    assert bytes_of(extract_features(*arguments)[0]) == first, "a store that was changed is made again"

    extract_features(params.model_copy(update={"views": 1}), *arguments[1:])
    assert len(list((tmp_path / "workspace/features").glob("*/store"))) == 1, "of finished stores the latest is kept"


def test_one_clip_more_extracts_that_clip_and_abandoned_work_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    videos = make_corpus(tmp_path / "media", ["train"] * 3)
    videos = pd.concat([write_images(tmp_path / "media", ["train"]), videos], ignore_index=True)
    teacher = make_teacher_folder(tmp_path / "teacher")
    params, work = TeacherFeaturesParams(**dict(make_config())), tmp_path / "workspace/features"

    def run(rows: int, **changes: object) -> dict[str, Any]:
        changed = params.model_copy(update=changes)
        _, _, report, took = extract_features(changed, teacher, tmp_path / "media", videos.iloc[:rows], tmp_path / "workspace")
        return {**report, **took}

    run(3)
    before = set(work.iterdir())

    def killed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("umt_pipeline.features.shards.run_teacher_on", killed)
        for view in (ViewConfig(frames=3, size=32), ViewConfig(frames=4, size=32)):
            with pytest.raises(KeyboardInterrupt):
                run(3, view=view)
    recent, abandoned = sorted(set(work.iterdir()) - before)
    for folder in (abandoned, abandoned / "store", abandoned / "store/shards"):
        os.utime(folder, (0, time.time() - 15 * 24 * 3600))
    with caplog.at_level(logging.INFO):
        report = run(4)
    assert [report[name] for name in ("rows", "rows_found", "rows_resumed", "rows_dead")] == [9, 6, 0, 0]
    assert "9 views wanted, 6 found by content, 0 there already, 3 to extract (of 1 clips)" in caplog.text
    assert "is finished (3 views of images): not extracted again" in caplog.text
    assert recent.is_dir()
    assert not abandoned.exists(), "nothing was written to it for two weeks"
    assert len(list(work.glob("*/store"))) == 2, "of finished stores the latest is kept"


def test_auto_stays_with_the_precision_of_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    videos = make_corpus(tmp_path / "media", ["train"] * 3)
    teacher = make_teacher_folder(tmp_path / "teacher")
    params = TeacherFeaturesParams(**dict(make_config()))

    def run(rows: int, **changes: object) -> tuple[str, int]:
        changed = params.model_copy(update=changes)
        store, _, _, times = extract_features(changed, teacher, tmp_path / "media", videos.iloc[:rows], tmp_path / "workspace")
        return FeatureStore(store).manifest.precision, times["rows_found"]

    def measured(gain: float) -> None:
        monkeypatch.setattr(precision, "measured_speeds", lambda device: Speeds(1e12, gain * 1e12))

    measured(1.31)
    assert run(1) == ("bf16", 0)
    measured(1.29)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert run(1) == ("bf16", 0), "it is found, finished"
        assert run(2) == ("bf16", 3), "so are its records"
    assert "precision: bf16, that of the 3 records in" in caplog.text
    assert "TFLOP/s" not in caplog.text, "nothing is measured"

    assert run(2, precision="fp32") == ("fp32", 0), "what is asked for is taken"
    measured(1.31)
    assert run(2, codec=Int8()) == ("bf16", 0), "other records of the same teacher decide nothing"

    def killed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("umt_pipeline.features.shards.run_teacher_on", killed)
        with pytest.raises(KeyboardInterrupt):
            run(3, pixels="frames")
    measured(1.29)
    assert run(3, pixels="frames") == ("bf16", 0), "what was only begun decides too"


def test_two_runs_work_on_the_same_store(tmp_path: Path) -> None:
    videos = make_corpus(tmp_path / "media", ["train"] * 3)
    params, teacher = TeacherFeaturesParams(**dict(make_config(shard_rows=2))), make_teacher_folder(tmp_path / "teacher")
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(extract_features, params, teacher, tmp_path / "media", videos, tmp_path / "workspace") for _ in range(2)
        ]
        stores = [run.result()[0] for run in runs]
    assert stores[0] != stores[1]
    assert bytes_of(stores[0]) == bytes_of(stores[1])
    assert FeatureStore(stores[0]).manifest.rows == 9


def test_a_clip_that_is_back_is_extracted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    videos = make_corpus(tmp_path / "media", ["train"] * 3)
    teacher = make_teacher_folder(tmp_path / "teacher")
    params = TeacherFeaturesParams(**dict(make_config(max_rejected_share=0.5)))
    arguments = (params, teacher, tmp_path / "media", videos, tmp_path / "workspace")
    (tmp_path / "media/clip1.mp4").rename(tmp_path / "aside.mp4")
    store, _, report, _ = extract_features(*arguments)
    assert (report["rows"], report["rows_rejected"]) == (6, 3)
    images = tmp_path / "nothing"
    views = gather_views(params, teacher, videos, tmp_path / "media", store, images)
    assert views.videos["video_id"].tolist() == ["clip0", "clip2"]
    assert extract_features(*arguments)[2] == report, "it is still not there: nothing is done"
    with monkeypatch.context() as patch:
        patch.setattr(decode, "_load", crashing.load)
        (tmp_path / "media/clip1.mp4").write_bytes(b"crash")
        assert extract_features(*arguments)[2] == report, "what crashes a decoder is not tried in this process"
    (tmp_path / "aside.mp4").rename(tmp_path / "media/clip1.mp4")
    with caplog.at_level(logging.INFO):
        store, _, report, took = extract_features(*arguments)
    assert [report["rows"], took["rows_found"], report["rows_rejected"]] == [9, 6, 0]
    assert "clip1.mp4 can be read now" in caplog.text
    assert gather_views(params, teacher, videos, tmp_path / "media", store, images).videos is videos


def test_bad_parameters_and_a_missing_teacher_are_refused(tmp_path: Path) -> None:
    settings = dict(make_config())
    with pytest.raises(ValidationError, match="veiws"):
        TeacherFeaturesParams.model_validate({**settings, "veiws": 3})
    params = TeacherFeaturesParams(**settings)
    with pytest.raises(CheckpointError, match="is no teacher folder"):
        extract_features(params, tmp_path, tmp_path, make_corpus(tmp_path / "media", ["train"]), tmp_path)


def test_a_published_teacher_is_fetched_and_its_importance_is_part_of_the_stores_identity(tmp_path: Path) -> None:
    videos = make_corpus(tmp_path / "media", ["train", "train"])
    torch.save(timm.create_model("test_vit3").state_dict(), tmp_path / "weights.pth")
    source = TeacherConfig(source=f"timm:test_vit3/{tmp_path / 'weights.pth'}", layers=2)
    params = TeacherFeaturesParams(**dict(make_config(teacher=source)))
    empty = pd.DataFrame()
    runs, sentences = plan_teacher(params, 0, tmp_path / "media", videos, empty, empty, tmp_path / "workspace")
    assert (runs, sentences) == ({}, {})
    folder, history, metrics, times = get_teacher(params, {}, {}, tmp_path / "media", videos, empty, tmp_path / "workspace")
    assert (len(history), times) == (0, {})
    assert metrics == {"source": source.source, "importance": "pool_attention", "target_dim": 96}
    store, image_store, *_ = extract_features(params, folder, tmp_path / "media", videos, tmp_path / "workspace")
    manifest = FeatureStore(store).manifest
    assert (manifest.teacher.importance, manifest.target_dim) == ("pool_attention", 96)
    assert FeatureStore(image_store).manifest.teacher == manifest.teacher
    teacher = load_teacher(folder, source, grid=4)
    write_mapped(tmp_path / "clips.arrow", videos)
    clips = MappedTable(tmp_path / "clips.arrow")
    OnlineTargets(teacher, manifest, clips, tmp_path / "media")
    other = manifest.teacher.model_copy(update={"importance": "token_norm"})
    with pytest.raises(StoreError, match=r"the store has .*'token_norm'.*, found .*'pool_attention'"):
        OnlineTargets(teacher, manifest.model_copy(update={"teacher": other}), clips, tmp_path / "media")


def test_a_teacher_that_cannot_teach_is_refused_when_it_is_fetched(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "resnet.pth")
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    cases = (
        (f"timm:test_resnet/{tmp_path / 'resnet.pth'}", 1, "expected a ViT .* found timm.models.resnet.ResNet"),
        (f"timm:test_vit/{tmp_path / 'vit.pth'}", 7, r"teacher\.layers, .*: cannot align 7 of 6 blocks"),
        ("CLIP", 1, "expected 'train_small' or one of open_clip:.* found 'CLIP'"),
    )
    empty = pd.DataFrame()
    for source, layers, message in cases:
        teacher = TeacherConfig(source=source, layers=layers)
        params = TeacherFeaturesParams(**dict(make_config(teacher=teacher)))
        with pytest.raises(ConfigError, match=message):
            get_teacher(params, {}, {}, tmp_path, empty, empty, tmp_path / "workspace")


def test_a_source_is_checked_before_anything_runs(tmp_path: Path) -> None:
    for source, message in (
        ("CLIP", "expected 'train_small' or one of open_clip:.* found 'CLIP'"),
        (f"timm:test_vit3/{tmp_path / 'gone.pth'}", "expected a weights file, found none"),
        ("train_small", "source is 'train_small', but teacher_features.train_small is missing"),
    ):
        params = TeacherFeaturesParams(**dict(make_config(teacher=TeacherConfig(source=source))))
        with pytest.raises(ConfigError, match=message):
            params.check_inputs()
    (tmp_path / "gone.pth").touch()
    TeacherFeaturesParams(
        **dict(make_config(teacher=TeacherConfig(source=f"timm:test_vit3/{tmp_path / 'gone.pth'}")))
    ).check_inputs()
