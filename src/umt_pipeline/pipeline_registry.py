"""The pipelines, by name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache

from kedro.pipeline import Pipeline

from umt_pipeline import pipelines
from umt_pipeline.tasks import task_names

DEFAULT = "__default__"


class LazyPipelines(Mapping[str, Pipeline]):
    """Pipelines that are made when they are asked for: one stage does not import what the others need."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def __getitem__(self, name: str) -> Pipeline:
        if name not in self._names:
            raise KeyError(name)
        return _make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def register_pipelines() -> Mapping[str, Pipeline]:
    """Return each folder of ``umt_pipeline.pipelines``, each task of ``umt_pipeline.tasks``, and all of them together.

    Those that are optional are not among the latter.
    """
    return LazyPipelines([*_stages(), *task_names(), DEFAULT])


def _stages() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(pipelines.__path__) if module.ispkg)


@cache
def _make(name: str) -> Pipeline:
    # Imported here, for they bring torch: every `kedro` command imports this module.
    if name == DEFAULT:
        usual = [name for name in (*_stages(), *task_names()) if name not in pipelines.OPTIONAL]
        return sum(map(_make, usual), start=Pipeline([]))
    if name in task_names():
        from umt_pipeline.pipelines.tasks import make_pipeline
        from umt_pipeline.tasks.task import load_task

        return make_pipeline(load_task(name))
    pipeline: Pipeline = importlib.import_module(f"{pipelines.__name__}.{name}").create_pipeline()
    return pipeline
