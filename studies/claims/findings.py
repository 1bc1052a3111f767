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

from studies.claims.arms import ARMS, BASELINE, COMPARISONS, Arm, Comparison, Expectation
from studies.claims.bank import ClipBank
from studies.claims.study import StudyConfig
from umt_pipeline import __version__
from umt_pipeline.evaluation.records import Protocol, Record, rows_sha256

Says = Literal["yes", "the other way round", "cannot be told"]
# Two-sided, of a difference of means over seeds.
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
        difference: of the means over seeds, better - worse, points.
        margin: half the width of its confidence interval; infinite with one seed.
    """

    expectation: Expectation
    task: str
    difference: float
    margin: float

    @property
    def says(self) -> Says:
        """Return ``cannot be told`` where the confidence interval holds zero."""
        if abs(self.difference) <= self.margin:
            return "cannot be told"
        return "yes" if self.difference > 0 else "the other way round"


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
        runs: from :func:`studies.claims.study.run_study`.
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
                better_R, worse_R = (arms[name].accuracy[task] for name in (expectation.better, expectation.worse))
                yield Verdict(expectation, task, float(better_R.mean() - worse_R.mean()), margin(better_R, worse_R))


def margin(one_R: np.ndarray, other_R: np.ndarray) -> float:
    """Return half the width of the confidence interval of a difference of means, by Welch's t; infinite for a single seed.

    Not of pairs with the same seed. Arms that have as many labels share which clips have them, so that their runs with one
    seed are a little more alike than with two, and the interval is if anything too wide.
    """
    if min(len(one_R), len(other_R)) < 2:
        return float("inf")
    parts = [deviation(values_R) ** 2 / len(values_R) for values_R in (one_R, other_R)]
    if sum(parts) == 0:
        return 0.0
    freedom = sum(parts) ** 2 / sum(part**2 / (len(own) - 1) for part, own in zip(parts, (one_R, other_R), strict=True))
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, df=freedom)) * sum(parts) ** 0.5


def deviation(values_R: np.ndarray) -> float:
    """Return the sample deviation; 0 of a single value."""
    return float(values_R.std(ddof=1)) if len(values_R) > 1 else 0.0


def _nested(verdicts: dict[str, list[Verdict]]) -> dict[str, dict[str, dict[str, float]]]:
    nested: dict[str, dict[str, dict[str, float]]] = {}
    for verdict in (verdict for found in verdicts.values() for verdict in found):
        name = f"{verdict.expectation.better}_over_{verdict.expectation.worse}"
        nested.setdefault(name, {})[verdict.task] = {
            "mean": verdict.difference,
            # JSON knows no infinity.
            **({"margin": verdict.margin} if np.isfinite(verdict.margin) else {}),
        }
    return nested


def protocol_records(config: StudyConfig, runs: pd.DataFrame, bank: ClipBank) -> Iterator[Record]:
    """Yield a record for each reported run and task."""
    clips = bank.clips(config.test_splits)
    rows = [{"video_id": bank.video_ids[place], "labels": bank.numbers_IL[place].tolist()} for place in clips]
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
                    clips=len(clips),
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
    own_choice = {"attention": arm.attention, "teacher": arm.teacher, "labelled": arm.labelled}
    fine_tuning = {**config.fine_tuning.model_dump(mode="json"), **own_choice}
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
