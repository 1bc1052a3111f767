"""Features of clips, encoded once and kept in files, so that scoring reads what it needs and holds no set in memory.

    <root>/<encoder>-<key>/manifest.json         what the key was made of: weights, settings, view, code, clips
    <root>/<encoder>-<key>/00000.safetensors     features of some dozens of clips: vectors in full precision, tokens in half
    <root>/<encoder>-<key>/00000.json            which clips these are, where each array lies, hash; written last

Each worker encodes whole shards and writes them; nobody gathers features. What a shard holds does not depend on the number
of workers. A killed run loses the shards that are being made. The next run encodes what is missing, damaged, of other
weights, settings or code, and shards in which a clip failed (the file may be there now), and deletes what it does not use.

Shapes: S clips with features, V tokens, D width.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from umt_pipeline.core.files import read_json, sha256_file, write_json
from umt_pipeline.core.identity import code_key, fingerprint
from umt_pipeline.core.progress import progress
from umt_pipeline.evaluation.encoders import ClipEncoder, ClipLoader, decoded_batches
from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.evaluation.stored_arrays import DTYPES, StoredArray, arrays_in_file, store_arrays
from umt_pipeline.evaluation.workers import default_device
from umt_pipeline.video.views import ViewConfig

logger = logging.getLogger(__name__)

# A shard is at least so many clips, in whole batches: of ViT-B/16 and 12 frames, 116 MB of tokens.
_SHARD_CLIPS = 32
# So many shards are handed to a worker at once; decoding runs ahead within them.
_GROUP_SHARDS = 32


@dataclass(frozen=True)
class Features:
    """Features of a list of clips.

    Args:
        video_ids: S clips with features, in the order of the request.
        arrays: name -> vectors [S, D] in full precision, or tokens [S, V, D] in half.
        failures: clips without features, with the reason.
    """

    video_ids: tuple[str, ...]
    arrays: Mapping[str, StoredArray]
    failures: Mapping[str, str]

    def select(self, video_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices in ``video_ids`` that have features, and their rows here."""
        row_of = {video_id: row for row, video_id in enumerate(self.video_ids)}
        pairs = [(index, row_of[video_id]) for index, video_id in enumerate(video_ids) if video_id in row_of]
        both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        return both[:, 0], both[:, 1]


@dataclass(frozen=True)
class FeaturePlan:
    """Which clips are encoded by which encoders, and where the shards lie.

    Args:
        video_ids: the clips.
        folders: one per encoder, in the encoders' order.
        batch_size: clips per forward pass.
        threads: that decode in each process.
        title: for the progress bar.
        shard_clips: clips per shard: whole batches, so that a clip's batch does not depend on who encodes it.
    """

    video_ids: tuple[str, ...]
    folders: tuple[Path, ...]
    batch_size: int
    threads: int
    title: str
    shard_clips: int

    @property
    def shards(self) -> int:
        """Number of shards."""
        return math.ceil(len(self.video_ids) / self.shard_clips)

    def clips(self, shard: int) -> tuple[str, ...]:
        """Return the clips of a shard."""
        return self.video_ids[shard * self.shard_clips : (shard + 1) * self.shard_clips]


@dataclass(frozen=True)
class ShardGroup:
    """Shards that one worker makes in one go: shard -> indices of the encoders that lack it."""

    plan: FeaturePlan
    lacking: Mapping[int, tuple[int, ...]]
    name: str


