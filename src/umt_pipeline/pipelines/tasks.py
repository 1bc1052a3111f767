"""The pipeline of a downstream task, whichever it is: gather → train → test → show."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
from kedro.pipeline import Node, Pipeline

from umt_pipeline.compute.machine import this_machine
from umt_pipeline.core.config import Config
from umt_pipeline.core.files import staged_folder
from umt_pipeline.core.identity import Identity, code_key, settings_of, work_folder
from umt_pipeline.datasets import JsonDataset, TableDataset, TextFileDataset
from umt_pipeline.evaluation.params import WorkParams
from umt_pipeline.evaluation.records import dumped
from umt_pipeline.evaluation.workers import default_device, work_precision
from umt_pipeline.models.folders import SKIPPED_FILE
from umt_pipeline.pipelines.numbers import headline_numbers, numbers_table
from umt_pipeline.pipelines.runs import (
    RUNS,
    NamedRuns,
    TrainedModel,
    content_keys,
    fresh_folder,
    skipped_model,
    train,
    with_speeds,
)
from umt_pipeline.reports.render import render
from umt_pipeline.tasks.task import DownstreamTask, Plan, Runs, Shown, Skipped, Tested
from umt_pipeline.tracking import page_provenance
from umt_pipeline.training.spec import RunSpec

logger = logging.getLogger(__name__)

AnyTask = DownstreamTask[Any, Any]


class Remembered(NamedTuple):
    """What a test found, as read back from files; see :class:`Tested`."""

    metrics: dict[str, Any]
    records: list[dict[str, Any]]
    predictions: pd.DataFrame
    picture: str
    evidence: pd.DataFrame
    times: dict[str, Any]


def make_pipeline(task: AnyTask) -> Pipeline:
    """Return the pipeline of a task.

    Its outputs are named after it: ``<task>_model``, ``_history``, ``_metrics``, ``_numbers``, ``_records``, ``_headline``,
    ``_predictions``, ``_evidence``, ``_times``, ``_report``; with a control ``_control_model`` and ``_control_history``, with a
    picture ``_picture``.
    """
    name = task.name
    settings = {"params": f"params:{name}", "seed": "params:seed"}
    trained = {"model": f"{name}_model", "summary": f"{name}_summary", "took": f"{name}_took"}
    histories = {"history": f"{name}_history"}
    if task.has_control:
        trained |= {f"control_{what}": f"{name}_control_{what}" for what in ("model", "summary", "took")}
        histories |= {"control_history": f"{name}_control_history"}
    parts = ["metrics", "records", "predictions", "times", *(["picture"] if task.has_picture else [])]
    found = [f"{name}_{part}" for part in parts]
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
            outputs=[f"{name}_model", f"{name}_history", f"{name}_summary", f"{name}_took"],
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
        Node(numbers_table, inputs=f"{name}_metrics", outputs=f"{name}_numbers", name=f"tell_{name}_numbers"),
        Node(
            _typed(_headline(task), task),
            inputs={"params": f"params:{name}", "records": f"{name}_records"},
            outputs=f"{name}_headline",
            name=f"tell_{name}_headline",
        ),
    ]
    if task.has_control:
        control = Node(
            _train(name, "control"),
            inputs=[f"{name}{RUNS}", "workspace"],
            outputs=[f"{name}_control_{what}" for what in ("model", "history", "summary", "took")],
            name=f"train_{name}_control",
        )
        nodes.insert(2, control)
    return Pipeline(nodes)


def train_runs(name: str, runs: Runs, workspace: Path) -> TrainedModel:
    """Train the runs of a model, part by part.

    Args:
        name: of the model; with a part's name behind it, of a run.
        runs: by part, or why there are none.
        workspace: folder for unfinished work, in which a killed run is found again.

    Returns:
        The model folder with one for each named part in it, or a file that says why there is no model; the history, with a
        column ``part`` if parts have names; the summary, and what the training took, by part if they have.

    Raises:
        TrainingError: training failed.
    """
    if isinstance(runs, Skipped):
        return skipped_model(workspace, f"{name}_model", runs.reason)
    folder = fresh_folder(workspace, f"{name}_model")
    histories: dict[str, pd.DataFrame] = {}
    summaries: dict[str, Any] = {}
    times: dict[str, Any] = {}
    for part, spec in runs.items():
        finished = train(_run_name(name, part), spec, workspace)
        (folder / part).mkdir(exist_ok=True)
        finished.export(folder / part)
        histories[part], summaries[part], times[part] = finished.history, finished.summary(), finished.times()
    if set(runs) == {""}:
        return folder, histories[""], summaries[""], times[""]
    history = pd.concat(histories, names=["part"]).reset_index(level="part").reset_index(drop=True)
    return folder, history, summaries, times


def named_runs(task: str, plan: Plan) -> NamedRuns:
    """Return a task's runs, of model and control, by the names under which they are trained."""
    named: dict[str, RunSpec] = {}
    for name, runs in ((task, plan.model), (f"{task}_control", plan.control)):
        if not isinstance(runs, Skipped):
            named |= {_run_name(name, part): spec for part, spec in runs.items()}
    return named


