"""The index of a store: what was planned, and little of it in memory."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.features.test_store import make_header, make_plan
from umt_pipeline.core.errors import StoreError
from umt_pipeline.core.files import write_json
from umt_pipeline.data.mapped import MappedTable, write_mapped
from umt_pipeline.features.index import (
    index_schema,
    index_table,
    places_of,
    plan_fingerprint,
    plan_rows,
    read_index,
    rows_in_order,
    views_of,
    write_index,
)
from umt_pipeline.features.manifest import FileEntry, ShardColumns, StoreHeader, StoreManifest, shard_name
from umt_pipeline.features.provider import CachedDataset, OnlineDataset
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.training.sampler import Sampler
from umt_pipeline.video.views import ViewConfig, make_view

VIEW = ViewConfig(frames=4, size=16)
CLIPS = pd.DataFrame(
    {
        "video_id": ["b", "a", "c"],
        "split": ["train", "train", "test"],
        "num_frames": [9, 2, 70_000],
        "height": [40, 17, 3000],
        "width": [50, 40, 5000],
        "sha256": ["1" * 64, "2" * 64, "1" * 64],
    }
)
# Per row and rank, while training reads a store.
MOST_BYTES = 64


def test_a_plan_holds_the_views_of_each_clip_side_by_side() -> None:
    plan = plan_rows(VIEW, "set", 2, CLIPS)
    assert plan["video_id"].to_pylist() == ["b", "b", "a", "a", "c", "c"]
    assert plan["split"].to_pylist() == ["train"] * 4 + ["test"] * 2
    assert plan["video_sha256"].to_pylist() == ["1" * 64] * 2 + ["2" * 64] * 2 + ["1" * 64] * 2
    assert plan["view_number"].to_pylist() == [0, 1] * 3
    expected = [
        make_view(VIEW, "set", clip.video_id, number, clip.num_frames, clip.height, clip.width)
        for clip in CLIPS.itertuples()
        for number in range(2)
    ]
    assert views_of(plan, 16) == expected
    for none in (plan_rows(VIEW, "set", 0, CLIPS), plan_rows(VIEW, "set", 2, CLIPS.iloc[:0])):
        assert (len(none), none.schema) == (0, plan.schema)


def test_the_fingerprint_of_a_plan_changes_with_what_it_says_alone() -> None:
    plan = plan_rows(VIEW, "set", 2, CLIPS)
    known = plan_fingerprint(plan)
    assert plan_fingerprint(plan_rows(VIEW, "set", 2, CLIPS.assign(other=1))) == known
    changes: list[Callable[[pd.DataFrame], pd.DataFrame]] = [
        lambda clips: clips.assign(sha256="3" * 64),
        lambda clips: clips.assign(video_id=["b", "a", "d"]),
        lambda clips: clips.assign(split="train"),
        lambda clips: clips.iloc[:-1],
    ]
    others = [plan_rows(VIEW, "set", 2, change(CLIPS)) for change in changes]
    others += [plan_rows(VIEW, "set", 1, CLIPS), plan_rows(VIEW, "other", 2, CLIPS)]
    assert len({known, *map(plan_fingerprint, others)}) == 7


@pytest.mark.parametrize("rows", [0, 8])
def test_an_index_comes_back_as_it_was_written(tmp_path: Path, rows: int) -> None:
    # As it is after rows were chosen: in several pieces, each with texts of its own.
    plan = pa.concat_tables([make_plan(rows).slice(0, 3), make_plan(rows).slice(3)])
    places_R2 = rows_in_order(rows, 3)[::-1]
    write_index(tmp_path, index_table(plan, places_R2))
    found = read_index(tmp_path)
    assert found.schema == index_schema(2)
    assert found.select(plan.schema.names).to_pylist() == make_plan(rows).to_pylist()
    assert (places_of(found) == places_R2).all()


def test_a_file_that_is_no_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"index\.arrow: cannot be read: .*Make the feature store again"):
        read_index(tmp_path)
    (tmp_path / "index.arrow").write_bytes(b"not Arrow")
    with pytest.raises(StoreError, match=r"index\.arrow: cannot be read: "):
        read_index(tmp_path)
    for table in (make_plan(), pa.table({"video_id": ["a"]})):
        write_index(tmp_path, table)
        with pytest.raises(StoreError, match=r"index\.arrow: expected columns \['shard', 'shard_row', 'video_id', .*found \["):
            read_index(tmp_path)


def make_store_without_records(folder: Path, clips: int, views: int) -> StoreHeader:
    """Write manifest and index of a large store, and empty folders in the place of its shards."""
    frames, rows = 8, clips * views
    header = make_header(views=views, view=ViewConfig(frames=frames, size=8), frames=frames, shard_rows=1024, splits=("train",))
    ids = pa.array([f"a folder/and a file {clip:09d}" for clip in range(clips)])
    hashes = pa.array([f"{clip:064d}" for clip in range(clips)])
    codes_R = np.repeat(np.arange(clips, dtype=np.int32), views)
    schema = index_schema(frames)
    places_R2 = rows_in_order(rows, 1024)
    table = pa.table(
        {
            "shard": places_R2[:, 0].astype(np.int32),
            "shard_row": places_R2[:, 1].astype(np.int32),
            "video_id": pa.DictionaryArray.from_arrays(codes_R, ids),
            "split": pa.DictionaryArray.from_arrays(np.zeros(rows, dtype=np.int8), pa.array(["train"])),
            "view_number": np.tile(np.arange(views, dtype=np.int32), clips),
            "frame_indices": pa.FixedSizeListArray.from_arrays(np.arange(rows * frames, dtype=np.int32), frames),
            "crop": pa.FixedSizeListArray.from_arrays(np.arange(rows * 4, dtype=np.int32), 4),
            "flip": np.arange(rows) % 2 == 0,
            "video_sha256": pa.DictionaryArray.from_arrays(codes_R, hashes),
        },
        schema=schema,
    )
    write_index(folder, table)
    sizes = [1024] * (rows // 1024) + ([rows % 1024] if rows % 1024 else [])
    files = {name: FileEntry(bytes=1, sha256="0" * 64) for name in header.arrays()}
    shards = ShardColumns.of(sizes, [files] * len(sizes))
    manifest = StoreManifest(**dict(header), rows=rows, index=FileEntry.of(folder / "index.arrow"), shards=shards)
    write_json(folder / "manifest.json", manifest.as_json())
    for shard in range(len(sizes)):
        (folder / "shards" / shard_name(shard)).mkdir(parents=True)
    return header


@contextmanager
def measured(result: dict[str, float]) -> Iterator[None]:
    """Measure what the block leaves in memory, and its peak, in bytes: of Python, NumPy and Arrow; mapped files are not."""
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        yield
        held, peak = tracemalloc.get_traced_memory()
        result["held"] = held + pa.total_allocated_bytes() - before
        result["peak"] = peak
    finally:
        tracemalloc.stop()


def walk(dataset: Any) -> Sampler:
    sampler = Sampler(len(dataset), 128, seed=0)
    for step in (0, sampler.steps_per_epoch, 2 * sampler.steps_per_epoch - 1):
        sampler.global_batch(step)
    return sampler


@pytest.mark.parametrize("views", [1, 8])
def test_a_store_takes_few_bytes_per_row_while_it_is_read(tmp_path: Path, views: int) -> None:
    clips = 240_000 // views
    make_store_without_records(tmp_path, clips, views)
    result: dict[str, float] = {}
    with measured(result):
        store = FeatureStore(tmp_path)
        dataset = CachedDataset(store, "train")
        sampler = walk(dataset)
        rows = dataset.rows(*sampler.global_batch(0)[:2])
        record, view = store.record(int(rows[0])), store.view(int(rows[0]))
    assert (record["view_number"], len(view.frame_indices)) == (0, 8)
    assert result["held"] <= MOST_BYTES / 2 * len(store)
    assert result["peak"] <= MOST_BYTES * len(store), "while an epoch is drawn"
    assert len(pickle.dumps(dataset)) <= MOST_BYTES / 4 * len(store), "what a worker process is sent"


def test_clips_that_are_decoded_take_few_bytes_too(tmp_path: Path) -> None:
    clips = 240_000
    table = pa.table(
        {
            "video_id": pa.array([f"a folder/and a file {clip:09d}" for clip in range(clips)]),
            "path": pa.array([f"a folder/and a file {clip:09d}.mp4" for clip in range(clips)]),
            **{name: np.full(clips, 100) for name in ("num_frames", "height", "width")},
            **{name: pa.array([value] * clips) for name, value in (("split", "train"), ("media", "video"))},
        }
    )
    write_mapped(tmp_path / "clips.arrow", table.to_pandas())
    result: dict[str, float] = {}
    with measured(result):
        dataset = OnlineDataset(make_header(), MappedTable(tmp_path / "clips.arrow"), "train", tmp_path)
        sampler = walk(dataset)
    assert len(sampler.global_batch(0)[0]) == 128
    assert result["peak"] <= MOST_BYTES * clips
    assert len(pickle.dumps(dataset)) <= MOST_BYTES / 4 * clips
