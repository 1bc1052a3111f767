"""A model of any version under today's protocol, or trained again with another seed: in a process and a data folder of its own.

    python -m umt_pipeline.commands.evaluate_again REQUEST.json PARENT

Evidence is only worth comparing if both models saw the same clips, in the same way. So the nodes that measure, and for another
seed those that train, run on today's data with today's code, while everything that they write goes into a folder beside the
data. They are the pipelines' own nodes, called without MLflow: what is measured here is no new run of anybody.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from kedro.io import DataCatalog, DatasetError, MemoryDataset
from kedro.pipeline import Pipeline

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import UmtError
from umt_pipeline.core.files import read_json, write_json
from umt_pipeline.core.locking import LOCK_FILE, try_lock, wait_for_lock
from umt_pipeline.core.processes import follow_parent
from umt_pipeline.datasets.base import PathDataset
from umt_pipeline.evaluation.compare import load_records
from umt_pipeline.evaluation.records import Record
from umt_pipeline.project_config import catalog_path, config_loader
from umt_pipeline.tasks import task_names

logger = logging.getLogger(__name__)

TEACHER, EVALUATION = "teacher", "evaluation"
_ANSWER = "answer.json"
# How datasets end that hold what a training said of itself.
_SAID_OF_TRAINING = ("_summary", "_took")
_MOVABLE = "${runtime_params:data,${globals:data}}"  # how paths begin that follow the data
_SAID = 15  # lines of a failed process' output that go into the message


class EvaluationImpossibleError(UmtError):
    """A model cannot be measured here and now, because data or models are missing, or because the work failed."""


class Request(Config):
    """What is to be measured.

    Attributes:
        project: the project's folder.
        env: the overlay, which is the corpus; None: the demo.
        kind: of the model, such as ``stage2``.
        place: empty folder for what is written.
        workspace: lasting folder for unfinished work, where finished runs and tests are found again.
        model: folder of the model; None: it is trained.
        seed: of training and measuring; None: that of the parameters.
    """

    project: Path
    env: str | None
    kind: str
    place: Path
    workspace: Path
    model: Path | None
    seed: int | None = None


@dataclass(frozen=True)
class Measured:
    """What an evaluation found.

    Attributes:
        evidence: a row for each query or clip.
        records: each number with its protocol.
    """

    evidence: pd.DataFrame
    records: list[Record]


def model_dataset(kind: str) -> str:
    """Return the catalog's name of a kind's model folder."""
    return TEACHER if kind == TEACHER else f"{kind}_model"


def measuring_pipeline(kind: str) -> str:
    """Return the pipeline that measures a kind: a task's own, or the evaluation."""
    return kind if kind in task_names() else EVALUATION


def promotion_workspace(project: Path, env: str | None, kind: str) -> Path:
    """Return the folder of unfinished work of promotions of a kind; deleting it loses time, no result."""
    return catalog_path(project, config_loader(project, env), "workspace") / "promotion" / kind


