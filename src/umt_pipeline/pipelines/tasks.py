"""The pipeline of a downstream task, whichever it is: gather → train → test → show."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from kedro.pipeline import Node, Pipeline

from umt_pipeline.core.config import Config
from umt_pipeline.core.files import staged_folder
from umt_pipeline.core.identity import Identity, code_key, settings_of, work_folder
from umt_pipeline.datasets import JsonDataset, TableDataset, TextFileDataset
from umt_pipeline.evaluation.params import WorkParams
from umt_pipeline.evaluation.workers import work_precision
from umt_pipeline.models.folders import SKIPPED_FILE
from umt_pipeline.pipelines.runs import RUNS, NamedRuns, content_keys, fresh_folder, skipped_model, train
from umt_pipeline.reports.render import render
from umt_pipeline.tasks.task import DownstreamTask, Plan, Runs, Shown, Skipped, Tested
from umt_pipeline.tracking import page_provenance
from umt_pipeline.training.spec import RunSpec

logger = logging.getLogger(__name__)

Trained = tuple[Path, pd.DataFrame, dict[str, Any]]
AnyTask = DownstreamTask[Any, Any]


def make_pipeline(task: AnyTask) -> Pipeline:
    """Return the pipeline of a task.

    Its outputs are named after it: ``<task>_model``, ``_history``, ``_metrics``, ``_records``, ``_predictions``, ``_evidence``,
    ``_report``; with a control ``_control_model`` and ``_control_history``, with a picture ``_picture``.
    """
    name = task.name
    settings = {"params": f"params:{name}", "seed": "params:seed"}
    trained = {"model": f"{name}_model", "summary": f"{name}_summary"}
    histories = {"history": f"{name}_history"}
    if task.has_control:
        trained |= {"control_model": f"{name}_control_model", "control_summary": f"{name}_control_summary"}
        histories |= {"control_history": f"{name}_control_history"}
    found = [f"{name}_metrics", f"{name}_records", f"{name}_predictions", *([f"{name}_picture"] if task.has_picture else [])]
    nodes = [
        Node(
            _typed(_gather(task), task),
            inputs={**settings, "workspace": "workspace", **{table: table for table in task.tables}},
            outputs=[f"{name}_data", f"{name}{RUNS}", f"{name}_inputs"],
            name=f"gather_{name}",
        ),
        Node(
            _train(name, "model"),
            inputs=[f"{name}{RUNS}", "workspace"],
            outputs=[f"{name}_model", f"{name}_history", f"{name}_summary"],
            name=f"train_{name}",
        ),
        Node(
            _typed(_test(task), task),
            inputs={**settings, "data": f"{name}_data", "inputs": f"{name}_inputs", "workspace": "workspace", **trained},
            outputs=[*found, f"{name}_evidence"],
            name=f"test_{name}",
        ),
        Node(
            _typed(_show(task), task),
            inputs={
                "params": f"params:{name}",
                "data": f"{name}_data",
                **{dataset.removeprefix(f"{name}_"): dataset for dataset in found},
                **histories,
            },
            outputs=f"{name}_report",
            name=f"show_{name}",
        ),
    ]
    if task.has_control:
        control = Node(
            _train(name, "control"),
            inputs=[f"{name}{RUNS}", "workspace"],
            outputs=[f"{name}_control_model", f"{name}_control_history", f"{name}_control_summary"],
            name=f"train_{name}_control",
        )
        nodes.insert(2, control)
    return Pipeline(nodes)


def train_runs(name: str, runs: Runs, workspace: Path) -> Trained:
    """Train the runs of a model, part by part.

    Args:
        name: of the model; with a part's name behind it, of a run.
        runs: by part, or why there are none.
        workspace: folder for unfinished work, in which a killed run is found again.

    Returns:
        The model folder with one for each named part in it, or a file that says why there is no model; the history, with a
        column ``part`` if parts have names; the summary, by part if they have.

    Raises:
        TrainingError: training failed.
    """
    if isinstance(runs, Skipped):
        return skipped_model(workspace, f"{name}_model", runs.reason)
    folder = fresh_folder(workspace, f"{name}_model")
    histories: dict[str, pd.DataFrame] = {}
    summaries: dict[str, Any] = {}
    for part, spec in runs.items():
        finished = train(_run_name(name, part), spec, workspace)
        (folder / part).mkdir(exist_ok=True)
        finished.export(folder / part)
        histories[part], summaries[part] = finished.history, finished.summary()
    if set(runs) == {""}:
        return folder, histories[""], summaries[""]
    history = pd.concat(histories, names=["part"]).reset_index(level="part").reset_index(drop=True)
    return folder, history, summaries


def named_runs(task: str, plan: Plan) -> NamedRuns:
    """Return a task's runs, of model and control, by the names under which they are trained."""
    named: dict[str, RunSpec] = {}
    for name, runs in ((task, plan.model), (f"{task}_control", plan.control)):
        if not isinstance(runs, Skipped):
            named |= {_run_name(name, part): spec for part, spec in runs.items()}
    return named