def plan_features(
    root: Path,
    video_ids: Sequence[str],
    encoders: Sequence[ClipEncoder],
    contents: Mapping[str, str],
    *,
    batch_size: int,
    threads: int,
    title: str = "clips",
) -> FeaturePlan:
    """Name the folders of the features to come, in ``root``; ``contents`` says of each clip what changes when the clip does."""
    folders = []
    video_ids = tuple(dict.fromkeys(video_ids))
    clips = fingerprint([(video_id, contents[video_id]) for video_id in video_ids])
    for encoder in encoders:
        identity = encoder.identity
        settings = {"encoder": identity, "code": _code(), "clips": len(video_ids), "clips_fingerprint": clips,
                    "batch_size": batch_size}  # fmt: skip
        folder = root / f"{identity['name']}-{fingerprint(settings)}"
        write_json(folder / "manifest.json", settings)
        for leftover in folder.glob(".*.part"):
            leftover.unlink()
        folders.append(folder)
    shard_clips = batch_size * math.ceil(_SHARD_CLIPS / batch_size)
    return FeaturePlan(video_ids, tuple(folders), batch_size, threads, title, shard_clips)


def remove_others(root: Path, plans: Iterable[FeaturePlan]) -> None:
    """Delete whatever lies in ``root`` and belongs to none of the plans."""
    kept = {folder for plan in plans for folder in plan.folders}
    for path in set(root.iterdir()) - kept:
        logger.info("features: deleting %s: features that this run does not use", path)
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def missing_groups(plan: FeaturePlan, count: int) -> list[ShardGroup]:
    """Return the work that is left, in at least ``count`` groups where there are so many shards.

    Shards of an earlier run are checked by their hash.
    """
    lacking: dict[int, tuple[int, ...]] = {}
    for shard in range(plan.shards):
        indices = [index for index, folder in enumerate(plan.folders) if not _is_whole(folder, shard, plan.clips(shard))]
        if indices:
            lacking[shard] = tuple(indices)
    found = plan.shards - len(lacking)
    if found:
        logger.info("features: %s: %d of %d shards of features were there", plan.title, found, plan.shards)
    groups = min(len(lacking), max(count, math.ceil(len(lacking) / _GROUP_SHARDS)))
    # Every n-th shard: the short one stays last in its group, so that batches end where shards do.
    parts = [{shard: lacking[shard] for shard in list(lacking)[number::groups]} for number in range(groups)]
    title = plan.title if groups == 1 else f"{plan.title}, part {{}} of {groups}"
    return [ShardGroup(plan, part, title.format(number + 1)) for number, part in enumerate(parts)]


def encode_group(encoders: Sequence[ClipEncoder], load: ClipLoader, group: ShardGroup) -> None:
    """Decode each clip once (once per different view), run the encoders on it, and write the shards.

    Raises:
        EvaluationError: an encoder gave NaN or infinity for a clip, or the disk is full.
    """
    plan, device = group.plan, default_device()
    needed = sorted({index for indices in group.lacking.values() for index in indices})
    views = list(dict.fromkeys(encoders[index].view for index in needed))
    ids = [video_id for shard in group.lacking for video_id in plan.clips(shard)]
    batches = decoded_batches(ids, views, load, plan.batch_size, plan.threads)
    done = 0
    with progress(group.name, len(ids), "clip") as show:
        for shard, indices in group.lacking.items():
            kept: list[str] = []
            failures: dict[str, str] = {}
            parts: dict[int, list[dict[str, Tensor]]] = {index: [] for index in indices}
            while len(kept) + len(failures) < len(plan.clips(shard)):
                found, frames, failed = next(batches)
                kept += found
                failures |= failed
                shown = {view: torch.from_numpy(array).to(device) for view, array in frames.items()}
                for index in indices if found else ():
                    parts[index].append(_encode(encoders[index], found, shown))
                done += len(found) + len(failed)
                show(done)
            for index in indices:
                _write_shard(plan.folders[index], shard, kept, failures, parts.pop(index))


