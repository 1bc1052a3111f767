"""Does a feature store hold what the videos and the teacher give now? Asked before training reads it.

Two questions. :func:`require_settings` compares what the store says about itself with the parameters and the teacher's
weights. :func:`verify_store` draws a sample of its rows, at least one of every shard, computes them again from the video
files, and compares: so a shard that was swapped, a video that was replaced, and a decoder that decodes differently since an
upgrade are found before training, not after.

Legend: B rows of a batch, T frames, S side of the view in pixels, N patches per frame, V visible patches per view, P values
per patch, K aligned layers, C target width, r all that a row has.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from umt_pipeline.compute.names import Precision
from umt_pipeline.compute.precision import autocast
from umt_pipeline.core.errors import CheckpointError, StoreError, VideoError
from umt_pipeline.core.files import sha256_file
from umt_pipeline.core.progress import progress
from umt_pipeline.features.codecs import Coder, cosine_error
from umt_pipeline.features.extract import FeatureConfig, recording_code
from umt_pipeline.features.index import noise_keys, places_of, rows_by_shard
from umt_pipeline.features.manifest import StoreHeader, read_manifest
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.features.targets import gather_patches, mask_noise, run_teacher
from umt_pipeline.masking import is_drawn
from umt_pipeline.models.teacher import Teacher, load_teacher, teacher_weights_file
from umt_pipeline.video.decode import decode_batches
from umt_pipeline.video.views import View, counter_generator, make_view

logger = logging.getLogger(__name__)

_BATCH = 32
# Up to so many rows are decoded in this process: starting others would take longer.
_ROWS_DECODED_HERE = 256
# The teacher's numbers differ a little between devices, libraries and batch sizes: on top of the codec's own error.
# By precision: two devices that round to bf16 in other orders differ as bf16 and fp32 do (docs/benchmarks_precision.md).
_ROUNDING: dict[Precision, float] = {"fp32": 1e-4, "bf16": 2e-3}
# Attention is stored in half precision.
_ATTENTION_TOLERANCE: dict[Precision, float] = {"fp32": 1e-2, "bf16": 0.15}
_HOW_TO_GO_ON = (
    "Bring the videos or the teacher back that the store was made from, or run teacher_features again; verify: 0 trains on the "
    "store as it is"
)


def require_settings(folder: Path, config: FeatureConfig, teacher: Path | None) -> None:
    """Refuse a store that was made with other settings than the parameters ask for.

    How a store is cut into shards is no such setting: it changes nothing for whoever reads it.

    Args:
        folder: the store.
        config: the parameters ``teacher_features``.
        teacher: the teacher's folder; None, or no teacher in it: its weights are not compared.

    Raises:
        StoreError: something differs; the message names all of it, with both sides.
    """
    manifest = read_manifest(folder)
    asked, found = _asked(config, manifest.target_dim), _made_with(manifest)
    differing = [
        f"{key}: the parameters say {json.dumps(value)}, the store has {json.dumps(found.get(key))}"
        for key, value in asked.items()
        if json.dumps(value) != json.dumps(found.get(key))
    ]
    if differing:
        raise StoreError(
            f"feature store {folder} was made with other settings than the parameters teacher_features ask for: "
            + "; ".join(differing)
            + ". Run teacher_features again, or set the parameters back"
        )
    if manifest.code != recording_code():
        logger.warning(
            "feature store %s was recorded by other code than this: verify compares its rows with what this code gives; run "
            "teacher_features again if they differ",
            folder,
        )
    if teacher is None:
        return
    try:
        weights = teacher_weights_file(teacher)
    except CheckpointError:  # verify_store refuses this too; with verify: 0 a store can be trained on without its teacher
        return
    require_teacher(folder, manifest, sha256_file(weights))


def require_teacher(folder: Path, header: StoreHeader, weights_sha256: str) -> None:
    """Refuse a teacher other than the one that made a store's targets.

    Raises:
        StoreError: the weights differ.
    """
    expected = header.teacher.weights_sha256
    if weights_sha256 != expected:
        raise StoreError(
            f"feature store {folder} was made by the teacher {header.teacher.source!r} with weights {expected[:12]}…, found "
            f"weights {weights_sha256[:12]}…. Run teacher_features again"
        )


def verify_store(
    folder: Path, share: float, teacher: Path, videos: pd.DataFrame, media_root: Path, workers: int | None = None
) -> int:
    """Compute a sample of a store's rows again and compare: views, pixels to the byte, masks, attention, targets.

    It takes about ``share`` of the extraction's time. It is done by the process that starts training, once and not on every
    rank, and again when a killed run goes on: by then it may be another machine.

    Args:
        folder: the store.
        share: of the rows of each shard, drawn by hash, at least one of each; 0: nothing is verified.
        teacher: the teacher's folder.
        videos: the clean video table.
        media_root: folder that the table's paths are relative to.
        workers: decoding processes for a large sample, as for extraction; a small one is decoded in this process.

    Returns:
        How many rows were compared.

    Raises:
        StoreError: a row differs: the message names it, its clip, what differs and by how much. Or videos or teacher are
            not there to compare with.
    """
    if share == 0:
        logger.warning("feature store: not verified, because verify is 0")
        return 0
    start = time.perf_counter()
    store = FeatureStore(folder)
    rows = sample_rows(store, share)
    if len(rows) == 0:
        return 0
    tower = _load_teacher(store, teacher)
    coder = store.coder().to(next(tower.parameters()).device)
    done = 0
    with progress("verifying the feature store", len(rows), "row") as show:
        for batch, frames_BTSS3 in _decode_again(store, rows, videos, media_root, workers):
            _compare(store, coder, tower, batch, frames_BTSS3)
            done += len(batch)
            show(done)
    seconds = time.perf_counter() - start
    logger.info("feature store: %d of %d rows verified in %.1f s: all as recorded", len(rows), len(store), seconds)
    return len(rows)


def sample_rows(store: FeatureStore, share: float) -> np.ndarray:
    """Return the rows that :func:`verify_store` compares, int64, sorted; always the same of a store."""
    rows = [np.empty(0, dtype=np.int64)]
    for number, of_shard in enumerate(rows_by_shard(places_of(store.index))):
        drawn = counter_generator("verify", store.manifest.dataset_id, number).permutation(len(of_shard))
        rows.append(of_shard[drawn[: max(1, round(share * len(of_shard)))]])
    return np.sort(np.concatenate(rows))


def _asked(config: FeatureConfig, target_dim: int) -> dict[str, object]:
    """Return what parameters ask for, by the name of the parameter."""
    teacher = {f"teacher.{name}": value for name, value in config.teacher.model_dump(mode="json").items()}
    fitting = config.model_copy(update={"codec": config.codec.for_width(target_dim)})
    # A store may be made on one device and read on another: `auto` takes what the first one took.
    precision = {} if config.precision == "auto" else {"precision": config.precision}
    return {**fitting.settings(), **teacher, **precision}


def _made_with(header: StoreHeader) -> dict[str, object]:
    """Return the same of a store."""
    teacher = {f"teacher.{name}": value for name, value in header.teacher_config().model_dump(mode="json").items()}
    return {**header.settings(), **teacher, "precision": header.precision}


def _load_teacher(store: FeatureStore, folder: Path) -> Teacher:
    header = store.manifest
    try:
        tower = load_teacher(folder, header.teacher_config(), header.grid)
    except CheckpointError as error:
        raise StoreError(
            f"feature store {store.folder}: cannot be verified, the teacher that made it is not here: {error} To train without "
            "it, set verify to 0"
        ) from error
    require_teacher(store.folder, header, tower.weights_sha256)
    return tower.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _decode_again(
    store: FeatureStore, rows: np.ndarray, videos: pd.DataFrame, media_root: Path, workers: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw the rows' views again from the video table and decode them; yields (rows, frames uint8 [B,T,S,S,3])."""
    header = store.manifest
    wanted = store.index["video_id"].take(pa.array(rows)).unique().to_pylist()
    known = videos[videos["video_id"].isin(wanted)].set_index("video_id").to_dict("index")
    paths: list[Path] = []
    views: list[View] = []
    for row in rows.tolist():
        record = store.record(row)
        clip = record["video_id"]
        if clip not in known:
            raise _mismatch(store, row, "the clip is not in the table videos")
        video = known[clip]
        if video["sha256"] != record["video_sha256"]:
            raise _mismatch(
                store, row, f"the file's SHA-256 was {record['video_sha256']}, the table videos has {video['sha256']}"
            )
        size = (int(video["num_frames"]), int(video["height"]), int(video["width"]))
        view = make_view(header.view, header.dataset_id, clip, record["view_number"], *size)
        if view != store.view(row):
            raise _mismatch(store, row, f"the view recorded is {store.view(row)}, drawn now it is {view}")
        paths.append(media_root / video["path"])
        views.append(view)
    batches = [range(start, min(start + _BATCH, len(rows))) for start in range(0, len(rows), _BATCH)]
    workers = 0 if len(rows) <= _ROWS_DECODED_HERE else workers
    try:
        for batch, frames_BTSS3 in decode_batches(paths, views, batches, workers):
            yield rows[batch.start : batch.stop], frames_BTSS3
    except VideoError as error:
        raise StoreError(
            f"feature store {store.folder}: cannot be verified, a file of it cannot be read: {error}. Bring it "
            "back; to train without the videos, set verify to 0"
        ) from error


