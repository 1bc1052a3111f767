"""What it takes to repeat a number: each result is a record of values and their protocol."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from umt_pipeline import __version__
from umt_pipeline.compute.machine import Machine
from umt_pipeline.compute.names import Precision
from umt_pipeline.core.config import Config
from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.evaluation.params import CaptionRule, PoolRule, ScoreType


class Protocol(Config):
    """How values were measured.

    Args:
        split: the split that the values are reported on.
        annotation_sha256: hash of the annotation rows used (clips, captions or labels, of all splits involved).
        clips: clips of that split that count, failed ones included.
        queries: text-to-video queries, for retrieval and agreement.
        failures: clips whose file could not be read now. They count as wrong and are never replaced.
        frames: frames per view.
        views: views per clip.
        resolution: side of a frame in pixels.
        pool: what of a clip was compared or classified: ``clip``, one vector pooled over all its tokens; ``frame``, one per
            frame, cosines averaged; ``tokens``, all tokens, pooled by the probe itself.
        k: re-ranked candidates per query.
        score_type: how retrieval scores were made.
        other_queries: whether the scores of one query depend on the other queries of the set, as DSL's do. No search with a
            single query can repeat such values.
        caption: which captions of a clip are queries.
        precision: what the model ran in.
        settings: further settings of this task, e.g. the strengths that a probe had to choose from.
        chosen: what was chosen or learnt within these settings, never looking at the test clips, e.g. the strength chosen
            and its validation accuracy.
        model: name of the model.
        checkpoint_sha256: hash of its weights file; None for an untrained model, which ``seed`` makes.
        seed: seed of the run.
        version: version of this package.
        processor: kind of processor that it was measured on; None in records of earlier versions, like ``threads``. On the same
            kind with as many threads the same numbers come out, to the bit; elsewhere sums are made in another order.
        threads: that a computation in the measuring process may use.
    """

    split: str
    annotation_sha256: str
    clips: int = Field(ge=1)
    queries: int | None = None
    failures: tuple[str, ...] = ()
    frames: int
    views: int = 1
    resolution: int
    pool: PoolRule | Literal["tokens"] | None = None
    k: int | None = None
    score_type: ScoreType | None = None
    other_queries: bool = False
    caption: CaptionRule | None = None
    precision: Precision = "fp32"
    settings: dict[str, float | int | str | None] = Field(default_factory=dict)
    chosen: dict[str, float | int | str | None] = Field(default_factory=dict)
    model: str
    checkpoint_sha256: str | None
    seed: int
    version: str = __version__
    processor: str | None = None
    threads: int | None = None

    @model_validator(mode="after")
    def _honest(self) -> Self:
        if (self.score_type == "dsl") != self.other_queries:
            raise ValueError(
                f"score_type {self.score_type!r} with other_queries {self.other_queries}: DSL scores, and no others, use the "
                "set's other queries"
            )
        return self


class Record(Config):
    """One result: values with their protocol, or a reason why there are none.

    Args:
        task: what was measured, e.g. ``retrieval/test/stage2/dual`` or ``probe/linear/shape/stage1``.
        values: metric name to value, percent except for ranks. The empty name stands for the task itself.
        protocol: how; None only where nothing was measured.
        note: why nothing was measured, or what to know about the values.
    """

    task: str
    values: dict[str, float] = Field(default_factory=dict)
    protocol: Protocol | None = None
    note: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.note is None and (not self.values or self.protocol is None):
            raise ValueError(f"record {self.task!r}: expected values and their protocol, or a note that says why not")
        return self


def dumped(records: Iterable[Record], machine: Machine) -> list[dict[str, Any]]:
    """Return records as JSON, with the machine that measured them in their protocols."""
    place = {"processor": machine.processor, "threads": machine.threads}
    found = [record.model_dump(mode="json") for record in records]
    return [{**one, "protocol": one["protocol"] and {**one["protocol"], **place}} for one in found]


def flat_metrics(records: Iterable[Record]) -> dict[str, float]:
    """Return all values of all records under their full names.

    Raises:
        EvaluationError: two records have a value of the same name.
    """
    metrics: dict[str, float] = {}
    for record in records:
        for name, value in record.values.items():
            key = f"{record.task}/{name}" if name else record.task
            if key in metrics:
                raise EvaluationError(f"metric {key!r} was measured twice")
            metrics[key] = value
    return metrics


def rows_sha256(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the SHA-256 of annotation rows as JSON lines, in the given order."""
    digest = hashlib.sha256()
    for row in rows:
        line = json.dumps({key: _plain(value) for key, value in row.items()}, sort_keys=True, ensure_ascii=False)
        digest.update(line.encode("utf-8") + b"\n")
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
