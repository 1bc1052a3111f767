"""Kedro's project settings. Imported by every `kedro` command, so nothing heavy may be imported here."""

from umt_pipeline.hooks import InputsHook, TrackingHook
from umt_pipeline.project_config import LOADER_ARGS, ProjectConfigLoader

HOOKS = (InputsHook(), TrackingHook())

# Whoever has kedro-mlflow installed, for its datasets, has one run of MLflow and not two. (With a hyphen it would be ignored.)
DISABLE_HOOKS_FOR_PLUGINS = ("kedro_mlflow",)

CONFIG_LOADER_CLASS = ProjectConfigLoader
CONFIG_LOADER_ARGS = LOADER_ARGS
