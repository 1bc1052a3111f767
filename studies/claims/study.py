"""Runs the arms: every arm with every seed and all of a small grid of learning rates, the same for all.

A killed study goes on where it stopped: each training run has a folder of its own, and a finished one is not run again.

Shapes: none; a table has a row per fine-tuned model.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from pydantic import Field, model_validator

from studies.claims.arms import ARMS, Arm
from studies.claims.bank import ClipBank
from studies.claims.encoders import EncoderSize
from studies.claims.fine_tuning import (
    FineTuningConfig,
    FineTuningSpec,
    labelled_clips,
    make_label_model,
    top1_accuracy,
)
from studies.claims.pretraining import PretrainingSpec
from umt_pipeline.compute.names import AskedPrecision
from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import TrainingError
from umt_pipeline.core.files import read_json, sha256_file, write_json
from umt_pipeline.core.identity import fingerprint, work_folder
from umt_pipeline.training.device import resolve_device
from umt_pipeline.training.launch import FinishedRun, run
from umt_pipeline.training.spec import RunSpec
from umt_pipeline.training.state import final_weights
from umt_pipeline.training.task import TrainConfig
from umt_pipeline.video.decode import follow_parent

logger = logging.getLogger(__name__)

Row = dict[str, Any]


class Phase(Config):
    """One phase of training: what all its runs share, and the learning rates that each arm chooses from.

    Attributes:
        lrs: peak learning rates.
        steps: optimiser steps.
        batch_size: clips per step.
        min_lr: learning rate at the end of the cosine.
        warmup: steps of linear warm-up: arms with few labels have short epochs.
        betas: of AdamW.
        weight_decay: likewise.
        clip_grad: largest norm of the gradient; null: no clipping.
        precision: see :class:`TrainConfig`.
    """

    lrs: tuple[float, ...] = Field(min_length=1)
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    min_lr: float = Field(0.0, ge=0)
    warmup: int = Field(0, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.05, ge=0)
    clip_grad: float | None = Field(None, gt=0)
    precision: AskedPrecision = "auto"

    def at(self, lr: float, clips: int, steps: int | None = None) -> TrainConfig:
        """Return the loop on so many clips with one of the learning rates, and another length if one is given."""
        steps = steps or self.steps
        epoch = max(1, clips // self.batch_size)
        # A run of seconds needs no checkpoints: what a kill costs is the runs at work. The loop wants epochs, and rounds down.
        pace = {"log_every": min(100, steps), "checkpoint_every": steps, "warmup": (self.warmup + 0.5) / epoch}
        return TrainConfig.model_validate({**self.model_dump(exclude={"lrs"}), **pace, "lr": lr, "steps": steps})


class StudyConfig(Config):
    """Parameters of the study.

    Attributes:
        tasks: label tasks; the first is about appearance, the second about motion.
        train_split: pre-trained and fine-tuned on.
        validation_splits: learning rates are chosen by the mean accuracy on them.
        test_splits: reported on, all together.
        size: side of a frame in pixels.
        patch_size: side of a patch.
        student: its size.
        seeds: every run is repeated with each.
        pretraining: first phase.
        fine_tuning: second phase.
        longer_steps: fine-tuning steps of an arm that gets the time of both phases.
        views: of a test clip, their softmax averaged.
        arms: which ones; null: all.
        workers: runs side by side, 1: in this process; null: one per core, or 1 where there is a CUDA device.
    """

    tasks: tuple[str, str]
    train_split: str = "train"
    validation_splits: tuple[str, ...] = Field(("validation",), min_length=1)
    test_splits: tuple[str, ...] = Field(("test",), min_length=1)
    size: int
    patch_size: int
    student: EncoderSize
    seeds: tuple[int, ...] = Field(min_length=1)
    pretraining: Phase
    fine_tuning: Phase
    longer_steps: int = Field(ge=1)
    views: int = Field(2, ge=1)
    arms: tuple[str, ...] | None = Field(None, min_length=1)
    workers: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> StudyConfig:
        unknown = [name for name in self.arms or () if name not in ARMS]
        if unknown:
            raise ValueError(f"`arms`: {unknown[0]!r} is none of {', '.join(ARMS)}")
        if self.size % self.patch_size:
            raise ValueError(f"`size` {self.size} is not a multiple of `patch_size` {self.patch_size}")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"`seeds` names one more than once: {', '.join(map(str, self.seeds))}")
        if self.layers > self.student.depth:
            raise ValueError(
                f"`student.depth` is {self.student.depth}, but an arm aligns {self.layers} layers; raise it, or leave the arm "
                "out of `arms`"
            )
        held_out = {*self.validation_splits, *self.test_splits}
        if self.train_split in held_out or set(self.validation_splits) & set(self.test_splits):
            raise ValueError("`train_split`, `validation_splits` and `test_splits` must be different splits")
        return self

    @property
    def chosen_arms(self) -> dict[str, Arm]:
        """Those that are run, by name."""
        return {name: arm for name, arm in ARMS.items() if self.arms is None or name in self.arms}

    @property
    def layers(self) -> int:
        """Most layers that an arm aligns."""
        return max((arm.pretraining.layers for arm in self.chosen_arms.values() if arm.pretraining is not None), default=1)

    @property
    def longest_clip(self) -> int:
        """Most frames that an arm reads."""
        return max(arm.clip.frames for arm in self.chosen_arms.values())


class Rates(NamedTuple):
    """Peak learning rates of both phases; the first is None where nothing is pre-trained."""

    pretraining: float | None
    fine_tuning: float


@dataclass(frozen=True)
class Run:
    """One fine-tuned model."""

    arm: str
    seed: int
    rates: Rates


@dataclass(frozen=True)
class Job:
    """One pre-training run, or none, and the runs that start from it: their arms share their pre-training."""

    seed: int
    pretraining_lr: float | None
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Place:
    """Where a study reads and works.

    Attributes:
        bank: folder of the clips.
        teacher: folder of the teacher, whose hash is part of the bank's name.
        runs: folder for the training runs.
    """

    bank: Path
    teacher: Path
    runs: Path


def run_study(config: StudyConfig, seed: int, place: Place) -> pd.DataFrame:
    """Run the whole grid of every arm with every seed, and say which of its runs are reported.

    Args:
        config: the study.
        seed: added to each of the study's.
        place: where.

    Returns:
        A row per fine-tuned model: arm, seed, learning rates, ``validation_TASK`` and ``test_TASK`` in percent, seconds of
        both phases, final losses, hash of the weights, and ``reported_TASK``: whether these are the arm's best rates by the
        mean validation accuracy over seeds.

    Raises:
        TrainingError: a run failed.
    """
    arms = config.chosen_arms
    wanted = (
        Run(name, seed + number, Rates(lr, fine_lr))
        for name, arm in arms.items()
        for number in config.seeds
        for lr in (config.pretraining.lrs if arm.pretraining is not None else (None,))
        for fine_lr in config.fine_tuning.lrs
    )
    rows = _run_all(config, place, _grouped(wanted))
    order = list(arms)
    rows.sort(key=lambda row: (order.index(row["arm"]), row["seed"], row["pretraining_lr"] or 0.0, row["fine_tuning_lr"]))
    table = pd.DataFrame(rows)
    for task in config.tasks:
        best = {name: choose([row for row in rows if row["arm"] == name], task) for name in arms}
        table[f"reported_{task}"] = [
            Rates(row["pretraining_lr"], row["fine_tuning_lr"]) == best[row["arm"]] for row in rows
        ]
    return table


def choose(rows: Sequence[Row], task: str) -> Rates:
    """Return the learning rates with the best mean validation accuracy over all seeds; of equals the lowest."""
    found: dict[Rates, list[float]] = {}
    for row in rows:
        found.setdefault(Rates(row["pretraining_lr"], row["fine_tuning_lr"]), []).append(row[f"validation_{task}"])
    ordered = sorted(found, key=lambda rates: (rates.pretraining or 0.0, rates.fine_tuning))
    return max(ordered, key=lambda rates: sum(found[rates]) / len(found[rates]))


def _grouped(wanted: Iterable[Run]) -> list[Job]:
    """Put the runs that share their pre-training into one job, the costly jobs first."""
    groups: dict[tuple[str, int, float | None], list[Run]] = {}
    for one in wanted:
        pretraining = ARMS[one.arm].pretraining
        # Without pre-training nothing is shared.
        shared = fingerprint(one.arm, one.rates) if pretraining is None else fingerprint(pretraining.model_dump(mode="json"))
        groups.setdefault((shared, one.seed, one.rates.pretraining), []).append(one)
    jobs = [Job(seed, lr, tuple(runs)) for (_, seed, lr), runs in groups.items()]
    return sorted(jobs, key=lambda job: len(job.runs) + (job.pretraining_lr is not None), reverse=True)


def _run_all(config: StudyConfig, place: Place, jobs: list[Job]) -> list[Row]:
    device = resolve_device("auto")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = config.workers or (1 if device.type == "cuda" else cores)
    rows: list[Row] = []
    began = time.perf_counter()
    for done, found in enumerate(_finished(config, place, jobs, workers, max(1, cores // workers)), start=1):
        rows += found
        left = (time.perf_counter() - began) / done * (len(jobs) - done) / 60
        logger.info("claims: %d of %d jobs, about %.0f min left", done, len(jobs), left)
    return rows


def _finished(config: StudyConfig, place: Place, jobs: list[Job], workers: int, threads: int) -> Iterator[list[Row]]:
    """Yield the rows of each job as it ends; a single worker is this process, where a debugger can see it."""
    if workers == 1:
        for job in jobs:
            yield run_job(config, place, job)
        return
    # Started afresh, not forked: the caller has run torch's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (threads,)) as pool:
        waiting = [pool.submit(run_job, config, place, job) for job in jobs]
        try:
            for finished in as_completed(waiting):
                yield finished.result()
        except BrokenProcessPool as error:
            raise TrainingError(
                "claims: a process died, maybe for want of memory; run again with fewer `claims.workers`: finished runs are "
                "kept, and with 1 all happens in this process"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(threads: int) -> None:
    follow_parent()
    torch.set_num_threads(threads)
    # Many runs at once: their own progress would drown the study's.
    logging.getLogger("umt_pipeline").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Started:
    """What fine-tuning starts from: weights of a pre-training run, or nothing."""

    weights: Path | None = None
    loss: float | None = None
    seconds: float = 0.0


def run_job(config: StudyConfig, place: Place, job: Job) -> list[Row]:
    """Pre-train, fine-tune, test; or read what an earlier call found."""
    start, bank = Started(), ClipBank(place.bank)
    pretraining = ARMS[job.runs[0].arm].pretraining
    if pretraining is not None:
        assert job.pretraining_lr is not None
        spec = PretrainingSpec(
            bank=place.bank,
            split=config.train_split,
            size=config.student,
            config=pretraining,
            train=config.pretraining.at(job.pretraining_lr, len(bank.clips([config.train_split]))),
            seed=job.seed,
        ).resolved()
        done = _finish(spec, place)
        start = Started(final_weights(done.folder), done.result.history[-1]["loss"], done.result.seconds)
    return [_fine_tune(config, place, bank, one, start) for one in job.runs]


def _fine_tune(config: StudyConfig, place: Place, bank: ClipBank, one: Run, start: Started) -> Row:
    arm = ARMS[one.arm]
    model = FineTuningConfig(attention=arm.attention, clip=arm.clip, teacher=arm.teacher, labelled=arm.labelled)
    clips = len(labelled_clips(bank, config.train_split, arm.labelled, one.seed))
    spec = FineTuningSpec(
        bank=place.bank,
        split=config.train_split,
        size=config.student,
        config=model,
        teacher=place.teacher,
        start=start.weights,
        train=config.fine_tuning.at(one.rates.fine_tuning, clips, config.longer_steps if arm.longer else None),
        seed=one.seed,
    )
    spec = spec.resolved()
    folder = work_folder(place.runs, spec.identity())
    kept = folder / f"tested-{fingerprint(config.validation_splits, config.test_splits, config.views)}.json"
    if not kept.is_file():
        done = _finish(spec, place)
        trained = make_label_model(bank, config.student, model, place.teacher, None)
        trained.load_state_dict(done.weights())
        trained.to(resolve_device("auto"))
        parts = {"validation": config.validation_splits, "test": config.test_splits}
        found = {part: top1_accuracy(trained, bank, splits, arm.clip, config.views) for part, splits in parts.items()}
        facts = {
            "loss": done.result.history[-1]["loss"],
            "seconds": done.result.seconds,
            "checkpoint_sha256": sha256_file(final_weights(folder)),
        }
        write_json(kept, {**facts, **{f"{part}_{task}": value for part in found for task, value in found[part].items()}})
    facts = read_json(kept)
    return {
        "arm": one.arm,
        "seed": one.seed,
        "pretraining_lr": one.rates.pretraining,
        "fine_tuning_lr": one.rates.fine_tuning,
        **{f"{part}_{task}": facts[f"{part}_{task}"] for part in ("validation", "test") for task in config.tasks},
        "pretraining_seconds": start.seconds,
        "fine_tuning_seconds": facts["seconds"],
        "pretraining_loss": start.loss,
        "fine_tuning_loss": facts["loss"],
        "checkpoint_sha256": facts["checkpoint_sha256"],
    }


def _finish(spec: RunSpec, place: Place) -> FinishedRun:
    return run(spec, work_folder(place.runs, spec.identity()))
