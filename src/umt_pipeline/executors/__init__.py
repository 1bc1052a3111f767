"""Where offline work is done: on this machine, or by the workers of a Ray cluster."""

from umt_pipeline.executors.params import LOCAL, OFFLINE, OfflineParams, open_executor

__all__ = ["LOCAL", "OFFLINE", "OfflineParams", "open_executor"]
