"""Kedro's project settings. Imported by every `kedro` command, so nothing heavy may be imported here."""

from umt_pipeline.hooks import InputsHook, TrackingHook
from umt_pipeline.project_config import LOADER_ARGS, ProjectConfigLoader

HOOKS = (InputsHook(), TrackingHook())

# TrackingHook is a subclass of kedro-mlflow's own hook and takes its place. (With a hyphen the name would be ignored.)
DISABLE_HOOKS_FOR_PLUGINS = ("kedro_mlflow",)

CONFIG_LOADER_CLASS = ProjectConfigLoader
CONFIG_LOADER_ARGS = LOADER_ARGS
