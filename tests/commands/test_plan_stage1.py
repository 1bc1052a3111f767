"""`umt plan`: what is counted, which mode is cheaper and why, and what is refused."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.conftest import ROOT
from umt_pipeline.commands import main as cli
from umt_pipeline.commands.plan import Counts, Plans, plan_project
from umt_pipeline.commands.plan_hardware import Hardware, find_device, hardware_values, parse_rates
from umt_pipeline.commands.plan_phases import FURTHER_VIEW
from umt_pipeline.commands.plan_stage1 import CostPlan, find_tower, make_plan
from umt_pipeline.commands.plan_tables import derivations
from umt_pipeline.core.errors import ConfigError, TableError
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.project_config import config_loader, typed_parameters
from umt_pipeline.training.stage1 import Stage1Config

# Rates so large that they never bind.
FREE = {"cores": 1000, "decode_rate": 1e9, "image_rate": 1e9, "store_rate": 1e9, "media_rate": 1e9}


HARDWARE = Hardware.model_validate(hardware_values(find_device("h100"), {"mfu": 0.4, "cores": 16, "decode_rate": 16.0}, {}))


def plans(overrides: str, env: str | None, counts: Counts, **rates: Any) -> Plans:
    return plan_project(ROOT, config_loader(ROOT, env, overrides), counts, HARDWARE.model_copy(update=rates))


def plan(overrides: str = "", env: str | None = "umt_b16", clips: int = 658_340, **rates: Any) -> CostPlan:
    found = plans(overrides, env, Counts(clips), **rates).stage1
    assert found is not None
    return found


def test_computing_alone_is_the_speed_of_light() -> None:
    """132 million clips of 284 + 180 GFLOP at 40 % of 989 TFLOP/s."""
    result = plan(**FREE)
    assert result.online.device_hours == pytest.approx(131.5e6 * (284.4e9 + 180.1e9) / (0.4 * 989e12) / 3600, rel=1e-3)
    assert result.cached.phases[1].device_hours == pytest.approx(16.6, abs=0.1)
    assert result.break_even == pytest.approx(1.0, abs=2e-3), "a view that is seen twice is cheaper recorded"
    assert result.online.hours == pytest.approx(result.online.device_hours / 8), "nproc: 8"


def test_a_phase_takes_its_longest_part() -> None:
    slow = plan(decode_rate=1.0)
    assert slow.online.phases[0].waits_for == "decode"
    assert slow.online.device_hours == slow.online.phases[0].decode_device_hours == pytest.approx(64_200 * 2048 / 12 / 3600)
    assert slow.cached.phases[1].decode_device_hours == 0.0
    files = plan(media_rate=0.01, clip_mb=2.0).online.phases[0]
    assert files.waits_for == "files"
    assert files.device_hours == pytest.approx(64_200 * 2048 * 2.0 / 10 / 3600)
    disks = plan(store_rate=0.1)
    assert disks.cached.phases[1].device_hours == disks.cached.phases[1].store_device_hours
    assert (disks.cheaper, disks.break_even) == ("online", None)


@pytest.mark.parametrize(("workers", "decoders"), [("12", 12), ("64", 16), ("0", 1)])
def test_as_many_processes_decode_as_the_recipe_names_and_no_more_than_there_are_cores(workers: str, decoders: int) -> None:
    phase = plan(f"stage1.train.workers={workers}").online.phases[0]
    assert phase.decode_device_hours == pytest.approx(64_200 * 2048 / (16 * decoders) / 3600)
    alone = plan("teacher_features.views=1").cached.phases[0].decode_device_hours
    assert alone == pytest.approx(658_340 / (16 * 16) / 3600), "null: one per core"


def test_views_of_a_video_are_decoded_together_as_far_as_a_batch_holds_them() -> None:
    alone, ten = (plan(f"teacher_features.views={views}").cached.phases[0] for views in (1, 10))
    assert ten.views_decoded == 10 * alone.views_decoded
    assert ten.decode_device_hours == pytest.approx((1 + 9 * FURTHER_VIEW) * alone.decode_device_hours)
    assert ten.media_device_hours == pytest.approx(alone.media_device_hours), "a file is read once"
    assert "for 10 of a file are decoded together" in ten.how["decode_device_hours"]
    fives = plan("teacher_features.views=10,teacher_features.batch_size=5").cached.phases[0]
    assert fives.decode_device_hours == pytest.approx(2 * (1 + 4 * FURTHER_VIEW) * alone.decode_device_hours)


def test_each_phase_is_priced_in_the_precision_that_it_runs_in() -> None:
    fp32, bf16 = "teacher_features.precision=fp32", "teacher_features.precision=bf16"
    today = plan(fp32, **FREE).cached.phases
    assert [phase.precision for phase in today] == ["fp32", "bf16"]
    assert today[0].compute_device_hours == pytest.approx(989 / 67 * plan(bf16, **FREE).cached.phases[0].compute_device_hours)
    assert "67 TFLOP/s in fp32" in today[0].how["compute_device_hours"]
    slight = HARDWARE.model_copy(update={"bf16_tflops": 1.2, "fp32_tflops": 1.0})
    assert [slight.resolve("auto"), slight.resolve("bf16")] == ["fp32", "bf16"], "auto: where it pays; bf16: as was asked for"


def test_as_many_devices_extract_as_the_parameters_say() -> None:
    for text, devices in [("null", 8), ("2", 2)]:
        result = plan(f"teacher_features.nproc={text}")
        extraction = result.cached.phases[0]
        assert extraction.devices == devices
        assert extraction.hours == pytest.approx(extraction.device_hours / devices)


def test_cores_that_are_the_device_decode_and_compute_in_turns() -> None:
    phase = plan(shared=True, cores=2, bf16_tflops=0.5, fp32_tflops=0.2).online.phases[0]
    assert phase.waits_for == "compute and decode in turns"
    assert phase.device_hours == pytest.approx(phase.compute_device_hours + phase.decode_device_hours)


def test_memory_of_the_host_grows_with_workers_batches_and_rows() -> None:
    def phases(overrides: str) -> list[float]:
        result = plan(overrides)
        return [phase.host_bytes for phase in (*result.online.phases, *result.cached.phases)]

    less, more = phases("stage1.train.workers=1"), phases("stage1.train.workers=3")
    online, _, cached = (after - before for before, after in zip(less, more, strict=True))
    row = plan().bytes_per_clip_view
    assert online == pytest.approx(2 * 40e6 + 4 * 64 * 8 * 224**2 * 3), "two decoders, and two batches of 64 clips for each"
    assert cached == pytest.approx(2 * 40e6 + 4 * 64 * (sum(row.values()) - row["attention"]))
    more_rows = phases("stage1.train.workers=1,teacher_features.views=20")[2] - less[2]
    assert more_rows == pytest.approx(10 * 658_340 * 64, rel=1e-6)


@cache
def recipe() -> tuple[TeacherFeaturesParams, Stage1Config]:
    loader = config_loader(ROOT, "umt_b16")
    return typed_parameters(loader, "teacher_features", TeacherFeaturesParams), typed_parameters(loader, "stage1", Stage1Config)


@settings(deadline=None)
@given(views=st.integers(1, 400), rate=st.floats(0.1, 1e4), store=st.floats(0.05, 100))
def test_break_even_decides_which_is_cheaper(views: int, rate: float, store: float) -> None:
    features, stage1 = recipe()
    features = features.model_copy(update={"views": views})
    hardware = HARDWARE.model_copy(update={"decode_rate": rate, "store_rate": store})
    result = make_plan(features, stage1, find_tower(features, None), 658_340, 658_340, hardware)
    pays = result.break_even is not None and result.epochs / views > result.break_even * (1 + 1e-9)
    ties = result.break_even is not None and result.epochs / views == pytest.approx(result.break_even)
    assert ties or (result.cheaper == "cached") == pays


def test_views_and_codec_come_from_the_parameters() -> None:
    assumed, chosen = plan(), plan("teacher_features.views=4,teacher_features.codec=fp16")
    assert (assumed.views, assumed.views_assumed, chosen.views, chosen.views_assumed) == (10, True, 4, False)
    assert chosen.bytes_per_clip_view["targets"] == 2 * assumed.bytes_per_clip_view["targets"]
    assert chosen.store_bytes == 658_340 * 4 * sum(chosen.bytes_per_clip_view.values())


def test_the_demos_small_teacher_is_known() -> None:
    result = plan(env=None, clips=1728)
    assert (result.teacher, result.views, result.targets, result.epochs) == ("demo", 4, "cached", 50.0)


def test_a_folder_tells_the_sizes_of_its_tower(tmp_path: Path) -> None:
    source = f"teacher_features.teacher.source=open_clip:local-dir:{tmp_path}"
    file = tmp_path / "open_clip_config.json"
    with pytest.raises(ConfigError, match=r"expected a folder with open_clip_config\.json.* FileNotFoundError"):
        plan(source)
    for text, message in [
        ("{", "cannot be read: JSONDecodeError"),
        ("{}", "cannot be read: KeyError.*model_cfg"),
        ('{"model_cfg": {"embed_dim": 512}}', "no description of a model of open_clip: KeyError.*vision_cfg"),
        ('{"model_cfg": 5}', "no description of a model of open_clip: TypeError"),
    ]:
        file.write_text(text)
        with pytest.raises(ConfigError, match=f"local-dir:.*{message}"):
            plan(source)
    file.write_text(json.dumps({"model_cfg": open_clip.get_model_config("ViT-L-14")}))
    assert plan(source).teacher_flops == plan("teacher_features.teacher.source=open_clip:ViT-L-14/openai").teacher_flops


def test_devices() -> None:
    known, given, slow = find_device("H100"), find_device("989/67"), find_device("0.3")
    assert (known["name"], known["bf16_tflops"], known["fp32_tflops"]) == ("h100", 989.0, 67.0)
    assert (given["bf16_tflops"], given["fp32_tflops"], slow["bf16_tflops"], slow["fp32_tflops"]) == (989.0, 67.0, 0.3, 0.3)
    for text in ("tpu", "-3", "nan", "inf", "1/2/3", "/"):
        with pytest.raises(ConfigError, match=f"expected a100, h100, h200, here, or .* as BF16/FP32 .* found '{text}'"):
            find_device(text)


def test_rates() -> None:
    assert parse_rates("mfu=0.3,cores=8") == {"mfu": 0.3, "cores": 8.0}
    for text in ("mfu", "mfu=fast", "mfu=nan", "peak=3"):
        with pytest.raises(ConfigError, match=f"--rates: expected name=value with a name of mfu, cores, .* found '{text}'"):
            parse_rates(text)


@pytest.mark.parametrize(("env", "counts"), [("umt_b16", Counts(658_340)), (None, Counts(1728, 800))])
def test_every_number_says_how_it_came_about(env: str | None, counts: Counts) -> None:
    for stage, record in plans("", env, counts).to_json().items():
        told = list(derivations(record))
        assert len(told) > 50
        assert not [f"{stage}.{name}" for name, _, line in told if not line]


def test_clips_are_counted_in_the_clean_table(project: Path) -> None:
    with pytest.raises(TableError, match=r"umt_b16/03_primary/videos\.parquet: expected .* found nothing.* --clips"):
        plan_project(project, config_loader(project, "umt_b16"), None, HARDWARE)
    table = project / "data/umt_b16/03_primary/videos.parquet"
    table.parent.mkdir(parents=True)
    splits = ["train"] * 2050 + ["validation"] * 5
    videos = pd.DataFrame({"video_id": [str(row) for row in range(2055)], "split": splits, "media": "video"})
    videos["size_bytes"] = [1_000_000, 3_000_000] * 1027 + [2_000_000]
    pd.concat([videos, videos.assign(media="image")]).to_parquet(table)
    result = plan_project(project, config_loader(project, "umt_b16", "teacher_features.splits=[train]"), None, HARDWARE).stage1
    assert result is not None
    assert (result.clips, result.recorded_clips, result.steps) == (2050, 2050, 200)
    assert (result.hardware.clip_mb, result.hardware.sources["clip_mb"]) == (2.0, "mean of the clean video table")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--env", "nowhere"], "expected a folder of .* one of base, ci, local, .*umt_b16, .*umt_l16, .*; found 'nowhere'"),
        (["--params", "views"], "--params: expected name=value"),
        (["--params", "stage1.train.epoch=3"], r"stage1\.train\.epoch: Extra inputs are not permitted, found 3"),
        (["--params", "teacher_features.teacher.source=open_clip:RN50/openai"], "RN50.*convolutional network"),
        (["--params", "teacher_features.teacher.source=open_clip:hf-hub:org/name"], "hf-hub:org/name.* before it is fetched"),
        (["--params", "teacher_features.teacher.source=timm:vit_base_patch16_224"], "expected 'train_small'.*found 'timm:"),
        (["--params", "teacher_features.teacher.source=elsewhere"], "expected 'train_small'.*found 'elsewhere'"),
        (["--rates", "mfu=2"], r"umt plan\.mfu: .* less than or equal to 1, found 2\.0"),
    ],
)
def test_refusals(project: Path, options: list[str], message: str) -> None:
    result = CliRunner().invoke(cli.app, ["plan", "--clips", "4096", *options])
    with pytest.raises(ConfigError, match=message):
        raise result.exception or AssertionError(result.output)


def test_the_command_prints_tables_or_json(project: Path) -> None:
    command = ["plan", "--env", "umt_l16", "--clips", "658340", "--device", "a100"]
    text = CliRunner().invoke(cli.app, command).output
    for expected in (
        "open_clip:ViT-L-14/openai",
        "991 GFLOP",
        "1,474,560 B",
        "Cheaper: cached",
        "epochs per view",
        "in bf16",
        "pq 2.46 TB",
        "assumed",
    ):
        assert expected in text
    explained = CliRunner().invoke(cli.app, [*command, "--explain"]).output
    assert "compute_device_hours" in explained
    record = json.loads(CliRunner().invoke(cli.app, [*command, "--json"]).output)
    assert list(record) == ["stage1"]
    record = record["stage1"]
    assert record["store_bytes"] == 658_340 * 10 * sum(record["bytes_per_clip_view"].values())
    assert record["cached"]["device_hours"] == sum(phase["device_hours"] for phase in record["cached"]["phases"])
    assert record["cheaper"] == "cached"
