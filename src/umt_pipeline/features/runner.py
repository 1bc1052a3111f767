"""Extraction: begin a store, have its shards made, make it a store; on one device, on all of a machine, on several machines.

:func:`extract` does all of it. Who makes the shards is a function from a job to news of them (:data:`MakeShards`);
:func:`make_here` starts a process for each device, which claim shards by files in a folder beside the store. Others may claim
shards of the same store at the same time: another :func:`extract`, or, on a machine that has the same folders,

    python -m umt_pipeline.features.runner WORK/job.json

with the ``job.json`` that lies beside the store. Whoever dies costs the shard that it was at.
"""

from __future__ import annotations

import logging
import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch

from umt_pipeline.core.claims import Claims
from umt_pipeline.core.errors import ConfigError, StoreError, UmtError
from umt_pipeline.core.files import write_json
from umt_pipeline.core.processes import cores, follow_parent
from umt_pipeline.features.extract import ExtractionPlan, FeatureConfig, learn_codec
from umt_pipeline.features.index import clip_count
from umt_pipeline.features.manifest import MANIFEST_FILE, StoreManifest, shard_name
from umt_pipeline.features.rejects import OTHER_VIEW, read_rejects
from umt_pipeline.features.shards import CodecError, ExtractionJob, ShardMaker, Spent, Step
from umt_pipeline.features.writer import UnfinishedStore
from umt_pipeline.models.teacher import Teacher

logger = logging.getLogger(__name__)

JOB_FILE = "job.json"
# How often shards are looked for that others have made, or have left when they died.
LOOKS_EVERY_S = 1.0
# Rejected files that a message names.
_NAMED = 5
_REMEDY = "Restore the files and run again, or run ingestion again, which rejects them or takes them as they are now"


@dataclass(frozen=True)
class Progress:
    """How far an extraction is.

    Attributes:
        rows: of the store.
        done: of these, how many are there.
        seconds: since it began.
        made: rows that were made since then, by the processes that :data:`MakeShards` started.
        spent: where the time of these processes went.
        macs: the teacher's multiply-accumulates for a row; None where they are not known.
    """

    rows: int
    done: int
    seconds: float
    made: int
    spent: Spent
    macs: int | None

    def shares(self) -> dict[str, float]:
        """Return the shares of the processes' time spent waiting for frames, at the device, and waiting for the disk."""
        total = max(self.spent.decode + self.spent.device + self.spent.write, 1e-9)
        parts = {"decode": self.spent.decode, "device": self.spent.device, "write": self.spent.write}
        return {name: seconds / total for name, seconds in parts.items()}

    @property
    def flops_per_second(self) -> float | None:
        """The teachers' floating-point operations per second, where they are known."""
        return None if self.macs is None else 2 * self.macs * self.made / max(self.seconds, 1e-9)


OnProgress = Callable[[Progress], None]
MakeShards = Callable[[ExtractionJob], Generator[Step, None, None]]
"""Has the missing shards of a job made, and yields news of it; ends when all are there."""


def extract(
    config: FeatureConfig,
    teacher: Teacher,
    plan: ExtractionPlan,
    media_root: Path,
    folder: Path,
    on_progress: OnProgress = lambda progress: None,
    make_shards: MakeShards | None = None,
) -> dict[str, Any]:
    """Fill a store, or go on with one that was interrupted, together with whoever else fills it.

    Args:
        config: what to extract.
        teacher: from a folder that stays where it is; on the device that codecs are to learn on.
        plan: from :func:`umt_pipeline.features.extract.plan_extraction` with the same arguments.
        media_root: folder that the plan's paths are relative to.
        folder: becomes the store; keep it between attempts. :func:`umt_pipeline.features.reuse.begin_store` may have put
            records of earlier stores there.
        on_progress: called after each batch.
        make_shards: makes shards; None: :func:`make_here`.

    Returns:
        Report: rows, and how many of them were found in earlier stores or were there from an interrupted call; rows and clips
        rejected because a file cannot be read; dead rows, clips, views, bytes per clip view by array, seconds, clip views
        extracted per second, shares of the time by what was waited for, and the codec's cosine error (1 - cosine), measured on
        the first batch of each shard that this call made.

    Raises:
        StoreError: too many files that ingestion accepted cannot be read now, or the disk is full. Finished shards stay.
        DecoderDiedError: a decoding process cannot be started.
        ConfigError: there are fewer devices than ``nproc``.
    """
    start = time.perf_counter()
    job = begin(config, teacher, plan, media_root, folder)
    store = job.plan()
    tally = _Tally(store, teacher.macs(store.header.frames, store.header.visible_per_frame))
    logger.info(
        "feature store: %d views wanted, %d found by content, %d there already, %d to extract (of %d clips)",
        store.rows,
        store.rows_found,
        tally.before - store.rows_found,
        store.rows - tally.before,
        len(set[int]().union(*(store.clips_of(store.rows_of[shard]) for shard in store.missing))),
    )
    if store.missing:
        steps = make_shards(job) if make_shards is not None else make_here(job, teacher)
        with closing(steps):
            for step in steps:
                tally.add(step)
                on_progress(tally.progress())
                if len(tally.rejected) > config.max_rejected_share * store.clips:
                    break
    manifest = finish(job)
    return _report(plan, manifest, tally, read_rejects(folder).num_rows, time.perf_counter() - start)


