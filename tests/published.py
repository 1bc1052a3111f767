"""The published recipes as their environments give them, for comparison with what the paper and its code say."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from tests.conftest import ROOT
from umt_pipeline.commands.plan_stage1 import find_tower
from umt_pipeline.commands.recipes import About, find_recipes
from umt_pipeline.core.config import Config
from umt_pipeline.features.extract import make_header
from umt_pipeline.features.manifest import StoreHeader
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.project_config import ProjectConfigLoader, config_loader, typed_parameters
from umt_pipeline.training.stage1 import Stage1Config

_Config = TypeVar("_Config", bound=Config)


@cache
def loader(env: str, overrides: str = "") -> ProjectConfigLoader:
    return config_loader(ROOT, env, overrides)


@cache
def abouts() -> dict[str, About]:
    return {name: recipe.about for name, recipe in find_recipes(ROOT).items()}


def block(env: str, name: str, model: type[_Config], overrides: str = "") -> _Config:
    return typed_parameters(loader(env, overrides), name, model)


def ingestion(env: str) -> IngestionParams:
    return block(env, "ingestion", IngestionParams)


def features(env: str, overrides: str = "") -> TeacherFeaturesParams:
    return block(env, "teacher_features", TeacherFeaturesParams, overrides)


def stage1(env: str, overrides: str = "") -> Stage1Config:
    return block(env, "stage1", Stage1Config, overrides)


def header(env: str, overrides: str = "") -> StoreHeader:
    params = features(env, overrides)
    return make_header(params, find_tower(params, None).output_dim, "")


def differing(config: Config, published: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return (ours, published) of the settings that are not as published."""
    ours = config.model_dump()
    return {name: (ours[name], value) for name, value in published.items() if ours[name] != value}
