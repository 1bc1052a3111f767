"""`umt plan` of stage 2: what is counted, which stages an overlay is planned for, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from tests.commands.test_plan_stage1 import FREE, HARDWARE, plans
from umt_pipeline.commands import main as cli
from umt_pipeline.commands.plan import Counts, plan_project
from umt_pipeline.commands.plan_stage2 import Stage2Plan
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.project_config import config_loader

# Without the demo's own additions, so that sums can be done by hand. It pins fp32: 67 TFLOP/s.
PLAIN = "stage2.control=false,stage2.train.epochs=28,stage2.unmasked_epochs=0"


def demo(overrides: str = PLAIN, clips: int = 1728, images: int = 800, **rates: float) -> Stage2Plan:
    found = plans(overrides, None, Counts(clips, images), **rates).stage2
    assert found is not None
    return found


def test_computing_alone_is_every_samples_flops() -> None:
    result = demo(**FREE)
    video, image = result.samples
    assert (video.trained, image.trained) == (54 * 32, 25 * 32), "whole batches of one kind"
    assert (result.samples_per_epoch, result.steps) == (79 * 32, 79 * 28)
    assert (video.visible, image.visible) == (4 * 4, 8), "a fifth of 16 patches in each frame rounds up; half of an image's"
    flops = 28 * sum(sample.trained * (sample.total_flops + sample.teacher_flops) for sample in result.samples)
    assert result.online.device_hours == pytest.approx(flops / (0.4 * 67e12) / 3600)
    cached = 28 * sum(sample.trained * sample.total_flops for sample in result.samples)
    assert result.cached.phases[1].device_hours == pytest.approx(cached / (0.4 * 67e12) / 3600)


def test_images_are_decoded_at_a_rate_of_their_own() -> None:
    both, videos = demo(image_rate=1.0), demo(images=0)
    assert [sample.medium for sample in videos.samples] == ["video"]
    slower = both.online.phases[0].decode_device_hours - videos.online.phases[0].decode_device_hours
    assert slower == pytest.approx(28 * 25 * 32 / 3600), "one thread decodes, since train.workers is 0"
    assert both.store_bytes == 1728 * 4 * both.samples[0].bytes_per_view + 800 * 2 * both.samples[1].bytes_per_view


def test_control_doubles_the_training_and_not_the_store() -> None:
    once, twice = demo(), demo("stage2.train.epochs=28,stage2.unmasked_epochs=0")
    assert (once.trainings, twice.trainings) == (1, 2)
    assert twice.online.device_hours == pytest.approx(2 * once.online.device_hours)
    assert twice.cached.phases[0] == once.cached.phases[0]


def test_without_a_mask_all_patches_are_computed_and_no_teacher_runs() -> None:
    result = demo("stage2.control=false,stage2.train.epochs=28,stage2.unmasked_epochs=22", **FREE)
    video = result.samples[0]
    assert video.unmasked_flops["alignment"] == 0
    assert video.unmasked_flops["encoders"] > video.flops["encoders"]
    flops = sum(
        6 * sample.trained * (sample.total_flops + sample.teacher_flops)
        + 22 * sample.trained * sum(sample.unmasked_flops.values())
        for sample in result.samples
    )
    assert result.online.device_hours == pytest.approx(flops / (0.4 * 67e12) / 3600)


def test_an_objective_left_out_costs_nothing() -> None:
    with_words, without = demo().samples[0].flops, demo(f"{PLAIN},stage2.weights.masked_language=0.0").samples[0].flops
    assert without == {**with_words, "masked_language": 0}


def test_samples_that_fill_no_batch_are_refused() -> None:
    with pytest.raises(ConfigError, match="an epoch draws 31 samples of group 'image', not enough for one batch of 32"):
        demo(images=31)


@pytest.mark.parametrize(
    ("env", "expected"), [(None, {"stage1", "stage2"}), ("umt_b16", {"stage1"}), ("local", {"stage1", "stage2"})]
)
def test_an_overlay_is_planned_for_the_stages_that_it_has_recipes_for(env: str | None, expected: set[str]) -> None:
    assert set(plans("", env, Counts(4096)).to_json()) == expected


def test_media_are_counted_with_their_weights(project: Path) -> None:
    rows = [("a", "video", "train", 200), ("a", "image", "train", 80), ("b", "image", "train", 300), ("b", "image", "test", 50)]
    table = pd.DataFrame(
        [(f"{row}", medium, split, corpus) for corpus, medium, split, count in rows for row in range(count)],
        columns=["video_id", "media", "split", "corpus"],
    ).assign(size_bytes=1000)
    file = project / "data/03_primary/videos.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(file)
    result = plan_project(project, config_loader(project, None, f"{PLAIN},stage2.corpora.b=0.5"), None, HARDWARE).stage2
    assert result is not None
    assert [(sample.medium, sample.count) for sample in result.samples] == [("video", 200), ("image", 230)]


def test_the_command_prints_both_stages(project: Path) -> None:
    command = ["plan", "--clips", "1728", "--images", "800"]
    text = CliRunner().invoke(cli.app, command).output
    for expected in ("Stage 1", "Stage 2", "image, 8 tokens", "masked language", "same again for the control", "image_rate"):
        assert expected in text
    record = json.loads(CliRunner().invoke(cli.app, [*command, "--json"]).output)
    assert record["stage2"]["samples_per_epoch"] == 79 * 32
    result = CliRunner().invoke(cli.app, ["plan", "--images", "800"])
    with pytest.raises(ConfigError, match="--images 800 goes with --clips"):
        raise result.exception or AssertionError(result.output)
