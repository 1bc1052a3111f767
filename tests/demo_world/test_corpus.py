"""The demo world: real files, reproducible tables, and frames that do not give the motion away."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from umt_pipeline.demo_world.captions import WORDS
from umt_pipeline.demo_world.corpus import (
    Clip,
    DemoCorpusConfig,
    encode,
    kinds_by_rank,
    plan_corpus,
    plan_images,
    shared_out,
    write_corpus,
)
from umt_pipeline.demo_world.scenes import COLOURS, MOTIONS, SHAPES, Appearance, Scene, render
from umt_pipeline.video.images import probe_image
from umt_pipeline.video.media import VideoRules
from umt_pipeline.video.reader import probe

SMALL = DemoCorpusConfig(
    kinds=2, train_clips=8, captioned_clips=None, rare=3, train_images=3, validation_clips=2, test_clips=2, test_rare_clips=2,
    motion_appearances=1, side=(64, 80), frames=(8, 10), workers=1,
)  # fmt: skip
CAPTIONED = DemoCorpusConfig()


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
    assert Counter(labels["task"]) == dict.fromkeys(["shape", "colour", "size", "motion"], 8 + 2 + 2 + 2 + len(MOTIONS))


def of_split(clips: list[Clip], split: str) -> list[Clip]:
    return [clip for clip in clips if clip.split == split]


def captioned_kinds(clips: list[Clip]) -> Counter[str]:
    return Counter(clip.scene.appearance.shape for clip in of_split(clips, "train") if clip.captions)


def test_kinds_have_a_long_tail_and_every_one_is_there() -> None:
    clips = plan_corpus(CAPTIONED, 0)
    shown = Counter(clip.scene.appearance.shape for clip in of_split(clips, "train"))
    assert shown.total() == CAPTIONED.train_clips
    assert set(shown) == set(SHAPES)
    counts = [shown[kind] for kind in kinds_by_rank(CAPTIONED, 0)]
    assert counts == sorted(counts, reverse=True) == CAPTIONED.clips_by_rank()
    assert counts[0] > 10 * counts[-1]
    assert kinds_by_rank(CAPTIONED, 0) != kinds_by_rank(CAPTIONED, 1)


def test_only_some_training_clips_have_captions() -> None:
    clips = plan_corpus(CAPTIONED, 0)
    captioned = captioned_kinds(clips)
    assert captioned.total() == CAPTIONED.captioned_clips
    assert set(captioned) == set(SHAPES), "every kind is spoken of"
    assert all(clip.captions for clip in clips if clip.split != "train")


def test_of_some_motions_of_each_kind_no_training_caption_speaks() -> None:
    spoken: dict[str, set[str]] = {}
    shown: set[tuple[str, str]] = set()
    for clip in of_split(plan_corpus(DemoCorpusConfig(captioned_clips=None, test_rare_clips=0), 0), "train"):
        assert clip.captions
        spoken.setdefault(clip.scene.appearance.shape, set()).add(clip.scene.motion)
    assert max(len(motions) for motions in spoken.values()) == len(MOTIONS) - 2
    for clip in of_split(plan_corpus(CAPTIONED, 0), "train"):
        shown.add((clip.scene.appearance.shape, clip.scene.motion))
    common = kinds_by_rank(CAPTIONED, 0)[0]
    assert {motion for kind, motion in shown if kind == common} == set(MOTIONS), "seen, but not spoken of"


def test_test_sets_show_common_and_rare_kinds() -> None:
    clips = plan_corpus(CAPTIONED, 0)
    captioned = captioned_kinds(clips)
    for split, rare in (("test", False), ("test_rare", True), ("test_motion", False)):
        scenes = [clip.scene for clip in of_split(clips, split)]
        assert len({(scene.appearance, scene.motion) for scene in scenes}) == len(scenes) >= 500, split
        assert {captioned[scene.appearance.shape] <= CAPTIONED.rare for scene in scenes} == {rare}
    assert min(captioned.values()) >= 1


def test_the_motion_set_shows_each_appearance_in_every_motion() -> None:
    clips = of_split(plan_corpus(CAPTIONED, 0), "test_motion")
    by_appearance = Counter(clip.scene.appearance for clip in clips)
    assert len(by_appearance) == CAPTIONED.motion_appearances
    assert set(by_appearance.values()) == {len(MOTIONS)}


def test_more_than_there_is_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="`test_clips`: 500 wanted, but there are 0 combinations: 0 of 64 kinds"):
        DemoCorpusConfig(train_clips=64, captioned_clips=None)
    with pytest.raises(ValueError, match="must be at least `kinds`"):
        DemoCorpusConfig(train_clips=63, captioned_clips=None)
    with pytest.raises(ValueError, match="are some of the `train_clips`"):
        DemoCorpusConfig(captioned_clips=2000)


@pytest.mark.parametrize("count", [64, 65, 400, 1600])
def test_things_are_shared_out_to_the_last_one(count: int) -> None:
    shared = shared_out(count, 64, 0.9)
    assert sum(shared) == count
    assert min(shared) >= 1
    assert shared == sorted(shared, reverse=True)


PARTNERS = [("left", "right"), ("up", "down"), ("clockwise", "counterclockwise"), ("growing", "shrinking")]


@pytest.mark.parametrize("pair", PARTNERS)
def test_a_motion_and_its_partner_show_the_same_kind_of_frames(pair: tuple[str, str]) -> None:
    # Over many clips, the mean picture of a motion equals its partner's: single frames carry no direction.
    means = []
    for motion in pair:
        scene = Scene(Appearance("wheel", "blue", "large"), motion, 12, 12, 48, 48)
        clips = [render(scene, np.random.default_rng(seed)).astype(np.float32).mean(axis=0) for seed in range(150)]
        means.append(np.mean(clips, axis=0))
    assert np.abs(means[0] - means[1]).mean() < 4.0


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_drawn_in_its_colour(shape: str) -> None:
    for colour in COLOURS:
        scene = Scene(Appearance(shape, colour, "large"), "clockwise", 2, 12, 96, 96)
        frames = render(scene, np.random.default_rng(0)).astype(np.float32)
        other = replace(scene, appearance=replace(scene.appearance, colour="blue" if colour == "yellow" else "yellow"))
        changed = np.abs(frames - render(other, np.random.default_rng(0))).max(axis=-1) > 60
        assert 0.02 < changed.mean() < 0.6, (shape, colour)
        # Lit from above: of the colour, but not as bright everywhere.
        seen = frames[changed].mean(axis=0)
        assert max(COLOURS, key=lambda name: float(np.corrcoef(seen, COLOURS[name])[0, 1])) == colour, (shape, colour)


def test_captions_name_all_that_can_be_seen() -> None:
    for clip in plan_corpus(SMALL, 1):
        for caption in clip.captions:
            for value in (clip.scene.appearance.shape, clip.scene.appearance.size, clip.scene.motion):
                assert any(word in caption for word in WORDS.get(value, (value,))), (caption, value)
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
    images = plan_images(CAPTIONED, 0)
    assert len({image.scene.appearance for image in images}) == len(images) == CAPTIONED.train_images
    captioned = captioned_kinds(plan_corpus(CAPTIONED, 0))
    assert min(captioned[image.scene.appearance.shape] for image in images) > CAPTIONED.rare, "rare kinds stay rare"
    for image in images:
        assert len(set(image.captions)) == len(image.captions) == 3
        for caption in image.captions:
            for value in (image.scene.appearance.shape, image.scene.appearance.size):
                assert any(word in caption for word in WORDS.get(value, (value,))), (caption, value)
            assert image.scene.appearance.colour in caption
            assert not any(word in caption for motion in MOTIONS for word in WORDS[motion]), caption


def test_clips_are_the_same_with_and_without_images() -> None:
    # Golden hash: results of the demo stay comparable when the world around the clips grows.
    clips = plan_corpus(CAPTIONED, 0)
    assert clips == plan_corpus(CAPTIONED.model_copy(update={"train_images": 0}), 0)
    text = repr([(clip.name, clip.split, clip.scene, clip.captions, clip.key) for clip in clips])
    assert hashlib.sha256(text.encode()).hexdigest() == "d527dc1870d3c544be595fb793af850b4c07d10a4966cf9fd774868bd023a9af"


def test_sentences_are_worded_as_people_would() -> None:
    said = {text for clip in plan_corpus(CAPTIONED, 0) for text in clip.captions}
    assert any(text.startswith("an umbrella") or " an umbrella" in text for text in said)
    assert not any(re.search(r"\ba [aeiou]", text) for text in said)
