"""The pipelines, by folder name."""

from __future__ import annotations

from kedro.framework.project import find_pipelines
from kedro.pipeline import Pipeline


def register_pipelines() -> dict[str, Pipeline]:
    """Return each folder of ``umt_pipeline.pipelines`` under its name, and all of them but ``claims`` as ``__default__``.

    ``claims`` is a study of the method, not a step on the way from a corpus to its models, and takes longer than all others.
    """
    pipelines = find_pipelines(raise_errors=True)
    pipelines["__default__"] = sum((part for name, part in pipelines.items() if name != "claims"), start=Pipeline([]))
    return pipelines