def begin(config: FeatureConfig, teacher: Teacher, plan: ExtractionPlan, media_root: Path, folder: Path) -> ExtractionJob:
    """Write down what a store is to be, and let its codec learn, unless that was done.

    Raises:
        StoreError: the folder holds another store, or cannot be written; or nothing can be read that a codec learns from.
    """
    assert teacher.folder is not None, "other processes load it too"
    where = {"teacher": teacher.folder, "media_root": media_root, "store": folder}
    job = ExtractionJob(config=config, **{name: path.resolve() for name, path in where.items()})
    with Claims(claims_folder(folder)) as claims, claims.only("plan"):
        alone = not claims.held_by_others()
        store = UnfinishedStore.begin(folder, plan.header, plan.index, plan.paths)
        if alone:
            store.remove_leftovers()
        with store.disk_errors(0):
            write_json(folder.with_name(JOB_FILE), job.model_dump(mode="json"))
        store.coder(lambda: learn_codec(config, teacher, store, media_root))
    return job


def finish(job: ExtractionJob) -> StoreManifest:
    """Make the shards of a job a store.

    Raises:
        StoreError: more clips than ``max_rejected_share`` cannot be read; the shards that lack them are removed, so that they
            are tried again. Or shards are missing.
    """
    folder, limit = job.store, job.config.max_rejected_share
    with Claims(claims_folder(folder)) as claims, claims.only("plan"):
        store = job.plan()
        rejected = store.rejected()
        lost = dict(zip(rejected["video_id"].to_pylist(), rejected["path"].to_pylist(), strict=True))
        # Of a store that another run has finished, they are out of the index.
        clips = store.clips + (len(lost) if (folder / MANIFEST_FILE).is_file() else 0)
        reasons = {record["path"]: record["detail"] for record in rejected.to_pylist() if record["reason"] != OTHER_VIEW}
        named = "; ".join(f"{path}: {detail}" for path, detail in list(reasons.items())[:_NAMED])
        more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        if len(lost) > limit * clips:
            store.give_up_rejects()
            raise StoreError(
                f"files that ingestion accepted cannot be read now: {len(lost)} of {clips} clips so far, more than "
                f"teacher_features.max_rejected_share ({limit:.1%}): {named}{more}. Finished shards are kept. {_REMEDY}"
            )
        manifest = store.finish()
        claims.clear()
        if lost:
            logger.warning(
                "feature store: %d of %d clips are left out, because files that ingestion accepted cannot be read now: %s%s. "
                "The store's rejects.parquet lists them all. %s",
                len(lost),
                clips,
                named,
                more,
                _REMEDY,
            )
        return manifest


def claims_folder(folder: Path) -> Path:
    """Return where those who make a store claim its shards: beside it, for a store is put in its place whole."""
    return folder.with_name(f".{folder.name}.claims")


def take_shard(claims: Claims, store: UnfinishedStore, shard: int) -> bool:
    """Claim a shard; return whether it is this process' own.

    Raises:
        StoreError: the disk is full or cannot be written.
    """
    with store.disk_errors(int(store.rows_of[shard][0])):
        return claims.take(shard_name(shard))


