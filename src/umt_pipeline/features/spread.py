"""Shards made by an executor's workers, on other machines that share the folders: each loads the teacher once."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from functools import partial

import torch

from umt_pipeline.core.claims import Claims
from umt_pipeline.core.executor import Executor, Needs
from umt_pipeline.core.identity import PACKAGE
from umt_pipeline.features.extract import RECORDING
from umt_pipeline.features.manifest import shard_name
from umt_pipeline.features.runner import claims_folder, take_shard
from umt_pipeline.features.shards import ExtractionJob, ShardMaker, Spent, Step
from umt_pipeline.features.writer import PLAN_FILE

# Each try starts workers, which load the teacher.
_TRIES_EVERY_S = 15.0


def make_by(executor: Executor, job: ExtractionJob) -> Generator[Step, None, None]:
    """Have the missing shards of a job made by an executor; see :data:`umt_pipeline.features.runner.MakeShards`.

    A worker has a GPU to itself, and its share of the cores. Without GPUs ``nproc`` workers share a machine.

    Args:
        executor: whose workers see the job's folders.
        job: what is made.

    Yields:
        News of each shard that is done, and of none now and then while others make the last ones.

    Raises:
        StoreError: the disk is full.
        DecoderDiedError: a decoding process cannot be started.
        ConfigError: a worker lacks a folder, a package or the same code.
    """
    store = job.plan()
    while missing := store.missing:
        first, _ = store.files(store.rows_of[missing[0]][:1], job.media_root)[0]
        needs = Needs(
            shared=(job.teacher, *sorted(job.teacher.iterdir()), job.media_root, first, job.store / PLAN_FILE),
            code=RECORDING,
            packages=tuple(name for name in store.header.versions if name != PACKAGE),
            gpu=True,
            per_machine=job.config.nproc or 1,
        )
        with closing(executor.map(partial(_Claimed, job), missing, needs)) as steps:
            for _, step in steps:
                if step is not None:
                    yield step
        if store.missing:
            time.sleep(_TRIES_EVERY_S)  # others are at them, or have just died
            yield Step(0, Spent())


class _Claimed:
    """Makes shards that nobody else is at.

    Args:
        job: what is made.
        cores: how many this process may use.
    """

    def __init__(self, job: ExtractionJob, cores: int) -> None:
        device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        if device.type == "cpu":
            torch.set_num_threads(cores)
        if job.config.workers is None:
            job = job.model_copy(update={"config": job.config.model_copy(update={"workers": cores})})
        self._maker = ShardMaker(job, device)
        self._claims = Claims(claims_folder(job.store))

    def __call__(self, shard: int) -> Step | None:
        """Make a shard; None: somebody else is at it."""
        if not take_shard(self._claims, self._maker.store, shard):
            return None
        try:
            steps = list(self._maker.make_all([shard]))
        finally:
            self._claims.give_back(shard_name(shard))
        spent = sum((step.spent for step in steps), Spent())
        return Step(sum(step.rows for step in steps), spent, steps[-1].report)