def read_features(plan: FeaturePlan) -> Features:
    """Return the features of a plan, all of whose shards are there; no array is read yet.

    Raises:
        EvaluationError: a shard is missing.
    """
    cards = [[_card(folder, shard, plan.clips(shard)) for shard in range(plan.shards)] for folder in plan.folders]
    if any(card is None for row in cards for card in row):
        raise EvaluationError(f"{plan.title}: shards of features are missing in {', '.join(map(str, plan.folders))}; run again")
    failures: dict[str, str] = {}
    for row in cards:
        for card in row:
            failures |= card["failures"]  # type: ignore[index]
    arrays: dict[str, StoredArray] = {}
    for folder, row in zip(plan.folders, cards, strict=True):
        arrays |= _arrays(folder, row, failures)  # type: ignore[arg-type]
    for video_id, reason in failures.items():
        logger.warning("features: clip %s has none and counts as wrong: %s", video_id, reason)
    kept = tuple(video_id for video_id in plan.video_ids if video_id not in failures)
    return Features(kept, arrays, failures)


@torch.inference_mode()
def _encode(encoder: ClipEncoder, ids: Sequence[str], frames: Mapping[ViewConfig, Tensor]) -> dict[str, Tensor]:
    """Return vectors in full and tokens in half precision, which is enough: they come out of a LayerNorm."""
    features: dict[str, Tensor] = {}
    for name, value in encoder.encode(frames[encoder.view]).items():
        features[name] = (value.half() if value.ndim == 3 else value.float()).cpu()
        finite = torch.isfinite(features[name]).flatten(1).all(dim=1)
        if not finite.all():
            bad = ids[int((~finite).nonzero()[0])]
            raise EvaluationError(f"encoder {name!r} gave NaN or infinity for clip {bad!r}: check its weights")
    return features


def _write_shard(
    folder: Path, shard: int, kept: Sequence[str], failures: Mapping[str, str], parts: Sequence[Mapping[str, Tensor]]
) -> None:
    card: dict[str, Any] = {"video_ids": list(kept), "failures": dict(failures), "arrays": {}, "sha256": None}
    if parts:
        path = folder / f"{shard:05d}.safetensors"
        store_arrays(path, {name: torch.cat([part[name] for part in parts]) for name in parts[0]})
        card |= {"arrays": arrays_in_file(path), "sha256": sha256_file(path)}
    write_json(folder / f"{shard:05d}.json", card)


def _card(folder: Path, shard: int, clips: Sequence[str]) -> dict[str, Any] | None:
    """Return what is written about a shard, or None if there is nothing that fits these clips."""
    try:
        card = read_json(folder / f"{shard:05d}.json")
        if {*card["video_ids"], *card["failures"]} == set(clips) and {"arrays", "sha256"} <= set(card):
            return card
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _is_whole(folder: Path, shard: int, clips: Sequence[str]) -> bool:
    card = _card(folder, shard, clips)
    if card is None or card["failures"]:
        return False
    path = folder / f"{shard:05d}.safetensors"
    whole = path.is_file() and sha256_file(path) == card["sha256"]
    if not whole:
        logger.warning("features: %s is damaged or gone: its %d clips are encoded again", path, len(clips))
    return whole


def _arrays(folder: Path, cards: Sequence[Mapping[str, Any]], failures: Mapping[str, str]) -> dict[str, StoredArray]:
    """Join the shards of one encoder, without the clips that failed."""
    rows = [
        (shard, index)
        for shard, card in enumerate(cards)
        for index, video_id in enumerate(card["video_ids"])
        if video_id not in failures
    ]
    file_S, index_S = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    arrays = {}
    for name, first in next((card["arrays"] for card in cards if card["arrays"]), {}).items():
        # A shard without a readable clip has no file and no row.
        files = [
            (folder / f"{shard:05d}.safetensors", card["arrays"][name]["offset"] if card["arrays"] else 0)
            for shard, card in enumerate(cards)
        ]
        arrays[name] = StoredArray(name, files, first["shape"][1:], DTYPES[first["dtype"]], file_S, index_S)
    return arrays


def _code() -> str:
    """Return a key of the code that makes features, of torch and of the kind of device."""
    return fingerprint(code_key("evaluation.feature_cache"), torch.__version__, default_device().type)
