"""Runs a task's pipeline as Kedro does, with everything in memory but model folders."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from umt_pipeline.core.config import Config
from umt_pipeline.datasets import FolderDataset
from umt_pipeline.pipelines.tasks import make_pipeline
from umt_pipeline.tasks.task import DownstreamTask


class Kept(MemoryDataset):
    """Stays when the runner has no more use for it."""

    def _release(self) -> None:
        pass


def run_task(
    task: DownstreamTask[Any, Any], params: Config, tables: dict[str, Any], workspace: Path, seed: int = 0
) -> dict[str, Any]:
    """Return all that the pipeline makes, by the names of its datasets without the task's."""
    pipeline = make_pipeline(task)
    given = {f"params:{task.name}": params, "params:seed": seed, "workspace": workspace, **tables}
    catalog = DataCatalog({name: MemoryDataset(value, copy_mode="assign") for name, value in given.items()})
    for name in pipeline.all_outputs():
        # As in the catalog, a model leaves the workspace, where the next run would write over it.
        folder = Path(tempfile.mkdtemp(dir=workspace.parent)) / name
        catalog[name] = FolderDataset(str(folder)) if name.endswith("_model") else Kept(copy_mode="assign")
    SequentialRunner().run(pipeline, catalog)
    return {name.removeprefix(f"{task.name}_"): catalog[name].load() for name in pipeline.all_outputs()}
