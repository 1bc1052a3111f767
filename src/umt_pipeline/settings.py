"""Kedro's project settings. Imported by every `kedro` command, so nothing heavy may be imported here."""

from kedro.config import OmegaConfigLoader

from umt_pipeline.hooks import TrackingHook
from umt_pipeline.project_config import LOADER_ARGS

HOOKS = (TrackingHook(),)

# TrackingHook is a subclass of kedro-mlflow's own hook and takes its place. (With a hyphen the name would be ignored.)
DISABLE_HOOKS_FOR_PLUGINS = ("kedro_mlflow",)

CONFIG_LOADER_CLASS = OmegaConfigLoader
CONFIG_LOADER_ARGS = LOADER_ARGS
