"""The pipelines, by name."""

from __future__ import annotations

from kedro.framework.project import find_pipelines
from kedro.pipeline import Pipeline


def register_pipelines() -> dict[str, Pipeline]:
    """Return each folder of ``umt_pipeline.pipelines``, each task of ``umt_pipeline.tasks``, and all of them together."""
    # Imported here, for they bring torch: every `kedro` command imports this module.
    from umt_pipeline.pipelines.tasks import make_pipeline
    from umt_pipeline.tasks.task import all_tasks

    pipelines = find_pipelines(raise_errors=True) | {task.name: make_pipeline(task) for task in all_tasks()}
    pipelines["__default__"] = sum(pipelines.values(), start=Pipeline([]))
    return pipelines
