"""Kedro's project settings. Imported by every `kedro` command, so nothing heavy may be imported here."""

from kedro.config import OmegaConfigLoader
from omegaconf.resolvers import oc

from umt_pipeline.hooks import TrackingHook

HOOKS = (TrackingHook(),)

# TrackingHook is a subclass of kedro-mlflow's own hook and takes its place. (With a hyphen the name would be ignored.)
DISABLE_HOOKS_FOR_PLUGINS = ("kedro_mlflow",)

CONFIG_LOADER_CLASS = OmegaConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # An overlay (`--env NAME`) names only the keys that it changes.
    "merge_strategy": {"parameters": "soft", "globals": "soft", "mlflow": "soft"},
    # Kedro offers oc.env for credentials only; mlflow.yml needs it for MLFLOW_TRACKING_URI.
    "custom_resolvers": {"oc.env": oc.env},
}
