"""`umt plan`: the cost of both stages, from the project's parameters and its clean video table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from umt_pipeline.commands.plan_hardware import HERE, Hardware, find_device, hardware_values, measured_here, parse_rates
from umt_pipeline.commands.plan_stage1 import CostPlan, find_tower, make_plan
from umt_pipeline.commands.plan_stage2 import Stage2Plan, make_stage2_plan
from umt_pipeline.core.errors import TableError
from umt_pipeline.datasets import TableDataset
from umt_pipeline.features.extract import select_clips
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.project_config import ProjectConfigLoader, catalog_path, typed_parameters, validated
from umt_pipeline.training.stage1 import Stage1Config
from umt_pipeline.training.stage2 import Stage2Config
from umt_pipeline.video.decode_rate import decode_rate

TRAIN_SPLIT = "train"


@dataclass(frozen=True)
class Plans:
    """The plan of each stage; None where the overlay has no recipe for it."""

    stage1: CostPlan | None
    stage2: Stage2Plan | None

    def to_json(self) -> dict[str, Any]:
        """Return all numbers, of each stage that is planned."""
        plans = {"stage1": self.stage1, "stage2": self.stage2}
        return {name: plan.to_json() for name, plan in plans.items() if plan is not None}


@dataclass(frozen=True)
class Counts:
    """How many clips there are to train on, and for stage 2 captioned images."""

    clips: int
    images: int = 0


def plan_project(project: Path, loader: ProjectConfigLoader, counts: Counts | None, hardware: Hardware) -> Plans:
    """Compute the plans of a project.

    An overlay that has a recipe (``train``) for one stage alone is planned for that stage alone: the other one has the
    demo's parameters, which are not meant for its data. Where it has none, or is not there, both stages are planned.

    Args:
        project: its folder.
        loader: of its configuration.
        counts: None: count them in the clean video table.
        hardware: rates.

    Raises:
        ConfigError: the parameters cannot work.
        TableError: the clean video table is needed and not there.
    """
    own = {} if loader.env is None else loader.own_parameters()
    recipes = [stage for stage in ("stage1", "stage2") if "train" in own.get(stage, ())] or ["stage1", "stage2"]
    features = typed_parameters(loader, "teacher_features", TeacherFeaturesParams)
    stage1 = typed_parameters(loader, "stage1", Stage1Config)
    tower = find_tower(features, features.train_small)
    table = _read_videos(catalog_path(project, loader, "videos"), loader.env) if counts is None else None
    if table is not None:
        hardware = _with_sizes(hardware, table)
    plan1 = plan2 = None
    if "stage1" in recipes:
        plan1 = make_plan(features, stage1, tower, *_clips(table, counts, features.splits), hardware)
    if "stage2" in recipes:
        stage2 = typed_parameters(loader, "stage2", Stage2Config)
        drawn = _media(table, counts, stage2.corpora)
        plan2 = make_stage2_plan(features, stage2, stage1.student, tower, *drawn, hardware)
    return Plans(plan1, plan2)


def find_hardware(project: Path, loader: ProjectConfigLoader, device: str, rates: str, videos: bool) -> Hardware:
    """Return what `umt plan` is to reckon with.

    Args:
        project: its folder.
        loader: of its configuration.
        device: as ``--device`` has it.
        rates: as ``--rates`` has them.
        videos: the clean video table is there, so that decoding can be measured on its files.

    Raises:
        ConfigError: no such device, or rates that cannot be.
    """
    values, given = find_device(device), parse_rates(rates)
    measured: dict[str, float] = {}
    sources: dict[str, str] = {}
    if device.lower() == HERE:

        def decode_rate() -> float | None:
            return _decode_rate(project, loader) if videos and "decode_rate" not in given else None

        measured, sources = measured_here(values, decode_rate)
    sources = {name: source for name, source in sources.items() if name not in given}
    return validated(Hardware, hardware_values(values, measured | given, sources), "umt plan")


def _decode_rate(project: Path, loader: ProjectConfigLoader) -> float | None:
    features = typed_parameters(loader, "teacher_features", TeacherFeaturesParams)
    table = _read_videos(catalog_path(project, loader, "videos"), loader.env)
    files = table[table["media"] == "video"]
    media = catalog_path(project, loader, "raw_media")
    return decode_rate(files, media, features.view) if len(files) else None


def _with_sizes(hardware: Hardware, videos: pd.DataFrame) -> Hardware:
    """Take files to be as large as those of the table, unless somebody said how large they are."""
    found = {}
    for medium, name in (("video", "clip_mb"), ("image", "image_mb")):
        sizes = videos.loc[videos["media"] == medium, "size_bytes"]
        if len(sizes) and hardware.sources.get(name) != "given":
            found[name] = float(sizes.mean()) / 1e6
    sources = hardware.sources | dict.fromkeys(found, "mean of the clean video table")
    return hardware.model_copy(update={**found, "sources": sources})


def _read_videos(table: Path, env: str | None) -> pd.DataFrame:
    if not table.is_file():
        option = f" --env {env}" if env else ""
        raise TableError(
            f"{table}: expected the clean video table, found nothing. Run `kedro run{option} --pipelines ingestion` "
            "first, or say how many clips there are with --clips (and images with --images)."
        )
    return TableDataset(str(table)).load()


def _clips(videos: pd.DataFrame | None, counts: Counts | None, splits: tuple[str, ...]) -> tuple[int, int]:
    """Return the number of clips to train on and of those to record."""
    if videos is None:
        assert counts is not None
        return counts.clips, counts.clips
    return len(select_clips(videos, (TRAIN_SPLIT,))), len(select_clips(videos, splits))


def _media(videos: pd.DataFrame | None, counts: Counts | None, weights: Mapping[str, float]) -> tuple[int, int]:
    """Return how many videos and images an epoch of stage 2 draws, if each has a caption."""
    if videos is None:
        assert counts is not None
        return counts.clips, counts.images
    known = videos[videos["split"] == TRAIN_SPLIT]
    drawn = known["corpus"].map(lambda corpus: weights.get(corpus, 1.0)).groupby(known["media"]).sum()
    return round(drawn.get("video", 0)), round(drawn.get("image", 0))
