"""Errors that a user can act on.

Each message names the table, file, key or tensor, what was expected, what was found and what to do.
"""

from __future__ import annotations


class UmtError(Exception):
    """Base of all errors that the project raises on purpose."""


class ConfigError(UmtError):
    """A parameter, or a combination of parameters, cannot work."""


class TableError(UmtError):
    """A table has a wrong shape or wrong content."""


class VideoError(UmtError):
    """A video file cannot be used.

    Args:
        reason: a short machine-readable reason, the value that reject tables and counts are grouped by.
        detail: what was expected and what was found, for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, str]]:
        # Exceptions travel between processes by their ``args``, which hold the joined message.
        return type(self), (self.reason, self.detail)


class StoreError(UmtError):
    """A feature store is missing, incomplete or does not fit what is asked of it."""


class IndexingError(UmtError):
    """An index of videos is missing, incomplete, of another model, or does not fit what is asked of it."""


class RegistryError(UmtError):
    """The model registry cannot be reached, or what it holds is not what was registered."""


class CheckpointError(UmtError):
    """A checkpoint or model folder is missing, damaged or does not fit the model."""


class TrainingError(UmtError):
    """Training cannot go on (non-finite loss, empty data, failed worker)."""


class TrainingInterrupted(UmtError):  # noqa: N818  # nothing failed
    """Training saved a checkpoint and stopped before its end, because it was asked to."""
