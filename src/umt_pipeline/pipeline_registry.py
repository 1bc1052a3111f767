"""The pipelines, by name."""

from __future__ import annotations

import importlib
import pkgutil

from kedro.pipeline import Pipeline

from umt_pipeline.pipelines import OPTIONAL


def register_pipelines() -> dict[str, Pipeline]:
    """Return each folder of ``umt_pipeline.pipelines``, each task of ``umt_pipeline.tasks``, and all of them together.

    Those that are optional are not among the latter.
    """
    # Imported here, for they bring torch: every `kedro` command imports this module.
    from umt_pipeline import pipelines
    from umt_pipeline.pipelines.tasks import make_pipeline
    from umt_pipeline.tasks.task import all_tasks

    stages = sorted(module.name for module in pkgutil.iter_modules(pipelines.__path__) if module.ispkg)
    found = {name: importlib.import_module(f"{pipelines.__name__}.{name}").create_pipeline() for name in stages}
    found |= {task.name: make_pipeline(task) for task in all_tasks()}
    usual = [pipeline for name, pipeline in found.items() if name not in OPTIONAL]
    return {**found, "__default__": sum(usual, start=Pipeline([]))}
