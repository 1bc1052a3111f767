"""The demo world: real files, reproducible tables, and frames that do not give the motion away."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from umt_pipeline.demo_world.captions import WORDS
from umt_pipeline.demo_world.corpus import DemoCorpusConfig, encode, plan_corpus, plan_images, write_corpus
from umt_pipeline.demo_world.scenes import COLOURS, MOTIONS, SHAPES, Appearance, Scene, render
from umt_pipeline.video.images import probe_image
from umt_pipeline.video.media import VideoRules
from umt_pipeline.video.reader import probe

SMALL = DemoCorpusConfig(
    train_clips=6, train_images=3, validation_clips=2, test_clips=2, motion_appearances=1, side=(64, 80), frames=(8, 10),
    workers=1,
)  # fmt: skip


def test_the_same_seed_gives_the_same_corpus(tmp_path: Path) -> None:
    tables = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        tables.append(write_corpus(SMALL, 3, tmp_path / name))
    for first, second in zip(*tables, strict=True):
        pd.testing.assert_frame_equal(first, second)
    for path in (tmp_path / "a").rglob("*.mp4"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    assert plan_corpus(SMALL, 3) != plan_corpus(SMALL, 4)


def test_files_are_what_the_plan_says(tmp_path: Path) -> None:
    videos, captions, labels = write_corpus(SMALL, 0, tmp_path)
    for clip in plan_corpus(SMALL, 0):
        info = probe(tmp_path / clip.name, VideoRules())
        assert (info.codec, info.num_frames, info.width, info.height) == (
            "h264",
            clip.scene.frames,
            clip.scene.width,
            clip.scene.height,
        )
    assert set(captions["video"]) == set(videos["video"])
    assert Counter(labels["task"]) == dict.fromkeys(["shape", "colour", "size", "motion"], 6 + 2 + 2 + len(MOTIONS))


def test_only_some_training_clips_have_captions() -> None:
    clips = plan_corpus(DemoCorpusConfig(train_clips=900, captioned_clips=432), 0)
    captioned = [(clip.scene.appearance, clip.scene.motion) for clip in clips if clip.split == "train" and clip.captions]
    assert len(set(captioned)) == len(captioned) == 432, "every combination once"
    assert all(clip.captions for clip in clips if clip.split != "train")


def test_the_motion_set_shows_each_appearance_in_every_motion() -> None:
    clips = [clip for clip in plan_corpus(DemoCorpusConfig(motion_appearances=5), 0) if clip.split == "test_motion"]
    by_appearance = Counter(clip.scene.appearance for clip in clips)
    assert len(by_appearance) == 5
    assert set(by_appearance.values()) == {len(MOTIONS)}
    assert len({(clip.scene.appearance, clip.scene.motion) for clip in clips}) == len(clips)


def test_test_clips_differ_in_what_they_show() -> None:
    clips = [clip.scene for clip in plan_corpus(DemoCorpusConfig(), 0) if clip.split == "test"]
    assert len({(scene.appearance, scene.motion) for scene in clips}) == len(clips) == 144


PARTNERS = [("left", "right"), ("up", "down"), ("clockwise", "counterclockwise"), ("growing", "shrinking")]


@pytest.mark.parametrize("pair", PARTNERS)
def test_a_motion_and_its_partner_show_the_same_kind_of_frames(pair: tuple[str, str]) -> None:
    # Over many clips, the mean picture of a motion equals its partner's: single frames carry no direction.
    means = []
    for motion in pair:
        scene = Scene(Appearance("ring", "blue", "large"), motion, 12, 12, 48, 48)
        clips = [render(scene, np.random.default_rng(seed)).astype(np.float32).mean(axis=0) for seed in range(150)]
        means.append(np.mean(clips, axis=0))
    assert np.abs(means[0] - means[1]).mean() < 4.0


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_drawn_in_its_colour(shape: str) -> None:
    for colour, rgb in COLOURS.items():
        scene = Scene(Appearance(shape, colour, "large"), "clockwise", 2, 12, 96, 96)
        frames = render(scene, np.random.default_rng(0)).astype(np.float32)
        near = np.abs(frames - np.asarray(rgb)).max(axis=-1) < 30
        assert 0.02 < near.mean() < 0.6, (shape, colour)


def test_captions_name_all_that_can_be_seen() -> None:
    for clip in plan_corpus(SMALL, 1):
        for caption in clip.captions:
            for value in (clip.scene.appearance.shape, clip.scene.appearance.size, clip.scene.motion):
                assert any(word in caption for word in WORDS[value]), (caption, value)
            assert clip.scene.appearance.colour in caption


def test_encoding_keeps_the_picture(tmp_path: Path) -> None:
    from umt_pipeline.video.reader import read_frames

    frames = render(Scene(Appearance("star", "red", "large"), "left", 8, 12, 64, 80), np.random.default_rng(0))
    encode(tmp_path / "clip.mp4", frames, 12)
    decoded = read_frames(tmp_path / "clip.mp4", range(8))
    assert np.abs(decoded.astype(np.float32) - frames).mean() < 6.0


def test_still_images_are_a_corpus_of_their_own(tmp_path: Path) -> None:
    videos, captions, labels = write_corpus(SMALL, 0, tmp_path)
    images = plan_images(SMALL, 0)
    rows = videos[videos["corpus"] == "stills"]
    assert list(rows["video"]) == [*(image.name for image in images), "broken/truncated.jpg"]
    assert set(rows["split"]) == {"train"}
    assert set(videos["corpus"]) == {"stills", "motion"}
    for image in images:
        info = probe_image(tmp_path / image.name, VideoRules())
        assert (info.codec, info.width, info.height) == ("jpeg", image.scene.width, image.scene.height)
        assert set(captions.loc[captions["video"] == image.name, "caption"]) == set(image.captions)
    assert not labels["video"].isin(rows["video"]).any()


def test_captions_of_images_name_what_is_seen_and_no_motion() -> None:
    images = plan_images(DemoCorpusConfig(), 0)
    assert len({image.scene.appearance for image in images[:80]}) == 80, "every appearance once"
    assert len(images) == 192
    for image in images:
        assert len(set(image.captions)) == len(image.captions) == 3
        for caption in image.captions:
            for value in (image.scene.appearance.shape, image.scene.appearance.size):
                assert any(word in caption for word in WORDS[value]), (caption, value)
            assert image.scene.appearance.colour in caption
            assert not any(word in caption for motion in MOTIONS for word in WORDS[motion]), caption


def test_clips_are_the_same_with_and_without_images() -> None:
    # Golden hash: results of the demo stay comparable when the world around the clips grows.
    clips = plan_corpus(DemoCorpusConfig(captioned_clips=576), 0)
    text = repr([(clip.name, clip.split, clip.scene, clip.captions, clip.key) for clip in clips])
    assert hashlib.sha256(text.encode()).hexdigest() == "dee9f5182d61406ae43c252c99fc2f9d2cab2dbc6961ff02de549e8f54680e6a"
