"""What the runs of a study say: means, spreads, and whether the paper's directions are found again.

Shapes: R seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from umt_pipeline import __version__
from umt_pipeline.claims.arms import ARMS, BASELINE, COMPARISONS, Comparison, Expectation
from umt_pipeline.claims.bank import ClipBank
from umt_pipeline.claims.study import StudyConfig
from umt_pipeline.evaluation.records import Protocol, Record, rows_sha256

Says = Literal["as in the paper", "the other way round", "within the spread"]


@dataclass(frozen=True)
class ArmResult:
    """The reported runs of one arm.

    Attributes:
        name: of the arm.
        accuracy: per task percent [R], in the order of the seeds.
        time: seconds of pre-training, as a multiple of the baseline's; None without pre-training.
        pretraining_lr: chosen; None without pre-training.
        fine_tuning_lr: chosen.
    """

    name: str
    accuracy: dict[str, np.ndarray]
    time: float | None
    pretraining_lr: float | None
    fine_tuning_lr: float

    def mean(self, task: str) -> float:
        """Return the mean over seeds."""
        return float(self.accuracy[task].mean())

    def spread(self, task: str) -> float:
        """Return the sample deviation over seeds; 0 of a single one."""
        return deviation(self.accuracy[task])


@dataclass(frozen=True)
class Verdict:
    """One direction of the paper, looked for here.

    Attributes:
        expectation: the direction.
        task: label task.
        difference: mean over seeds of (better - worse), points.
        spread: sample deviation of these differences.
        says: ``within the spread`` where the difference is not larger than its deviation.
    """

    expectation: Expectation
    task: str
    difference: float
    spread: float
    says: Says


@dataclass(frozen=True)
class Findings:
    """Everything that the document and the picture show.

    Attributes:
        config: the study.
        arms: what was run.
        shown: comparisons of which at least two arms were run.
        verdicts: of each comparison, by its key.
    """

    config: StudyConfig
    arms: dict[str, ArmResult]
    shown: tuple[Comparison, ...]
    verdicts: dict[str, list[Verdict]]

    def metrics(self) -> dict[str, Any]:
        """Return means and spreads as nested JSON."""
        return {
            "accuracy": {
                name: {task: {"mean": arm.mean(task), "spread": arm.spread(task)} for task in self.config.tasks}
                for name, arm in self.arms.items()
            },
            "difference": _nested(self.verdicts),
        }

    def titles(self, comparison: Comparison) -> Iterator[tuple[ArmResult, str]]:
        """Yield the arms of a comparison that were run, with what they are called there."""
        for name in comparison.arms:
            if name in self.arms:
                yield self.arms[name], comparison.titles.get(name, ARMS[name].title)


def find(config: StudyConfig, runs: pd.DataFrame) -> Findings:
    """Summarise the reported runs.

    Args:
        config: the study.
        runs: from :func:`umt_pipeline.claims.study.run_study`.
    """
    reported = runs[runs["reported"]].sort_values("seed", kind="stable")
    seconds = reported.groupby("arm")["pretraining_seconds"].median()
    unit = seconds.get(BASELINE, np.nan)
    arms = {}
    for name in config.chosen_arms:
        rows = reported[reported["arm"] == name]
        lr = rows["pretraining_lr"].iloc[0]
        arms[name] = ArmResult(
            name,
            {task: rows[f"test_{task}"].to_numpy() for task in config.tasks},
            None if pd.isna(lr) else float(seconds[name] / unit),
            None if pd.isna(lr) else float(lr),
            float(rows["fine_tuning_lr"].iloc[0]),
        )
    shown = tuple(comparison for comparison in COMPARISONS if sum(name in arms for name in comparison.arms) > 1)
    verdicts = {comparison.key: list(_verdicts(config, arms, comparison)) for comparison in shown}
    return Findings(config, arms, shown, verdicts)


def _verdicts(config: StudyConfig, arms: dict[str, ArmResult], comparison: Comparison) -> Iterator[Verdict]:
    appearance, motion = config.tasks
    for expectation in comparison.expected:
        if expectation.better not in arms or expectation.worse not in arms:
            continue
        for task, claimed in ((appearance, expectation.appearance), (motion, expectation.motion)):
            if claimed:
                difference_R = arms[expectation.better].accuracy[task] - arms[expectation.worse].accuracy[task]
                mean, spread = float(difference_R.mean()), deviation(difference_R)
                says: Says = "within the spread"
                if abs(mean) > spread:
                    says = "as in the paper" if mean > 0 else "the other way round"
                yield Verdict(expectation, task, mean, spread, says)


def deviation(values_R: np.ndarray) -> float:
    """Return the sample deviation; 0 of a single value."""
    return float(values_R.std(ddof=1)) if len(values_R) > 1 else 0.0


def _nested(verdicts: dict[str, list[Verdict]]) -> dict[str, dict[str, float]]:
    nested: dict[str, dict[str, float]] = {}
    for verdict in (verdict for found in verdicts.values() for verdict in found):
        name = f"{verdict.expectation.better}_over_{verdict.expectation.worse}"
        nested.setdefault(name, {})[verdict.task] = verdict.difference
    return nested


def protocol_records(config: StudyConfig, runs: pd.DataFrame, bank: ClipBank) -> Iterator[Record]:
    """Yield a record for each reported run."""
    places = bank.places(config.test_splits)
    annotations = [{"video_id": bank.video_ids[place], "labels": bank.numbers_IL[place].tolist()} for place in places]
    sha256 = rows_sha256(annotations)
    for row in runs[runs["reported"]].to_dict("records"):
        arm = ARMS[row["arm"]]
        chosen = {name: None if pd.isna(row[name]) else float(row[name]) for name in ("pretraining_lr", "fine_tuning_lr")}
        validated = {f"validation_{task}": float(row[f"validation_{task}"]) for task in config.tasks}
        yield Record(
            task=f"claims/{row['arm']}/seed_{row['seed']}",
            values={task: float(row[f"test_{task}"]) for task in config.tasks},
            protocol=Protocol(
                split=" + ".join(config.test_splits),
                annotation_sha256=sha256,
                clips=len(places),
                frames=arm.clip.frames,
                views=config.views,
                resolution=bank.size,
                pool="clip",
                settings={
                    "sampling": arm.clip.sampling,
                    "tubelet": arm.clip.tubelet,
                    "attention": arm.attention,
                    "label_share": arm.labels,
                    "fine_tuning_steps": config.longer_steps if arm.longer else config.fine_tuning.steps,
                },
                chosen={**chosen, **validated},
                model=str(row["arm"]),
                checkpoint_sha256=str(row["checkpoint_sha256"]),
                seed=int(row["seed"]),
                version=__version__,
            ),
        )
