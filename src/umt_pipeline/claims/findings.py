"""What the runs of a study say: means, spreads, and whether the paper's directions, and others, are found.

Shapes: R seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from umt_pipeline import __version__
from umt_pipeline.claims.arms import ARMS, BASELINE, COMPARISONS, Arm, Comparison, Expectation
from umt_pipeline.claims.bank import ClipBank
from umt_pipeline.claims.study import StudyConfig
from umt_pipeline.evaluation.records import Protocol, Record, rows_sha256

Says = Literal["yes", "the other way round", "cannot be told"]
# Two-sided, of the mean of the seeds' differences.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class ArmResult:
    """The reported runs of one arm.

    Attributes:
        name: of the arm.
        accuracy: per task percent [R], in the order of the seeds.
        rates: per task the chosen learning rate of fine-tuning.
        time: seconds of pre-training, as a multiple of the baseline's; None without pre-training.
    """

    name: str
    accuracy: dict[str, np.ndarray]
    rates: dict[str, float]
    time: float | None

    def mean(self, task: str) -> float:
        """Return the mean over seeds."""
        return float(self.accuracy[task].mean())

    def spread(self, task: str) -> float:
        """Return the sample deviation over seeds; 0 of a single one."""
        return deviation(self.accuracy[task])


@dataclass(frozen=True)
class Verdict:
    """One direction, looked for here.

    Attributes:
        expectation: the direction.
        task: label task.
        difference: mean over seeds of (better - worse), points.
        spread: sample deviation of these differences.
        says: ``cannot be told`` where the confidence interval of the mean difference holds zero, or there is one seed only.
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
        """Return means, spreads and differences as nested JSON."""
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
    seconds = runs.groupby("arm")["pretraining_seconds"].median()
    unit = seconds.get(BASELINE, np.nan)
    arms = {}
    for name, arm in config.chosen_arms.items():
        own = runs[runs["arm"] == name].sort_values("seed", kind="stable")
        chosen = {task: own[own[f"reported_{task}"]] for task in config.tasks}
        arms[name] = ArmResult(
            name,
            {task: rows[f"test_{task}"].to_numpy() for task, rows in chosen.items()},
            {task: float(rows["fine_tuning_lr"].iloc[0]) for task, rows in chosen.items()},
            None if arm.pretraining is None else float(seconds[name] / unit),
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
                yield Verdict(
                    expectation, task, float(difference_R.mean()), deviation(difference_R), said(difference_R)
                )


def said(difference_R: np.ndarray) -> Says:
    """Tell whether differences, one per seed, are above zero: by Student's t, which asks three seeds for 2.5 deviations."""
    if len(difference_R) < 2:
        return "cannot be told"
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, df=len(difference_R) - 1))
    mean = float(difference_R.mean())
    if abs(mean) <= quantile * deviation(difference_R) / np.sqrt(len(difference_R)):
        return "cannot be told"
    return "yes" if mean > 0 else "the other way round"


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
    """Yield a record for each reported run and task."""
    places = bank.places(config.test_splits)
    rows = [{"video_id": bank.video_ids[place], "labels": bank.numbers_IL[place].tolist()} for place in places]
    sha256 = rows_sha256(rows)
    for task in config.tasks:
        for row in runs[runs[f"reported_{task}"]].to_dict("records"):
            arm = ARMS[row["arm"]]
            lr = None if arm.pretraining is None else float(row["pretraining_lr"])
            yield Record(
                task=f"claims/{row['arm']}/{task}/seed_{row['seed']}",
                values={"top1": float(row[f"test_{task}"])},
                protocol=Protocol(
                    split=" + ".join(config.test_splits),
                    annotation_sha256=sha256,
                    clips=len(places),
                    frames=arm.clip.frames,
                    views=config.views,
                    resolution=bank.size,
                    pool="clip",
                    settings=_settings(config, arm),
                    chosen={
                        "pretraining_lr": lr,
                        "fine_tuning_lr": float(row["fine_tuning_lr"]),
                        "validation_top1": float(row[f"validation_{task}"]),
                    },
                    model=str(row["arm"]),
                    checkpoint_sha256=str(row["checkpoint_sha256"]),
                    seed=int(row["seed"]),
                    version=__version__,
                ),
            )


def _settings(config: StudyConfig, arm: Arm) -> dict[str, float | int | str | None]:
    """Return all that a run depends on but for what was chosen, flat."""
    fine_tuning = {**config.fine_tuning.model_dump(mode="json"), "attention": arm.attention, "teacher": arm.teacher}
    if arm.longer:
        fine_tuning["steps"] = config.longer_steps
    parts: dict[str, dict[str, Any]] = {
        "student": config.student.model_dump(mode="json"),
        "fine_tuning": {**fine_tuning, **arm.clip.model_dump(mode="json")},
    }
    if arm.pretraining is not None:
        own = arm.pretraining.model_dump(mode="json")
        masks = {f"mask_{name}": value for name, value in own.pop("mask").items()}
        parts["pretraining"] = {**config.pretraining.model_dump(mode="json"), **own.pop("clip"), **own, **masks}
    return {
        f"{part}_{name}": ", ".join(map(str, value)) if isinstance(value, list) else value
        for part, values in parts.items()
        for name, value in values.items()
    }
