"""The store: whole or not there, resumable, and refused by name when a file is not what was written."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from umt_pipeline.core.errors import StoreError
from umt_pipeline.core.files import read_json, write_json
from umt_pipeline.features.codecs import Coder, write_learnt
from umt_pipeline.features.index import plan_schema
from umt_pipeline.features.manifest import StoreHeader, TeacherIdentity
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.features.writer import ShardWriter, UnfinishedStore
from umt_pipeline.masking import MaskConfig
from umt_pipeline.video.views import View, ViewConfig

ROWS = 8


def make_header(**changes: object) -> StoreHeader:
    settings = {
        "dataset_id": "set",
        "splits": ("train", "validation"),
        "views": 2,
        "view": ViewConfig(frames=2, size=8),
        "mask": MaskConfig(kind="random", ratio=0.5),
        "patch_size": 4,
        "grid": 2,
        "frames": 2,
        "visible_per_frame": 2,
        "layers": 2,
        "target_dim": 3,
        "codec": "fp16",
        "pixels": "visible",
        "shard_rows": 3,
        "teacher": TeacherIdentity(
            source="x", id="x@0", weights_sha256="0" * 64, normalisation="student", importance="class_attention"
        ),
        "versions": {},
    }
    return StoreHeader.model_validate({**settings, **changes})


def make_plan(rows: int = ROWS, **changes: object) -> pa.Table:
    records = [
        {
            "video_id": f"clip{row // 2}",
            "split": "train" if row < 6 else "validation",
            "view_number": row % 2,
            "frame_indices": [row, row + 1],
            "crop": [0, row, 8, 8],
            "flip": row % 2 == 1,
            "video_sha256": "f" * 64,
        }
        for row in range(rows)
    ]
    return pa.Table.from_pylist([{**record, **changes} for record in records], schema=plan_schema(2))


def make_arrays(header: StoreHeader, first: int, count: int) -> dict[str, np.ndarray]:
    arrays = {}
    for name, spec in header.arrays().items():
        rows = [np.random.default_rng([row, *name.encode()]) for row in range(first, first + count)]
        arrays[name] = np.stack([(r.integers(0, 100, spec.shape)).astype(spec.dtype) for r in rows])
    return arrays


def begin(folder: Path, header: StoreHeader, plan: pa.Table | None = None) -> UnfinishedStore:
    plan = make_plan() if plan is None else plan
    paths = pa.array([f"{clip}.mp4" for clip in plan["video_id"].to_pylist()], pa.string())
    return UnfinishedStore.begin(folder, header, plan, paths)


def write_shard(store: UnfinishedStore, shard: int, at_once: int = 3) -> None:
    rows = store.rows_of[shard]
    writer = ShardWriter(store.shard_folder(shard), len(rows), store.header.arrays())
    writer.open()
    for start in range(0, len(rows), at_once):
        count = min(at_once, len(rows) - start)
        writer.append(make_arrays(store.header, int(rows[start]), count))
    writer.close()


def fill(folder: Path, header: StoreHeader, rows: int = ROWS, at_once: int = 3) -> Path:
    store = begin(folder, header, make_plan(rows))
    for shard in store.missing:
        write_shard(store, shard, at_once)
    store.finish()
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("codec", ["fp16", "int8"])
@pytest.mark.parametrize("pixels", ["visible", "frames"])
def test_rows_come_back_in_any_order(tmp_path: Path, codec: str, pixels: str) -> None:
    header = make_header(codec=codec, pixels=pixels)
    store = FeatureStore(fill(tmp_path / "store", header))
    everything = make_arrays(header, 0, ROWS)
    rows = np.array([7, 0, 3, 3, 5])
    for name, tensor in store.read_raw(rows).items():
        assert (tensor.numpy() == everything[name][rows]).all(), name
    read = store.read(rows)
    assert set(read) == {"visible", "targets", "attention", "patches" if pixels == "visible" else "frames"}
    assert read["visible"].dtype == torch.int64
    assert read["targets"].shape == (2, 5, 4, 3)
    assert read["attention"].shape == (5, 2, 4)
    assert store.read(np.array([], dtype=np.int64))["visible"].shape == (0, 4)
    store.verify()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return FeatureStore(fill(tmp_path_factory.mktemp("filled") / "store", make_header()))


@given(st.lists(st.integers(0, ROWS - 1), max_size=12))
@settings(deadline=None, max_examples=30)
def test_gather_equals_indexing(filled: FeatureStore, rows: list[int]) -> None:
    got = filled.read_raw(np.array(rows, dtype=np.int64), ["targets"])["targets"].numpy()
    assert (got == make_arrays(make_header(), 0, ROWS)["targets"][rows]).all()


def test_index_splits_and_views(tmp_path: Path) -> None:
    store = FeatureStore(fill(tmp_path / "store", make_header()))
    assert len(store) == ROWS
    assert store.rows_for("validation").tolist() == [6, 7]
    assert store.view(5) == View(frame_indices=(5, 6), crop=(0, 5, 8, 8), flip=True, size=8)
    assert store.record(7)["shard"] == 2
    assert store.record(7)["shard_row"] == 1
    with pytest.raises(StoreError, match="expected rows of split 'test', found train, validation"):
        store.rows_for("test")
    with pytest.raises(StoreError, match=r"expected rows in \[0, 8\), found 0 to 8"):
        store.read(np.array([0, 8]))


def test_an_opened_store_can_be_pickled(tmp_path: Path) -> None:
    store = FeatureStore(fill(tmp_path / "store", make_header()))
    before = store.read(np.arange(ROWS))
    again = pickle.loads(pickle.dumps(store)).read(np.arange(ROWS))
    assert all((before[name] == again[name]).all() for name in before)


@pytest.mark.parametrize("made", [0, 1, 2, 3])
def test_whoever_goes_on_makes_the_missing_shards(tmp_path: Path, made: int) -> None:
    header = make_header()
    expected = bytes_of(fill(tmp_path / "whole", header))
    store = begin(tmp_path / "store", header)
    for shard in (2, 0, 1)[:made]:
        write_shard(store, shard, at_once=1)
    with pytest.raises(StoreError, match="is no finished feature store"):
        FeatureStore(tmp_path / "store")
    store = begin(tmp_path / "store", header)
    assert store.missing == tuple(sorted((2, 0, 1)[made:]))
    assert store.rows_done == ROWS - sum(len(store.rows_of[shard]) for shard in store.missing)
    if store.missing:
        with pytest.raises(StoreError, match="expected 8 rows, found"):
            store.finish()
    for shard in store.missing:
        write_shard(store, shard)
    store.finish()
    assert bytes_of(tmp_path / "store") == expected
    # Once more on a finished store: nothing to do, nothing changed.
    store = begin(tmp_path / "store", header)
    assert (store.missing, store.rows_done) == ((), ROWS)
    store.finish()
    assert bytes_of(tmp_path / "store") == expected


def test_what_killed_makers_left_half_written_is_cleared(tmp_path: Path) -> None:
    expected = bytes_of(fill(tmp_path / "whole", make_header()))
    store = begin(tmp_path / "store", make_header())
    left = {name: (tmp_path / "store" / name).read_bytes() for name in ("plan.json", "paths.parquet")}
    write_shard(store, 0)
    killed = ShardWriter(store.shard_folder(1), 3, store.header.arrays())
    killed.open()
    killed.append(make_arrays(store.header, 3, 1))
    (tmp_path / "store/.index.arrow.123.part").write_bytes(b"half")
    for shard in store.missing:
        write_shard(store, shard)
    store.finish()
    assert bytes_of(tmp_path / "store") == expected
    for name, content in left.items():
        (tmp_path / "store" / name).write_bytes(content)
    begin(tmp_path / "store", make_header()).finish()
    assert bytes_of(tmp_path / "store") == expected


def test_of_two_that_make_the_same_shard_the_first_is_kept(tmp_path: Path) -> None:
    store = begin(tmp_path / "store", make_header())
    slow = ShardWriter(store.shard_folder(1), 3, store.header.arrays())
    slow.open()
    write_shard(store, 1)
    kept = bytes_of(store.shard_folder(1))
    slow.append(make_arrays(store.header, 3, 3))
    slow.close()
    assert bytes_of(store.shard_folder(1)) == kept
    assert [path.name for path in (tmp_path / "store/shards").iterdir()] == ["00001"]


def test_shards_of_another_store_are_refused(tmp_path: Path) -> None:
    begin(tmp_path, make_header(), make_plan())
    with pytest.raises(StoreError, match=r"holds another store: codec\.kind: 'fp16' became 'int8'\. Delete the folder"):
        begin(tmp_path, make_header(codec="int8"), make_plan())
    with pytest.raises(StoreError, match="the code that it depends on changed"):
        begin(tmp_path, make_header(code="other"), make_plan())
    fill(tmp_path / "whole", make_header())
    for folder in (tmp_path, tmp_path / "whole"):
        with pytest.raises(StoreError, match="holds another store: its clips or their views are others"):
            begin(folder, make_header(), make_plan(flip=False))
    with pytest.raises(StoreError, match="dataset_id: 'set' became 'other'"):
        begin(tmp_path / "whole", make_header(dataset_id="other"), make_plan())


def test_another_release_of_the_same_code_goes_on(tmp_path: Path) -> None:
    store = begin(tmp_path, make_header(versions={"umt_pipeline": "1", "torch": "2"}), make_plan())
    write_shard(store, 0)
    released = make_header(versions={"umt_pipeline": "2", "torch": "2"})
    assert begin(tmp_path, released, make_plan()).rows_done == 3
    with pytest.raises(StoreError, match=r"versions\.torch: '2' became '3'"):
        begin(tmp_path, make_header(versions={"umt_pipeline": "1", "torch": "3"}), make_plan())


def test_a_setting_that_is_new_since_then_stands_at_its_default(tmp_path: Path) -> None:
    store = begin(tmp_path, make_header(), make_plan())
    write_shard(store, 0)
    plan = json.loads((tmp_path / "plan.json").read_text())
    del plan["layer_interval"]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert begin(tmp_path, make_header(), make_plan()).rows_done == 3
    with pytest.raises(StoreError, match=r"layer_interval: 1\.0 became 2\.0"):
        begin(tmp_path, make_header(layer_interval=2.0), make_plan())


def test_a_full_disk_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = make_header()
    store = begin(tmp_path, header, make_plan())
    write_shard(store, 0)

    def no_space(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(StoreError, match=r"at row \d of 8.*No space left.*bytes per row"), store.disk_errors(3):
        write_shard(store, 1)
    monkeypatch.undo()
    assert begin(tmp_path, header, make_plan()).rows_done == 3


def test_wrong_arrays_are_refused(tmp_path: Path) -> None:
    header = make_header()
    store = begin(tmp_path, header, make_plan())
    arrays = make_arrays(header, 0, 2)
    writer = ShardWriter(store.shard_folder(0), 3, header.arrays())
    writer.open()
    with pytest.raises(ValueError, match="targets: expected float16"):
        writer.append({**arrays, "targets": arrays["targets"].astype(np.float32)})
    with pytest.raises(ValueError, match="at most 3 rows"):
        writer.append(make_arrays(header, 0, 4))


def test_damage_is_named(tmp_path: Path) -> None:
    folder = fill(tmp_path / "store", make_header())
    targets = folder / "shards/00001/targets.npy"
    good = targets.read_bytes()

    def each_refuses(message: str) -> None:
        store = FeatureStore(folder)
        store.read(np.array([0, 7]))  # other shards are not looked at
        with pytest.raises(StoreError, match=rf"00001/targets.npy: {message}"):
            store.read(np.array([0, 4]))
        with pytest.raises(StoreError, match=rf"00001/targets.npy: {message}"):
            store.verify()

    targets.write_bytes(good[:-1])
    each_refuses(r"expected \d+ bytes, found \d+ bytes")
    targets.unlink()
    each_refuses(r"expected \d+ bytes, found no file")

    # Swapped with another shard's file of the same size: opens, but verify tells.
    shutil.copy(folder / "shards/00000/targets.npy", targets)
    with pytest.raises(StoreError, match=r"00001/targets.npy: expected SHA-256"):
        FeatureStore(folder).verify()

    # Same size, but no array of that shape.
    targets.write_bytes(b"x" * len(good))
    with pytest.raises(StoreError, match=r"00001/targets.npy: cannot be read"):
        FeatureStore(folder).read(np.array([4]))
    np.save(targets, np.zeros((3, 2, 4, 3), np.float16).view(np.int16))
    with pytest.raises(StoreError, match=r"00001/targets.npy: expected float16 \(3, 2, 4, 3\), found int16"):
        FeatureStore(folder).read(np.array([4]))
    targets.write_bytes(good)
    FeatureStore(folder).verify()

    (folder / "shards/00001").rename(folder / "shards/elsewhere")
    with pytest.raises(StoreError, match=r"shards: expected 3 shards, 1 of them are not there, the first is 00001"):
        FeatureStore(folder)
    (folder / "shards/elsewhere").rename(folder / "shards/00001")

    index = folder / "index.arrow"
    index.write_bytes(b"x" * index.stat().st_size)
    with pytest.raises(StoreError, match=r"index.arrow: expected SHA-256 \w+, found"):
        FeatureStore(folder)


def test_code_books_are_kept_once_and_checked_at_each_opening(tmp_path: Path) -> None:
    header = make_header(codec={"kind": "pq", "bytes_per_token": 2}, target_dim=4)
    books = torch.rand(2, 2, 256, 2)
    store = begin(tmp_path, header, make_plan())
    store.coder(lambda: books)
    write_shard(store, 0)
    # Whoever goes on uses the code books that are there.
    store = begin(tmp_path, header, make_plan())
    coder = store.coder(lambda: pytest.fail("trained again"))
    targets = torch.nn.functional.normalize(torch.rand(1, 2, 4, 4), dim=-1)
    assert (coder.encode(targets)["targets"] == Coder(header.codec, books).encode(targets)["targets"]).all()
    kept = (tmp_path / "codec.safetensors").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"3 rows are encoded, but codec.safetensors is missing"):
        begin(tmp_path, header, make_plan()).coder(lambda: books)
    kept.rename(tmp_path / "codec.safetensors")
    for shard in store.missing:
        write_shard(store, shard)
    store.finish()
    finished = FeatureStore(tmp_path)
    codes = finished.read_raw(np.arange(ROWS), ["targets"])
    expected = Coder(header.codec, books).decode(codes).transpose(0, 1)
    assert torch.equal(finished.read(np.arange(ROWS))["targets"], expected)
    finished.verify()
    # Those of another store, of the same size: every code would mean something else.
    write_learnt(tmp_path / "codec.safetensors", books.flip(2))
    with pytest.raises(StoreError, match=r"codec.safetensors: expected SHA-256 \w+, found \w+"):
        FeatureStore(tmp_path)
    (tmp_path / "codec.safetensors").unlink()
    with pytest.raises(StoreError, match=r"codec.safetensors: expected \d+ bytes, found no file"):
        FeatureStore(tmp_path)


def test_other_manifests_are_refused(tmp_path: Path) -> None:
    folder = fill(tmp_path / "store", make_header())
    manifest = read_json(folder / "manifest.json")
    for change, message in [
        ({"schema_version": 99}, "expected schema_version 4, found 99"),
        ({"codec": "zip"}, "not a feature store's manifest"),
        ({"rows": 20}, r"expected 20 rows and 0 dead ones, found \[3, 3, 2\]"),
        ({"codec": "pq"}, "learnt: expected of codecs that learn alone, found codec 'pq', None"),
        ({"learnt": {"bytes": 1, "sha256": "0"}}, "learnt: expected of codecs that learn alone, found codec 'fp16'"),
        ({"surprise": 1}, "surprise"),
    ]:
        write_json(folder / "manifest.json", {**manifest, **change})
        with pytest.raises(StoreError, match=message):
            FeatureStore(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match="not a feature store's manifest"):
        FeatureStore(folder)


def test_a_store_without_rows_carries_its_configuration(tmp_path: Path) -> None:
    header = make_header(views=0)
    begin(tmp_path, header, make_plan(0)).finish()
    store = FeatureStore(tmp_path)
    assert len(store) == 0
    assert store.manifest.view == header.view
    with pytest.raises(StoreError, match="views: 0 is for online training"):
        store.rows_for("train")