# --- on this machine ----------------------------------------------------------------------------------------------------
def make_here(job: ExtractionJob, teacher: Teacher | None = None) -> Generator[Step, None, None]:
    """Make the missing shards of a job on this machine; see :data:`MakeShards`.

    Args:
        job: what is made.
        teacher: the job's, if it is loaded; used where one process suffices, which then is this one.

    Raises:
        StoreError: the disk is full, or all processes were killed.
        DecoderDiedError: a decoding process cannot be started.
        ConfigError: there are fewer devices than ``nproc``.
    """
    devices = _devices(job.config.nproc)
    count = len(devices)
    if job.config.workers is None:
        config = job.config.model_copy(update={"workers": max(1, cores() // count)})
        job = job.model_copy(update={"config": config})
    if count == 1:
        yield from _make_claimed(job, devices[0], teacher)
    else:
        yield from _make_in_processes(job, devices)


def _devices(nproc: int | None) -> list[torch.device]:
    if not torch.cuda.is_available():
        return [torch.device("cpu")] * (nproc or 1)
    found = torch.cuda.device_count()
    if nproc is not None and nproc > found:
        raise ConfigError(f"`teacher_features.nproc: {nproc}` needs as many CUDA devices, found {found}; lower it")
    return [torch.device("cuda", number) for number in range(nproc or found)]


def _make_claimed(job: ExtractionJob, device: torch.device, teacher: Teacher | None) -> Iterator[Step]:
    """Make shards as long as some are missing that nobody else makes; wait for those that others make, or leave."""
    with Claims(claims_folder(job.store)) as claims, ShardMaker(job, device, teacher) as maker:
        while missing := maker.store.missing:
            for step in maker.make_all(shard for shard in missing if take_shard(claims, maker.store, shard)):
                if step.report is not None:
                    claims.give_back(shard_name(step.report.shard))
                yield step
            if maker.store.missing:
                time.sleep(LOOKS_EVERY_S)
                yield Step(0, Spent())  # others are at work: whoever listens may say how far they are


def _make_in_processes(job: ExtractionJob, devices: list[torch.device]) -> Iterator[Step]:
    context = multiprocessing.get_context("spawn")
    threads = max(1, cores() // len(devices))
    workers: dict[Connection, SpawnProcess] = {}
    try:
        for device in devices:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_serve, args=(job, device, threads, theirs))
            process.start()
            theirs.close()
            workers[ours] = process
        while workers:
            for connection in wait(list(workers)):
                assert isinstance(connection, Connection)
                try:
                    news = connection.recv()
                except EOFError:
                    _bury(workers.pop(connection), left=len(workers))
                    continue
                if isinstance(news, BaseException):
                    raise news
                yield news
        if job.plan().missing:
            raise StoreError(
                f"feature store {job.store}: all {len(devices)} extracting processes were killed, by the system for want of "
                "memory or by somebody. Finished shards are kept; run again, maybe with a smaller batch_size or nproc"
            )
    finally:
        for process in workers.values():
            process.terminate()
        for process in workers.values():
            process.join()


def _bury(process: SpawnProcess, left: int) -> None:
    process.join()
    if process.exitcode:
        logger.warning(
            "feature store: extracting process %s ended with exit code %s; %d others go on with its shard",
            process.pid,
            process.exitcode,
            left,
        )


def _serve(job: ExtractionJob, device: torch.device, threads: int, connection: Connection) -> None:
    """The main function of an extracting process."""
    follow_parent()
    if device.type == "cpu":
        torch.set_num_threads(threads)
    try:
        for step in _make_claimed(job, device, None):
            connection.send(step)
    except UmtError as error:
        connection.send(error)
    except Exception:  # told to the parent, which ends all
        connection.send(RuntimeError(f"an extracting process failed:\n{traceback.format_exc()}"))
    connection.close()


# --- what came of it ----------------------------------------------------------------------------------------------------
@dataclass
class _Tally:
    """Counts what processes tell, and what others have made meanwhile."""

    store: UnfinishedStore
    macs: int | None
    made: int = 0
    spent: Spent = field(default_factory=Spent)
    error: CodecError = field(default_factory=CodecError)
    rejected: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.before = self.store.rows_done
        self._of_others = 0
        self._own: set[int] = set()
        self._at_first = set(self.store.missing)
        self._began = self._looked = time.perf_counter()

    def add(self, step: Step) -> None:
        """Count news."""
        report = step.report
        self.spent += step.spent
        self.made += step.rows
        if report is None or not report.made:
            return
        self._own.add(report.shard)
        self.error += report.error
        rows = self.store.rows_of[report.shard][[reject.shard_row for reject in report.rejects]]
        self.rejected |= self.store.clips_of(rows)

    def progress(self) -> Progress:
        """Return how far it is."""
        now = time.perf_counter()
        if now - self._looked > LOOKS_EVERY_S:
            self._looked = now
            others = self._at_first - set(self.store.missing) - self._own
            self._of_others = sum(len(self.store.rows_of[shard]) for shard in others)
        done = min(self.store.rows, self.before + self.made + self._of_others)
        return Progress(self.store.rows, done, now - self._began, self.made, self.spent, self.macs)


def _report(plan: ExtractionPlan, manifest: StoreManifest, tally: _Tally, rejected: int, seconds: float) -> dict[str, Any]:
    sizes = plan.header.row_bytes()
    progress = tally.progress()
    report: dict[str, Any] = {
        "rows": manifest.rows,
        "rows_found": tally.store.rows_found,
        "rows_resumed": tally.before - tally.store.rows_found,
        "rows_dead": manifest.rows_dead,
        "rows_rejected": rejected,
        # As planned: a finished store's own index lacks those that were rejected.
        "clips": clip_count(plan.index),
        "clips_rejected": rejected // max(1, plan.header.views),
        "views": plan.header.views,
        "codec": plan.header.codec.kind,
        "bytes_per_clip_view": {**sizes, "total": sum(sizes.values())},
        "store_bytes": (manifest.rows + manifest.rows_dead) * sum(sizes.values()),
        "seconds": round(seconds, 3),
        "clip_views_per_second": round(tally.made / seconds, 3),
    }
    if tally.made:
        report["time_shares"] = {name: round(share, 3) for name, share in progress.shares().items()}
    if tally.error.tokens:
        error = tally.error
        report["codec_cosine_error"] = {"mean": error.total / error.tokens, "max": error.largest, "tokens": error.tokens}
    return report


def main(job_file: Path) -> None:
    """Help to fill a store that was begun elsewhere; returns when all its shards are there."""
    job = ExtractionJob.model_validate_json(job_file.read_text(encoding="utf-8"))
    rows = sum(step.rows for step in make_here(job))
    logger.info("feature store %s: this machine has made %d views", job.store, rows)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(Path(sys.argv[1]))
