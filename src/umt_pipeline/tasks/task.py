"""What a downstream task is: a folder of this room whose module ``task`` has a :class:`DownstreamTask` named ``TASK``.

    gather   check the tables and everything else that training and test need, before anything is trained
    runs     which models are trained, or why none is
    test     numbers with their protocols, predictions, a picture
    page     what a person sees

The task's parameters are the block of its name, in ``conf/base/parameters_<name>.yml``. Nothing else names a task: its
pipeline and the names of its files follow from these methods (``pipelines.tasks``, ``conf/base/catalog.yml``).
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import pandas as pd
from pydantic import model_validator

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.evaluation.records import Record
from umt_pipeline.reports.page import Page
from umt_pipeline.training.spec import RunSpec

Params = TypeVar("Params", bound=Config)
Data = TypeVar("Data")
Start = Literal["stage1", "stage2", "scratch"]

# What pages call a fine-tuned encoder, by what its training started from.
RUN_NAMES = {
    "stage1": "From stage 1",
    "stage2": "From stage 2",
    "scratch": "From scratch",
    "control": "From scratch (control)",
}


@dataclass(frozen=True)
class Skipped:
    """Something that is not done, and why."""

    reason: str


Runs = Mapping[str, RunSpec] | Skipped
"""Runs by part. A task that trains one model has one part without a name, whose model folder is the task's own."""


@dataclass(frozen=True)
class Plan:
    """What a task trains.

    Attributes:
        model: the runs of its model.
        control: the same from scratch with the same budget: what shows what pre-training is worth.
    """

    model: Runs
    control: Runs


@dataclass(frozen=True)
class Tested:
    """What a test found.

    Attributes:
        metrics: numbers, nested.
        records: each number with its protocol.
        predictions: for people, and for the page: texts, scores, reasons of failures, in columns of the task's own.
        evidence: of which the records' numbers are made (:mod:`umt_pipeline.evaluation.evidence`).
        picture: SVG; empty for a task without one.
        times: what the test took, nested: what differs between equal runs, and is in no other part.
    """

    metrics: Mapping[str, Any]
    records: list[Record]
    predictions: pd.DataFrame
    evidence: pd.DataFrame
    picture: str = ""
    times: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown(Generic[Params, Data]):
    """What a page is made of: everything that was settled, trained and found.

    Attributes:
        params: of the task.
        data: from ``gather``.
        metrics: from ``test``, as read back from their file.
        records: likewise.
        predictions: likewise.
        picture: likewise.
        histories: rows of training by what results call the model, and of ``control``, with a column ``part`` where parts have
            names; without rows where training was skipped. Speeds of the run that is shown are among the columns.
        times: from ``test``, likewise.
    """

    params: Params
    data: Data
    metrics: dict[str, Any]
    records: list[dict[str, Any]]
    predictions: pd.DataFrame
    picture: str
    histories: Mapping[str, pd.DataFrame]
    times: Mapping[str, Any] = field(default_factory=dict)


class DownstreamTask(ABC, Generic[Params, Data]):
    """One downstream task.

    Attributes:
        name: of its parameters, pipeline and files.
        params: class of its parameters.
        tables: what it reads: entries of the catalog, given to :meth:`gather` by name. A model is a folder.
        has_control: whether it may train a control.
        has_picture: whether its test draws one.
        headline: the one or two numbers by which runs are compared: see :meth:`headline_of`.
    """

    name: ClassVar[str]
    params: ClassVar[type[Config]]
    tables: ClassVar[tuple[str, ...]]
    has_control: ClassVar[bool] = True
    has_picture: ClassVar[bool] = False
    headline: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def gather(self, params: Params, tables: Mapping[str, Any], workspace: Path) -> Data:
        """Check and collect what training and test read; tables for training processes are written into the workspace.

        Raises:
            UmtError: something is missing or does not fit.
        """

    @abstractmethod
    def runs(self, params: Params, seed: int, data: Data) -> Plan:
        """Return the runs, or why there are none."""

    @abstractmethod
    def test(self, params: Params, seed: int, data: Data, models: Mapping[str, Path], workspace: Path) -> Tested:
        """Measure the models on the test splits. Called once for the same parameters, data, models and code.

        Args:
            params: of the task.
            seed: of the run, for the records.
            data: from :meth:`gather`.
            models: folders of the model, under :meth:`model_name`, and of its ``control``, with a folder for each named
                part; one that was skipped is not there.
            workspace: for unfinished work.

        Raises:
            EvaluationError: scores from which no honest number can be computed, or a process ended.
        """

    def model_name(self, params: Params) -> str:
        """Return what results call the model; by default what its training started from."""
        return str(params.start)  # type: ignore[attr-defined]

    def headline_of(self, params: Params) -> dict[str, str]:
        """Return, by the name of each headline number, the pattern of the ``TASK/VALUE`` of the records that it is the mean of.

        In :attr:`headline` ``{model}`` stands for what results call the model, ``*`` for anything. Names are the heads of
        columns in a terminal: short, and no other task's.
        """
        return {name: pattern.replace("{model}", self.model_name(params)) for name, pattern in self.headline.items()}

    @abstractmethod
    def page(self, shown: Shown[Params, Data]) -> Page:
        """Return what a person sees; provenance and parameters are added to it."""


class EncoderTaskParams(Config):
    """What tasks share that fine-tune a video encoder.

    Attributes:
        start: whose video encoder training begins with: the ``stage1_model`` or ``stage2_model`` of the catalog (which may be
            any model folder with a video encoder), or ``scratch``.
        control: also train the same model from scratch with the same budget.
        train_split: trained on.
        test_split: reported on, once; nothing is chosen by it.
    """

    start: Start
    control: bool = True
    train_split: str = "train"
    test_split: str = "test"

    @model_validator(mode="after")
    def _check_start_and_splits(self) -> EncoderTaskParams:
        if self.start == "scratch" and self.control:
            raise ValueError("`control` is training from scratch, which `start: scratch` is already; set control to false")
        if self.train_split == self.test_split:
            raise ValueError(f"`train_split` and `test_split` are both {self.test_split!r}: a test is of other videos")
        return self

    def start_folders(self, tables: Mapping[str, Any]) -> tuple[Path | None, Path]:
        """Return the model folder to start from (None: scratch), and the one whose encoder's size is taken."""
        folder: Path = tables["stage2_model" if self.start == "stage2" else "stage1_model"]
        return (None if self.start == "scratch" else folder), folder


def load_task(name: str) -> DownstreamTask[Any, Any]:
    """Return the task of a folder of this room.

    Raises:
        ConfigError: the folder has no task, or one of another name.
    """
    task = getattr(importlib.import_module(f"{__package__}.{name}.task"), "TASK", None)
    if not isinstance(task, DownstreamTask) or task.name != name:
        raise ConfigError(f"tasks/{name}/task.py: expected a DownstreamTask named TASK whose name is {name!r}, found {task!r}")
    return task