def _compare(store: FeatureStore, coder: Coder, teacher: Teacher, rows: np.ndarray, frames_BTSS3: np.ndarray) -> None:
    """Compare rows with what their frames give now.

    Raises:
        StoreError: the first row that differs.
    """
    header = store.manifest
    device = next(teacher.parameters()).device
    stored = {name: tensor.to(device) for name, tensor in store.read_raw(rows).items()}
    visible_BV = stored["visible"].long()
    frames = torch.from_numpy(frames_BTSS3).to(device)
    patches = header.frames * header.grid**2
    # First what the video has no part in: pixels and targets are those of the mask's patches.
    _require(store, rows, "mask", "positions outside the view", (visible_BV < 0) | (visible_BV >= patches))
    keys = noise_keys(store.index.take(pa.array(rows)))
    size = (header.frames, header.grid**2)
    noise_BTN = np.stack([mask_noise(header.dataset_id, clip, number, *size) for clip, number in keys])
    drawn_B = is_drawn(header.mask, visible_BV, torch.from_numpy(noise_BTN).to(device), stored["attention"])
    _require(store, rows, "mask", "masks that the stored attention does not give", ~drawn_B)

    pixels = frames if header.pixels == "frames" else gather_patches(frames, visible_BV, header.patch_size)
    off_Br = (pixels.flatten(1).short() - stored["pixels"].flatten(1).short()).abs()
    _require(store, rows, "pixels", "bytes", off_Br > 0, off_Br)

    with autocast(header.precision, device):
        features = run_teacher(teacher, frames)
    # Relative to the largest of a frame: attention to most patches is close to zero.
    largest_BT1 = features.attention_BTN.float().amax(dim=-1, keepdim=True)
    off_BTN = (features.attention_BTN.float() - stored["attention"].float()).abs() / largest_BT1
    _require(store, rows, "attention", "patches", ~(off_BTN <= _ATTENTION_TOLERANCE[header.precision]), off_BTN)

    with autocast(header.precision, device):
        targets_BKVC = features.targets(visible_BV).transpose(0, 1)
    error_BKV = cosine_error(targets_BKVC, coder.decode(stored))
    fresh = coder.encode(targets_BKVC)
    allowed_BKV = cosine_error(targets_BKVC, coder.decode(fresh)) + _ROUNDING[header.precision]
    excess = f"tokens (1 - cosine; the codec {header.codec.kind} itself errs by at most {float(allowed_BKV.max()):.2g} here)"
    _require(store, rows, "targets", excess, ~(error_BKV <= allowed_BKV), error_BKV)


def _require(
    store: FeatureStore, rows: np.ndarray, what: str, unit: str, wrong: Tensor, by: Tensor | None = None
) -> None:
    """Refuse the first row with something wrong; ``wrong`` is bool [B,...], ``by`` says how far off each is."""
    wrong_Br = wrong.reshape(len(rows), -1)
    counts = wrong_Br.sum(dim=1).tolist()
    for index, count in enumerate(counts):
        if count:
            distance = "" if by is None else f", by up to {float(by[index].max()):.3g}"
            found = f"{what} differ in {count} of {wrong_Br.shape[1]} {unit}{distance}"
            raise _mismatch(store, int(rows[index]), found, sum(map(bool, counts)))


def _mismatch(store: FeatureStore, row: int, what: str, rows: int = 1) -> StoreError:
    record = store.record(row)
    others = f" ({rows - 1} more rows of the same batch differ too)" if rows > 1 else ""
    return StoreError(
        f"feature store {store.folder}: row {row} (shard {record['shard']}, clip {record['video_id']!r}, view "
        f"{record['view_number']}) is not what the video and the teacher give now: {what}{others}. {_HOW_TO_GO_ON}"
    )