def _run_name(model: str, part: str) -> str:
    return f"{model}_{part}" if part else model


def remembered(folder: Path, measure: Callable[[], Tested]) -> Remembered:
    """Return what a test found: what is in the folder, or what is measured now, on this machine, and kept there."""
    found = folder / "tested"
    if found.is_dir():
        logger.info("%s: these models were tested on these data by this code before", found)
    else:
        tested = measure()
        with staged_folder(found) as staged:
            JsonDataset(str(staged / "metrics.json")).save(tested.metrics)
            JsonDataset(str(staged / "records.json")).save(dumped(tested.records, this_machine(default_device())))
            JsonDataset(str(staged / "times.json")).save(tested.times)
            TableDataset(str(staged / "predictions.csv")).save(tested.predictions)
            TextFileDataset(str(staged / "picture.svg")).save(tested.picture)
            TableDataset(str(staged / "evidence.parquet")).save(tested.evidence)
    return Remembered(
        JsonDataset(str(found / "metrics.json")).load(),
        JsonDataset(str(found / "records.json")).load(),
        TableDataset(str(found / "predictions.csv")).load(),
        TextFileDataset(str(found / "picture.svg")).load(),
        TableDataset(str(found / "evidence.parquet")).load(),
        JsonDataset(str(found / "times.json")).load(),
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
    def train_model(runs: Plan, workspace: Path) -> TrainedModel:
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
        took: dict[str, Any],
        **control: Any,
    ) -> tuple[Any, ...]:
        params = _as_tested(params)
        own = task.model_name(params)
        trained, summaries, times = {own: model}, {own: summary}, {own: took}
        if task.has_control:
            trained["control"], summaries["control"] = control["control_model"], control["control_summary"]
            times["control"] = control["control_took"]
        folders = {name: path for name, path in trained.items() if not (path / SKIPPED_FILE).is_file()}
        inputs = {**inputs, **content_keys(folders), "seed": str(seed)}
        identity = Identity(settings_of(params), inputs, code_key(f"tasks.{task.name}.task"))

        def measure() -> Tested:
            return task.test(params, seed, data, folders, workspace)

        folder = work_folder(workspace / "tests" / task.name, identity)
        found = remembered(folder, measure)
        # What training says of itself is not part of what a test finds.
        metrics, took_all = {**found.metrics, "training": summaries}, {"training": times, "test": found.times}
        pictures = (found.picture,) if task.has_picture else ()
        return metrics, found.records, found.predictions, took_all, *pictures, found.evidence

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
        times: dict[str, Any],
        history: pd.DataFrame,
        **more: Any,
    ) -> str:
        rows = {task.model_name(params): history, "control": more.get("control_history", history.iloc[:0])}
        histories = {name: with_speeds(found, times["training"].get(name, {})) for name, found in rows.items()}
        page = task.page(Shown(params, data, metrics, records, predictions, more.get("picture", ""), histories, times["test"]))
        return render(page, page_provenance(records), params.model_dump(mode="json"))

    return show


def _headline(task: AnyTask) -> Any:
    def headline(params: Config, records: list[dict[str, Any]]) -> dict[str, float]:
        return headline_numbers(records, task.headline_of(params))

    return headline
