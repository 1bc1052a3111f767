"""What numbers are made of: a row for each query, clip, question or box, from which the numbers of the records follow.

    task                         metric      item    video   value   answer   truth
    retrieval/test/stage2/dual   t2v_rank    17      clip3   2       clip9    clip3
    probe/linear/shape/stage2    correct     clip3   clip3   1       disc     disc

The table's form is :class:`umt_pipeline.schemas.Evidence`. Two models can be compared item by item with it, and how sure a
difference is can be told, which no aggregate says. Ranks are those of :mod:`umt_pipeline.evaluation.metrics`: of equals the
true one is last. A clip that could not be read is in the table as wrong, or ranked last, without an answer.

What is no mean over items does not follow from the table, such as mean average precision.

Shapes: I items, Q queries, C candidates.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from umt_pipeline.evaluation.metrics import EvaluationError

COLUMNS = ("task", "metric", "item", "video", "value", "answer", "truth")
CORRECT, CLASS_RANK = "correct", "class_rank"


@dataclass(frozen=True)
class Measure:
    """How a number follows from the values of its items.

    Attributes:
        metric: of the rows that it is made of.
        within: an item counts as a hit if its rank is at most this; None: the values count as they are.
        statistic: ``mean`` over the items; ``class_mean``, the mean over the true classes of each one's mean; ``median``.
        percent: whether the number is in percent.
    """

    metric: str
    within: int | None = None
    statistic: Literal["mean", "class_mean", "median"] = "mean"
    percent: bool = True

    @property
    def is_share(self) -> bool:
        """Whether the number is the share of the items that are hits: then more is better, and each item counts the same."""
        return self.percent and self.statistic == "mean"

    def values(self, rows: pd.DataFrame) -> np.ndarray:
        """Return what each item counts, float64 [I]: hits as 1, others as 0, or the values as they are."""
        value_I = rows["value"].to_numpy(np.float64)
        return value_I if self.within is None else (value_I <= self.within).astype(np.float64)


def measure_of(name: str) -> Measure | None:
    """Return how a number of this name, as in a record's values, follows from evidence; None if it does not."""
    if name in ("", "accuracy"):
        return Measure(CORRECT)
    if name == "mean_class":
        return Measure(CLASS_RANK, within=1, statistic="class_mean")
    if found := re.fullmatch(r"top([1-9]\d*)", name):
        return Measure(CLASS_RANK, within=int(found[1]))
    if found := re.fullmatch(r"(t2v|v2t)_r([1-9]\d*)", name):
        return Measure(f"{found[1]}_rank", within=int(found[2]))
    if found := re.fullmatch(r"(t2v|v2t)_(medr|meanr)", name):
        return Measure(f"{found[1]}_rank", statistic="median" if found[2] == "medr" else "mean", percent=False)
    return None


def evidence_rows(
    task: str,
    metric: str,
    items: Iterable[object],
    videos: Iterable[str],
    values: np.ndarray | pd.Series,
    answers: Iterable[str | None] | None = None,
    truths: Iterable[str | None] | None = None,
) -> pd.DataFrame:
    """Return the evidence of one metric of one task, a row per item.

    Args:
        task: of the record.
        metric: see :class:`umt_pipeline.schemas.Evidence`.
        items: I names, each once; what is no text becomes one.
        videos: the clip of each.
        values: numbers or truth values [I].
        answers: what the model said; None: nothing that a text could say.
        truths: what was to be said; likewise.
    """
    names = pd.Series(list(items)).astype(str)
    columns = {
        "task": pd.Series(task, index=names.index, dtype=str),
        "metric": pd.Series(metric, index=names.index, dtype=str),
        "item": names,
        "video": pd.Series(list(videos), dtype=str),
        "value": pd.Series(np.asarray(values, dtype=np.float32)),
        "answer": pd.Series(None if answers is None else list(answers), index=names.index, dtype=str),
        "truth": pd.Series(None if truths is None else list(truths), index=names.index, dtype=str),
    }
    return pd.DataFrame(columns, columns=list(COLUMNS))


def joined(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return evidence as one table, in order; without parts it has no row."""
    return pd.concat([evidence_rows("", "", (), (), np.empty(0)), *parts], ignore_index=True)


def rows_of(evidence: pd.DataFrame, name: str) -> tuple[pd.DataFrame, Measure]:
    """Return the rows that a number is made of, and how it follows from them.

    Args:
        evidence: of any tasks.
        name: of the number, as in flat metrics: ``retrieval/test/stage2/dual/t2v_r1``, ``probe/knn/shape/stage1``.

    Raises:
        EvaluationError: the evidence has no such task, or nothing that this number follows from.
    """
    tasks = evidence["task"].unique()
    task, number = (name, "") if name in tasks else (name.rpartition("/")[0], name.rpartition("/")[2])
    if task not in tasks:
        near = difflib.get_close_matches(name, [str(known) for known in tasks], n=3, cutoff=0.3)
        found = f"{len(tasks)} others, such as {', '.join(near or sorted(tasks)[:3])}" if len(tasks) else "none at all"
        raise EvaluationError(f"evidence of {name!r}: expected a task {task!r}, found {found}")
    of_task = evidence[evidence["task"] == task]
    measure = measure_of(number)
    rows = of_task[of_task["metric"] == measure.metric] if measure is not None else of_task.iloc[:0]
    if measure is None or rows.empty:
        there = sorted(of_task["metric"].unique())
        raise EvaluationError(
            f"evidence of {name!r}: expected a number that follows from {', '.join(there)} of task {task!r}, found "
            f"{number!r}. Such numbers are {', '.join(dict.fromkeys(text for metric in there for text in _numbers(metric)))}; "
            "no mean over items, such as mAP, is one"
        )
    return rows, measure


def aggregate(evidence: pd.DataFrame, name: str) -> float:
    """Return a number of the metrics files from its items: percent, or ranks for ``medr`` and ``meanr``.

    Args:
        evidence: of any tasks.
        name: see :func:`rows_of`.

    Raises:
        EvaluationError: the evidence does not have what the number follows from.
    """
    rows, measure = rows_of(evidence, name)
    value_I = measure.values(rows)
    if measure.statistic == "median":
        return float(np.median(value_I))
    if measure.statistic == "class_mean":
        truth = rows["truth"] if "truth" in rows else pd.Series(None, index=rows.index, dtype=str)
        if truth.isna().any():
            raise EvaluationError(f"evidence of {name!r}: expected the true class of each item in `truth`, found none for some")
        classes = pd.Series(value_I).groupby(truth.to_numpy())
        return 100.0 * float(classes.mean().mean())
    return (100.0 if measure.percent else 1.0) * float(np.mean(value_I))


def _numbers(metric: str) -> list[str]:
    """Return examples of numbers that follow from a metric."""
    if metric == CLASS_RANK:
        return ["top1", "top5", "mean_class"]
    if metric == CORRECT:
        return ["accuracy", "the task's name alone"]
    way = metric.removesuffix("_rank")
    return [f"{way}_r1", f"{way}_r5", f"{way}_r10", f"{way}_medr", f"{way}_meanr"]