def _run_name(model: str, part: str) -> str:
    return f"{model}_{part}" if part else model


def remembered(folder: Path, measure: Callable[[], Tested]) -> tuple[Any, Any, pd.DataFrame, str, pd.DataFrame]:
    """Return metrics, records, predictions, picture and evidence of a test: of the folder, or measured now and kept there."""
    found = folder / "tested"
    if found.is_dir():
        logger.info("%s: these models were tested on these data by this code before", found)
    else:
        tested = measure()
        records = [record.model_dump(mode="json") for record in tested.records]
        with staged_folder(found) as staged:
            JsonDataset(str(staged / "metrics.json")).save(tested.metrics)
            JsonDataset(str(staged / "records.json")).save(records)
            TableDataset(str(staged / "predictions.csv")).save(tested.predictions)
            TextFileDataset(str(staged / "picture.svg")).save(tested.picture)
            TableDataset(str(staged / "evidence.parquet")).save(tested.evidence)
    return (
        JsonDataset(str(found / "metrics.json")).load(),
        JsonDataset(str(found / "records.json")).load(),
        TableDataset(str(found / "predictions.csv")).load(),
        TextFileDataset(str(found / "picture.svg")).load(),
        TableDataset(str(found / "evidence.parquet")).load(),
    )


# --- the nodes, as functions of a task --------------------------------------------------------------------------------
def _typed(function: Any, task: AnyTask) -> Any:
    """Tell Kedro the class of the task's parameters, so that it checks them before anything runs."""
    function.__annotations__["params"] = task.params
    return function


def _gather(task: AnyTask) -> Any:
    def gather(params: Config, seed: int, workspace: Path, **tables: Any) -> tuple[Any, Plan, dict[str, str]]:
        data = task.gather(params, tables, workspace)
        return data, task.runs(params, seed, data), content_keys(tables)

    return gather


def _train(name: str, which: Literal["model", "control"]) -> Any:
    def train_model(runs: Plan, workspace: Path) -> Trained:
        return train_runs(name if which == "model" else f"{name}_control", getattr(runs, which), workspace)

    return train_model


def _test(task: AnyTask) -> Any:
    def test(
        params: Config,
        seed: int,
        data: Any,
        inputs: dict[str, str],
        workspace: Path,
        model: Path,
        summary: dict[str, Any],
        **control: Any,
    ) -> tuple[Any, ...]:
        params = _as_tested(params)
        trained, summaries = {task.model_name(params): model}, {task.model_name(params): summary}
        if task.has_control:
            trained["control"], summaries["control"] = control["control_model"], control["control_summary"]
        folders = {name: path for name, path in trained.items() if not (path / SKIPPED_FILE).is_file()}
        inputs = {**inputs, **content_keys(folders), "seed": str(seed)}
        identity = Identity(settings_of(params), inputs, code_key(f"tasks.{task.name}.task"))

        def measure() -> Tested:
            return task.test(params, seed, data, folders, workspace)

        folder = work_folder(workspace / "tests" / task.name, identity)
        metrics, records, predictions, picture, evidence = remembered(folder, measure)
        pictures = (picture,) if task.has_picture else ()
        # What training says of itself is not part of what a test finds.
        return {**metrics, "training": summaries}, records, predictions, *pictures, evidence

    return test


def _as_tested(params: Config) -> Config:
    """Return the parameters with the precision that the test takes on this device: its result is known by it."""
    test = getattr(params, "test", None)
    if not isinstance(test, WorkParams):
        return params
    return params.model_copy(update={"test": test.model_copy(update={"precision": work_precision(test)})})


def _show(task: AnyTask) -> Any:
    def show(
        params: Config,
        data: Any,
        metrics: dict[str, Any],
        records: list[dict[str, Any]],
        predictions: pd.DataFrame,
        history: pd.DataFrame,
        **more: Any,
    ) -> str:
        histories = {task.model_name(params): history, "control": more.get("control_history", history.iloc[:0])}
        page = task.page(Shown(params, data, metrics, records, predictions, more.get("picture", ""), histories))
        return render(page, page_provenance(records), params.model_dump(mode="json"))

    return show
