"""What the page of the evaluation is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from umt_pipeline.evaluation.chance import majority_share, random_retrieval
from umt_pipeline.evaluation.examples import RetrievalExample
from umt_pipeline.evaluation.params import EvaluationParams
from umt_pipeline.evaluation.tables import Tables
from umt_pipeline.reports.tables import listed

MOTION = ("motion",)  # label tasks that a single frame cannot show; the others are of appearance

# Group -> system -> column -> value.
MetricTree = Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Prepared:
    """What was made before any training.

    Attributes:
        rejects: rows of the input tables that were left out, with the reason.
        ingestion: its counts: ``tables: {<table>: {rows_in, accepted, rejected}}``, ``media`` and ``corpora``.
        features: the report of the feature store: rows, clips, views, bytes per clip-view, codec error ...
        store: folder of the feature store.
    """

    rejects: pd.DataFrame
    ingestion: Mapping[str, Any]
    features: Mapping[str, Any]
    store: Path


@dataclass(frozen=True)
class Trained:
    """What the stages said of themselves.

    Attributes:
        histories: rows of training of ``teacher``, ``stage1``, ``stage2`` and ``control``, without rows for what was not
            trained: ``step``, ``loss``, its parts, ``lr``, ``grad_norm``, ``clips_per_s``, ``data_wait``.
        metrics: numbers of ``teacher``, ``stage1`` and ``stage2``, nested as they are.
        times: likewise what they took, on the machine of the run that is shown.
    """

    histories: Mapping[str, pd.DataFrame]
    metrics: Mapping[str, Mapping[str, Any]]
    times: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationResults:
    """What an evaluation found, and what it was done with.

    Attributes:
        params: of the evaluation.
        tables: the clean tables.
        prepared: ingestion and feature store.
        trained: the stages.
        records: each number with its protocol, as :class:`umt_pipeline.evaluation.records.Record` dumps them.
        examples: retrieval queries with what was found.
        costs: what re-ranking took, by the task of its record: ``pairs`` and ``seconds``.
    """

    params: EvaluationParams
    tables: Tables
    prepared: Prepared
    trained: Trained
    records: Sequence[Mapping[str, Any]]
    examples: Sequence[RetrievalExample]
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @cached_property
    def clips(self) -> pd.DataFrame:
        """The videos, without images."""
        return self.tables.videos[self.tables.videos["media"] == "video"]

    def metrics(self, kind: str) -> MetricTree:
        """Return the numbers of one kind.

        ``probe/<knn|linear>/<task>/<encoder>`` gives probe kind -> encoder -> task; ``retrieval/<set>/<system>/<column>``
        and ``agreement/<set>/<system>/<task>`` give set -> system -> column.
        """
        tree: dict[str, dict[str, dict[str, float]]] = {}
        for record in self.records:
            for name, value in record["values"].items():
                start, group, *middle, last = f"{record['task']}/{name}".removesuffix("/").split("/")
                if start == kind:
                    between = "/".join(middle)
                    system, column = (last, between) if kind == "probe" else (between, last)
                    tree.setdefault(group, {}).setdefault(system, {})[column] = float(value)
        return tree

    def references(self, name: str) -> dict[str, dict[str, float]]:
        """Return the rows of a retrieval set that no model made: chance, and perfect knowledge of appearance alone."""
        rule, captions, labels = self.params.caption, self.tables.captions, self.tables.labels
        rows = {"Chance": random_retrieval(self.clips, captions, name, rule)}
        tasks = sorted({str(task) for task in labels["task"]})
        known = [task for task in tasks if task not in MOTION]
        if known and len(known) < len(tasks):
            label = f"Perfect on {listed(known)}, guessing the rest"
            rows[label] = random_retrieval(self.clips, captions, name, rule, labels, known)
        return {label: row for label, row in rows.items() if row}

    def majority(self) -> dict[str, float]:
        """Return, per label task, the percentage of test clips with the most frequent label."""
        return majority_share(self.tables.labels, self.clips, self.params.test_split)
