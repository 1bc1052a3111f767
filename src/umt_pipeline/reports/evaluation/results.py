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
from umt_pipeline.evaluation.spread import Paired, paired_shares
from umt_pipeline.evaluation.tables import Tables
from umt_pipeline.reports.tables import listed

R1 = "t2v_r1"
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
        evidence: what the numbers are made of, item by item.
        costs: what re-ranking took, by the task of its record: ``pairs`` and ``seconds``.
    """

    params: EvaluationParams
    tables: Tables
    prepared: Prepared
    trained: Trained
    records: Sequence[Mapping[str, Any]]
    examples: Sequence[RetrievalExample]
    evidence: pd.DataFrame
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

    @cached_property
    def chance(self) -> dict[str, dict[str, float]]:
        """The expected numbers of a random order, by the retrieval set."""
        rule, captions = self.params.caption, self.tables.captions
        found = {name: random_retrieval(self.clips, captions, name, rule) for name in self.params.retrieval_sets}
        return {name: row for name, row in found.items() if row}

    @property
    def appearance(self) -> list[str]:
        """The label tasks that a single frame shows, where others are labelled too."""
        tasks = sorted({str(task) for task in self.tables.labels["task"]})
        known = [task for task in tasks if task not in MOTION]
        return known if len(known) < len(tasks) else []

    @cached_property
    def ceiling(self) -> dict[str, dict[str, float]]:
        """What perfect knowledge of appearance finds, and nothing else, by the retrieval set."""
        if not self.appearance:
            return {}
        rule, captions, labels = self.params.caption, self.tables.captions, self.tables.labels
        sets = self.params.retrieval_sets
        found = {name: random_retrieval(self.clips, captions, name, rule, labels, self.appearance) for name in sets}
        return {name: row for name, row in found.items() if row}

    def references(self, name: str) -> dict[str, dict[str, float]]:
        """Return the rows of a retrieval set that no model made: chance, and perfect knowledge of appearance alone."""
        rows = {"Chance": self.chance.get(name, {})}
        rows[f"Perfect on {listed(self.appearance)}, guessing the rest"] = self.ceiling.get(name, {})
        return {label: row for label, row in rows.items() if row}

    def paired(self, number: str, before: str, after: str) -> dict[str, Paired]:
        """Return, by the retrieval set, a number of two systems and its difference, where both were measured."""
        measured = set(self.evidence["task"])
        names = {name: tuple(f"retrieval/{name}/{system}" for system in (before, after)) for name in self.params.retrieval_sets}
        return {
            name: paired_shares(self.evidence, *(f"{task}/{number}" for task in tasks))
            for name, tasks in names.items()
            if measured.issuperset(tasks)
        }

    @cached_property
    def stage1_gains(self) -> dict[str, Paired]:
        """Text-to-video R@1 of stage 2 from scratch and from stage 1, by the set."""
        return self.paired(R1, "control/dual", "stage2/dual")

    @cached_property
    def reranking_gains(self) -> dict[str, Paired]:
        """Text-to-video R@1 of stage 2 before and after re-ranking, by the set."""
        return self.paired(R1, "stage2/dual", "stage2/reranked")

    def majority(self) -> dict[str, float]:
        """Return, per label task, the percentage of test clips with the most frequent label."""
        return majority_share(self.tables.labels, self.clips, self.params.test_split)