@contextmanager
def only_one(folder: Path, what: str) -> Iterator[None]:
    """Let one process of this machine at a time do something; the others wait, and say so."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("ab") as handle:
        if not try_lock(handle):
            logger.warning("%s: another process does this now (%s); waiting for it", what, folder / LOCK_FILE)
            wait_for_lock(handle)
        yield


def measure_again(project: Path, env: str | None, kind: str, model: Path) -> Measured:
    """Measure a model under today's protocol; it takes as long as the kind's evaluation, and seconds if it was done before.

    Args:
        project: the project's folder.
        env: the overlay, which is the corpus; None: the demo.
        kind: of the model.
        model: its folder.

    Raises:
        EvaluationImpossibleError: data or models are missing here, or the work failed; the message says why.
    """
    return _run(project, env, kind, model, None)


def measure_seed(project: Path, env: str | None, kind: str, seed: int) -> Measured:
    """Train the kind's model with another seed, by today's code and parameters, and measure it.

    It takes as long as the kind's training and evaluation. Models that it starts from stay those of today; a killed training
    goes on, and a finished one is found again.

    Args:
        project: see :func:`measure_again`.
        env: see :func:`measure_again`.
        kind: of the model.
        seed: of weights, order and everything random.

    Raises:
        EvaluationImpossibleError: see :func:`measure_again`.
    """
    return _run(project, env, kind, None, seed)


def _run(project: Path, env: str | None, kind: str, model: Path | None, seed: int | None) -> Measured:
    folder = promotion_workspace(project, env, kind)
    with only_one(folder / "again", f"measuring {kind}"):
        place, workspace = folder / "again" / "place", folder / "again" / "work"
        shutil.rmtree(place, ignore_errors=True)  # of a killed one
        place.mkdir()
        workspace.mkdir(exist_ok=True)
        request = Request(project=project, env=env, kind=kind, place=place, workspace=workspace, model=model, seed=seed)
        try:
            write_json(place / "request.json", request.model_dump(mode="json"))
            command = [sys.executable, "-m", __name__, str(place / "request.json"), str(os.getpid())]
            done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
            if done.returncode:
                said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_SAID:])
                raise EvaluationImpossibleError(f"{kind}: measuring a model again ended with status {done.returncode}:\n{said}")
            answer = read_json(place / _ANSWER)
            if reason := answer.get("impossible"):
                raise EvaluationImpossibleError(str(reason))
            return Measured(pd.read_parquet(answer["evidence"]), load_records(Path(answer["records"])))
        finally:
            shutil.rmtree(place, ignore_errors=True)


# --- in the other process ---------------------------------------------------------------------------------------------
def answer_request(request: Request) -> None:
    """Measure, and write ``answer.json`` into the place: where evidence and records are, or why there are none."""
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project
    from kedro.runner import SequentialRunner

    bootstrap_project(request.project)
    moved: dict[str, Any] = {"data": str(request.place / "data"), "results": str(request.place / "results")}
    if request.seed is not None:
        moved["seed"] = request.seed
    session: Any = KedroSession.create(project_path=request.project, env=request.env, runtime_params=moved)
    with session:
        catalog = session.load_context().catalog
        pipeline, evidence, records = chosen_nodes(request.kind, trained=request.model is None)
        try:
            require_beside(request, pipeline, catalog)
            link_inputs(request, pipeline, catalog)
            SequentialRunner().run(pipeline, catalog)
            answer = {"evidence": str(catalog.get(evidence).path), "records": str(catalog.get(records).path)}
        except (UmtError, DatasetError, OSError) as error:
            answer = {"impossible": str(error)}
    write_json(request.place / _ANSWER, answer)


def chosen_nodes(kind: str, trained: bool) -> tuple[Pipeline, str, str]:
    """Return the nodes that measure a model, and the names of the datasets of evidence and records that they write.

    Args:
        kind: of the model.
        trained: also the nodes that train it. Whatever else is trained in the same pipelines, such as a control, is not: it is
            there.
    """
    from kedro.framework.project import pipelines

    known = {name: pipeline for name, pipeline in dict(pipelines).items() if name != "__default__"}
    model, task = model_dataset(kind), measuring_pipeline(kind)
    wanted = [f"{task}_evidence", "records" if task == EVALUATION else f"{task}_records"]
    nodes = known[task].to_outputs(*wanted).nodes
    found = Pipeline([node for node in nodes if not any(_is_model(output) for output in node.outputs)])
    if trained:
        found = sum((pipeline.to_outputs(model) for pipeline in known.values() if model in pipeline.all_outputs()), start=found)
    return found, wanted[0], wanted[1]


def _is_model(dataset: str) -> bool:
    return dataset == TEACHER or dataset.endswith("_model")


def require_beside(request: Request, pipeline: Pipeline, catalog: DataCatalog) -> None:
    """Refuse to write over what is there: the model that is asked about, and all that is written, must lie in the place.

    Raises:
        EvaluationImpossibleError: an entry of the catalog has a path that does not follow the data.
    """
    for name in sorted({*pipeline.all_outputs(), model_dataset(request.kind)}):
        dataset = catalog.get(name)
        if isinstance(dataset, PathDataset) and not dataset.path.is_relative_to(request.place):
            raise EvaluationImpossibleError(
                f"catalog entry '{name}': expected a filepath that begins with {_MOVABLE}, so that another one lies beside it; "
                f"found {dataset.path}. Write it so in conf/{request.env or 'base'}/catalog.yml."
            )


def link_inputs(request: Request, pipeline: Pipeline, catalog: DataCatalog) -> None:
    """Put what the nodes read into the place: today's files and folders as links, and the model that is asked about.

    Raises:
        EvaluationImpossibleError: something is not there.
    """
    loader = config_loader(request.project, request.env)
    missing = []
    for name in sorted(pipeline.inputs()):
        if name.endswith(_SAID_OF_TRAINING):
            # A test hands it on, and no number follows from it.
            catalog[name] = MemoryDataset({})
        dataset = catalog.get(name)
        if not isinstance(dataset, PathDataset):
            continue
        there = request.workspace if name == "workspace" else catalog_path(request.project, loader, name)
        if name == model_dataset(request.kind) and request.model is not None:
            there = request.model
        if not there.exists():
            missing += [] if dataset.optional else [f"{name} ({there})"]
        elif there != dataset.path:
            dataset.path.parent.mkdir(parents=True, exist_ok=True)
            dataset.path.symlink_to(there.resolve())
    if missing:
        raise EvaluationImpossibleError(
            f"{', '.join(missing)}: expected to measure {request.kind} with, found nothing. Fetch it: dvc pull"
        )


if __name__ == "__main__":
    follow_parent(int(sys.argv[2]))  # else it would work on in the folder that the next promotion takes
    answer_request(Request.model_validate(read_json(Path(sys.argv[1]))))
