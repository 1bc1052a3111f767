"""A store that begins with earlier ones: what is known by content is taken over, what is new is extracted, nothing else."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import pkgutil
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.features.conftest import World
from tests.features.test_store import bytes_of
from tests.features.tiny import leave_unfinished, make_config, make_corpus, make_teacher
from umt_pipeline.core.errors import StoreError
from umt_pipeline.features import extract as extraction
from umt_pipeline.features import reuse, writer
from umt_pipeline.features.extract import plan_extraction
from umt_pipeline.features.index import noise_keys
from umt_pipeline.features.rejects import read_rejects
from umt_pipeline.features.reuse import begin_store, drop_damaged, is_begun
from umt_pipeline.features.runner import begin, extract
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.features.verify import verify_store
from umt_pipeline.models.teacher import TeacherConfig, load_teacher
from umt_pipeline.video.decode import Decoder, Wanted

CLIPS = 6
PQ = {"codec": {"kind": "pq", "bytes_per_token": 4}, "mask": {"kind": "none"}}
Record = dict[str, str]


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("six")
    videos = make_corpus(folder / "media", ["train"] * CLIPS)
    return World(folder / "media", videos, make_teacher(folder / "teacher"))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files of which views were decoded, one entry per view."""
    names: list[str] = []
    decode = Decoder.decode

    def count(self: Decoder, batches: Iterable[tuple[Any, Wanted]]) -> Any:
        def counted() -> Iterator[tuple[Any, Wanted]]:
            for key, wanted in batches:
                names.extend(path.name for path, _ in wanted)
                yield key, wanted

        return decode(self, counted())

    monkeypatch.setattr(Decoder, "decode", count)
    return names


def make(world: World, folder: Path, clips: Sequence[int], earlier: Sequence[Path] = (), **changes: Any) -> dict[str, Any]:
    """Extract the store of some of the clips, with what earlier stores hold."""
    return make_of(world, folder, world.videos.iloc[list(clips)], earlier, **changes)


def make_of(world: World, folder: Path, videos: pd.DataFrame, earlier: Sequence[Path] = (), **changes: Any) -> dict[str, Any]:
    # Not auto: other processes of these tests measure for themselves what that is, and this one is told by conftest.
    config = make_config(**{"precision": "fp32", **changes})
    plan = plan_extraction(config, world.teacher, videos)
    if not is_begun(folder):
        begin_store(folder, plan.header, plan.index, earlier)
    return extract(config, world.teacher, plan, world.media, folder)


def records_of(folder: Path) -> dict[tuple[str, int], Record]:
    """Every record of a store by clip and view: the hashes of its arrays."""
    store = FeatureStore(folder)
    store.verify()
    raw = store.read_raw(np.arange(len(store)))
    keys = noise_keys(store.index)
    hashes = {name: [hashlib.sha256(record.numpy().tobytes()).hexdigest()[:8] for record in raw[name]] for name in raw}
    return {(clip, view): {name: hashes[name][row] for name in raw} for row, (clip, view) in enumerate(keys)}


def arrays_of(folder: Path) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """Every record of a store by clip and view: its arrays as they are stored."""
    store = FeatureStore(folder)
    raw = store.read_raw(np.arange(len(store)))
    return {key: {name: raw[name][row].numpy() for name in raw} for row, key in enumerate(noise_keys(store.index))}


@pytest.fixture(scope="module")
def alone(six: World, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """The arrays of each clip, extracted without any other clip."""
    found: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for clip in range(CLIPS):
        folder = tmp_path_factory.mktemp("alone") / "store"
        make(six, folder, [clip])
        found |= arrays_of(folder)
    return found


def assert_same_but_for_rounding(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """What the teacher says may be rounded otherwise in a batch of other clips: on some CPUs a product's rows are."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        if name in ("pixels", "visible"):
            np.testing.assert_array_equal(found[name], array, err_msg=name)
        else:  # two steps of fp16
            values = found[name].astype(np.float64), array.astype(np.float64)
            np.testing.assert_allclose(*values, rtol=2e-3, atol=1e-4, err_msg=name)


def counts(report: dict[str, Any]) -> tuple[int, int, int, int]:
    return tuple(report[name] for name in ("rows", "rows_found", "rows_resumed", "rows_dead"))  # type: ignore[return-value]


@pytest.mark.parametrize("codec", ["fp16", "int8", "pq"])
def test_one_clip_more_extracts_that_clip_alone(six: World, tmp_path: Path, decoded: list[str], codec: str) -> None:
    changes: dict[str, Any] = PQ if codec == "pq" else {"codec": codec}
    make(six, tmp_path / "first", [0, 2, 3], **changes)
    before = records_of(tmp_path / "first")
    decoded.clear()
    # Into the middle of the table.
    report = make(six, tmp_path / "second", [0, 1, 2, 3], [tmp_path / "first"], **changes)
    assert (counts(report), decoded) == ((12, 9, 0, 0), ["clip1.mp4"] * 3)
    after = records_of(tmp_path / "second")
    assert list(after) == [(f"clip{clip}", view) for clip in range(4) for view in range(3)], "rows are in the order of the plan"
    assert {key: after[key] for key in before} == before
    for shard in ("00000", "00001"):
        for path in (tmp_path / "first/shards" / shard).iterdir():
            assert path.samefile(tmp_path / "second/shards" / shard / path.name), "linked, not copied"
    assert FeatureStore(tmp_path / "second").index["shard"].to_pylist() == [0, 0, 0, 2, 2, 2, 0, 0, 1, 1, 1, 1]
    if codec == "pq":
        assert (tmp_path / "first/codec.safetensors").samefile(tmp_path / "second/codec.safetensors")


def test_one_clip_less_extracts_nothing(six: World, tmp_path: Path, decoded: list[str]) -> None:
    make(six, tmp_path / "first", range(5))
    decoded.clear()
    report = make(six, tmp_path / "second", [0, 1, 3, 4], [tmp_path / "first"])
    assert (counts(report), decoded) == ((12, 12, 0, 3), [])
    assert report["store_bytes"] == 15 * report["bytes_per_clip_view"]["total"], "dead rows take room"
    before = records_of(tmp_path / "first")
    assert records_of(tmp_path / "second") == {key: record for key, record in before.items() if key[0] != "clip2"}
    assert FeatureStore(tmp_path / "second").manifest.rows_dead == 3


def test_a_changed_file_is_extracted_and_a_moved_one_is_not(six: World, tmp_path: Path, decoded: list[str]) -> None:
    make(six, tmp_path / "first", range(5))
    media = tmp_path / "media"
    shutil.copytree(six.media, media)
    (media / "elsewhere").mkdir()
    (media / "clip3.mp4").rename(media / "elsewhere/moved.mp4")
    shutil.copy(media / "clip5.mp4", media / "clip1.mp4")
    videos = six.videos.iloc[:5].copy()
    videos.loc[3, "path"] = "elsewhere/moved.mp4"
    for name in ("sha256", "num_frames", "height", "width"):
        videos.loc[1, name] = six.videos.loc[5, name]
    decoded.clear()
    report = make_of(six._replace(media=media), tmp_path / "second", videos, [tmp_path / "first"])
    assert (counts(report), decoded) == ((15, 12, 0, 3), ["clip1.mp4"] * 3)
    before, after = records_of(tmp_path / "first"), records_of(tmp_path / "second")
    assert {key[0] for key in after if after[key] != before[key]} == {"clip1"}
    # Another name is another clip: views and masks are drawn from it.
    decoded.clear()
    renamed = six.videos.iloc[:5].replace({"video_id": {"clip3": "moved"}})
    assert counts(make_of(six, tmp_path / "third", renamed, [tmp_path / "first"]))[1] == 12
    assert decoded == ["clip3.mp4"] * 3


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"views": 5}, 15),
        ({"views": 1}, 5),
        ({"shard_rows": 4}, 15),
        ({"batch_size": 3}, 15),
        ({"workers": 1}, 15),
        ({"dataset_id": "other"}, 0),
        ({"codec": "int8"}, 0),
        ({"mask": {"ratio": 0.5}}, 0),
        ({"pixels": "frames"}, 0),
        ({"view": {"frames": 3, "size": 32}}, 0),
        ({"view": {"frames": 2, "size": 40}}, 0),
    ],
    ids=str,
)
def test_what_a_record_depends_on(six: World, tmp_path: Path, changes: dict[str, Any], found: int) -> None:
    first = tmp_path / "first"
    make(six, first, range(5))
    config = make_config(**changes)
    teacher = six.teacher if config.grid == 4 else make_teacher(tmp_path / "teacher", grid=config.grid)
    plan = plan_extraction(config, teacher, six.videos.iloc[:5])
    assert begin_store(tmp_path / "second", plan.header, plan.index, [first]) == found
    assert is_begun(tmp_path / "second") == (found > 0)


def test_views_that_another_law_draws_alike_are_the_same_views(six: World, tmp_path: Path) -> None:
    make(six, tmp_path / "first", range(5))
    flipped = sum(FeatureStore(tmp_path / "first").index["flip"].to_pylist())
    assert 0 < flipped < 15
    changes = {"view": {"frames": 2, "size": 32, "flip": False}}
    assert counts(make(six, tmp_path / "second", range(5), [tmp_path / "first"], **changes))[1] == 15 - flipped


def test_only_packages_that_decide_a_record_are_part_of_it(six: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(six, tmp_path / "first", range(3))

    def found(changed: str) -> int:
        with monkeypatch.context() as patch:
            versions = extraction.version
            patch.setattr(extraction, "version", lambda name: "99" if name == changed else versions(name))
            plan = plan_extraction(make_config(), six.teacher, six.videos.iloc[:3])
            shutil.rmtree(tmp_path / "second", ignore_errors=True)
            return begin_store(tmp_path / "second", plan.header, plan.index, [tmp_path / "first"])

    assert [found(name) for name in ("torch", "pillow", "av", "decord2")] == [0, 0, 0, 0]
    assert [found(name) for name in ("mlflow", "faiss-cpu", "pandas")] == [9, 9, 9]
    images = make_config().image_config()
    header = extraction.make_header(images, 16, "0" * 64, media="image")
    assert set(header.package_versions()) == {"torch", "pillow"}


def test_interrupted_work_on_other_clips_is_taken_over(six: World, tmp_path: Path, decoded: list[str]) -> None:
    config = make_config()
    plan = plan_extraction(config, six.teacher, six.videos.iloc[:5])
    leave_unfinished(begin(config, six.teacher, plan, six.media, tmp_path / "killed"), six.teacher, shards=2)
    make(six, tmp_path / "other", [5])
    decoded.clear()
    earlier = [tmp_path / "killed", tmp_path / "other", tmp_path / "nothing"]
    # Without clip 1; of clip 3, view 0 is in a whole shard, the others were lost.
    report = make(six, tmp_path / "second", [0, 2, 3, 5], earlier)
    assert counts(report) == (12, 10, 0, 3)
    assert decoded == ["clip3.mp4"] * 2
    make(six, tmp_path / "expected", [0, 2, 3, 5])
    assert records_of(tmp_path / "second") == records_of(tmp_path / "expected")


def test_books_of_one_store_cannot_serve_another(six: World, tmp_path: Path) -> None:
    make(six, tmp_path / "large", [0, 1, 2, 3], **PQ)
    make(six, tmp_path / "small", [3, 4, 5], **PQ)
    report = make(six, tmp_path / "both", range(6), [tmp_path / "small", tmp_path / "large"], **PQ)
    assert counts(report)[1] == 12, "those of the store that holds most"
    before, after = records_of(tmp_path / "large"), records_of(tmp_path / "both")
    assert {key: after[key] for key in before} == before


def test_damaged_shards_are_extracted_again(
    six: World, tmp_path: Path, decoded: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    first = tmp_path / "first"
    make(six, first, range(5))
    expected, records = bytes_of(first), records_of(first)
    with (first / "shards/00001/pixels.npy").open("r+b") as handle:
        handle.seek(-1, 2)
        handle.write(b"x")
    decoded.clear()
    report = make(six, tmp_path / "second", range(5), [first])
    assert (counts(report), len(decoded)) == ((15, 10, 0, 0), 5)
    assert records_of(tmp_path / "second") == records
    assert "shards/00001 is not as it was written" in caplog.text
    decoded.clear()
    drop_damaged(first)
    assert (counts(make(six, first, range(5))), len(decoded)) == ((15, 0, 10, 0), 5)
    assert bytes_of(first) == expected, "a fresh store is mended to the same bytes"


def test_a_damaged_shard_is_made_again_without_its_dead_rows(six: World, tmp_path: Path) -> None:
    make(six, tmp_path / "first", range(5))
    make(six, tmp_path / "second", [0, 1, 3, 4], [tmp_path / "first"])
    records = records_of(tmp_path / "second")
    (tmp_path / "second/shards/00001/targets.npy").unlink()
    drop_damaged(tmp_path / "second")
    assert counts(make(six, tmp_path / "second", [0, 1, 3, 4])) == (12, 0, 10, 0)
    assert records_of(tmp_path / "second") == records


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    "moment",
    [
        ("reuse.write_plan", "plan.json"),
        ("reuse.shutil.rmtree", "00001"),
        ("pathlib.Path.unlink", "manifest.json"),
        ("writer.restore_index", ""),
        ("rejects.write_index", ""),
        ("pathlib.Path.unlink", "rejects.parquet"),
        ("writer._close_gaps", ""),
        ("writer.write_index", ""),
        ("shards.run_teacher_on", ""),
    ],
    ids="-".join,
)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_repair_that_is_killed_loses_nothing(
    six: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str], moment: tuple[str, str], after: bool
) -> None:
    """Of a store of which one damaged shard has dead rows, and the other one rejected ones."""
    media, folder = tmp_path / "media", tmp_path / "second"
    shutil.copytree(six.media, media)
    (media / "clip5.mp4").write_bytes(b"no video any more")
    world, clips, changes = six._replace(media=media), [0, 1, 3, 4, 5], {"max_rejected_share": 0.5}
    make(world, tmp_path / "first", range(6), **changes)
    make(world, folder, clips, [tmp_path / "first"], **changes)
    records, rejects = records_of(folder), read_rejects(folder)
    for shard in ("00001", "00003"):
        (folder / "shards" / shard / "targets.npy").unlink()

    def repair() -> dict[str, Any]:
        if (folder / "manifest.json").is_file():
            drop_damaged(folder)
        return make(world, folder, clips, **changes)

    where, name = moment
    target = where if where.startswith("pathlib") else f"umt_pipeline.features.{where}"
    module, _, attribute = target.rpartition(".")
    function = getattr(pkgutil.resolve_name(module), attribute)

    def killed(*args: Any, **kwargs: Any) -> Any:
        if name and name not in str(args[0]) and where != "reuse.write_plan":
            return function(*args, **kwargs)
        if after:
            function(*args, **kwargs)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(target, killed)
        with pytest.raises(KilledError):
            repair()
    decoded.clear()
    repair()
    assert decoded == ["clip1.mp4", "clip3.mp4", *["clip5.mp4"] * 3], "what lay in the damaged shards, without its dead rows"
    assert records_of(folder) == records
    columns = ["video_id", "view_number", "reason"]
    assert read_rejects(folder).select(columns).equals(rejects.select(columns))


def test_a_store_whose_index_is_damaged_is_passed_over(six: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = tmp_path / "first"
    make(six, first, range(2))
    content = (first / "index.arrow").read_bytes()
    (first / "index.arrow").write_bytes(content[:-1] + b"x")
    assert counts(make(six, tmp_path / "second", range(2), [first]))[1] == 0
    assert "nothing is taken over from" in caplog.text
    with pytest.raises(StoreError, match=r"index.arrow is not as it was written"):
        drop_damaged(first)


def test_dead_rows_do_not_pile_up(six: World, tmp_path: Path, decoded: list[str], caplog: pytest.LogCaptureFixture) -> None:
    make(six, tmp_path / "first", range(5))
    decoded.clear()
    with caplog.at_level(logging.INFO):
        report = make(six, tmp_path / "second", [0, 4], [tmp_path / "first"])
    # Clip 0 fills 3 rows of 5 in the first shard, clip 4 the same in the last; the one between is left.
    assert (counts(report), decoded) == ((6, 6, 0, 0), [])
    assert "6 records copied" in caplog.text
    before = records_of(tmp_path / "first")
    assert records_of(tmp_path / "second") == {key: before[key] for key in before if key[0] in ("clip0", "clip4")}


def test_small_shards_do_not_pile_up(six: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]) -> None:
    monkeypatch.setattr(reuse, "_MOST_SPARSE", 3)
    shards, folder = [], tmp_path / "0"
    make(six, folder, [0], shard_rows=8)
    for number in range(1, CLIPS):
        folder, before = tmp_path / str(number), folder
        make(six, folder, range(number + 1), [before], shard_rows=8)
        shards.append(list(FeatureStore(folder).manifest.shards.rows))
    assert shards == [[3, 3], [3, 3, 3], [3, 3, 3, 3], [8, 4, 3], [8, 4, 3, 3]]
    assert len(decoded) == 3 * CLIPS


@pytest.mark.parametrize("moment", ["link", "copy", "plan"])
def test_a_beginning_is_whole_or_not_there(six: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    make(six, tmp_path / "first", range(5))
    clips = [0, 4, 5] if moment == "copy" else range(6)
    make(six, tmp_path / "expected", clips, [tmp_path / "first"])
    name = {"link": "linked_copy", "copy": "_copy", "plan": "write_plan"}[moment]

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(reuse, name, full)
        with pytest.raises(StoreError, match=r"cannot be begun: .*No space left on device.*Make room and run again"):
            make(six, tmp_path / "second", clips, [tmp_path / "first"])
    assert not (tmp_path / "second").exists()
    make(six, tmp_path / "second", clips, [tmp_path / "first"])
    assert bytes_of(tmp_path / "second") == bytes_of(tmp_path / "expected")


def test_an_interrupted_extension_gives_the_same_bytes(six: World, tmp_path: Path, decoded: list[str]) -> None:
    make(six, tmp_path / "first", [1, 3])
    make(six, tmp_path / "expected", range(6), [tmp_path / "first"])

    config = make_config()
    plan = plan_extraction(config, six.teacher, six.videos)
    assert begin_store(tmp_path / "killed", plan.header, plan.index, [tmp_path / "first"]) == 6
    for shards in (0, 1):
        leave_unfinished(begin(config, six.teacher, plan, six.media, tmp_path / "killed"), six.teacher, shards)
    decoded.clear()
    report = make(six, tmp_path / "killed", range(6))
    assert counts(report) == (18, 6, 5, 0)
    assert len(decoded) == 7
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "expected")


def _extend_and_die(media: Path, videos: pd.DataFrame, teacher: Path, folder: Path, moment: str) -> None:
    """What a process does that is killed; it runs in one of its own."""
    world = World(media, videos, load_teacher(teacher, TeacherConfig(layers=2), 4))
    calls = 0

    def killing(function: Callable[..., Any], at: int) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    if moment == "linking":
        reuse.linked_copy = killing(reuse.linked_copy, 2)
    elif moment == "appending":
        writer.ShardWriter.append = killing(writer.ShardWriter.append, 6)  # type: ignore[method-assign]
    else:
        writer.StoreManifest = killing(writer.StoreManifest, 1)  # type: ignore[misc]
    make(world, folder, range(6), [folder.with_name("first")])


@pytest.mark.slow
def test_a_killed_process_loses_at_most_a_shard(six: World, tmp_path: Path, decoded: list[str]) -> None:
    make(six, tmp_path / "first", [1, 3])
    make(six, tmp_path / "expected", range(6), [tmp_path / "first"])
    context = multiprocessing.get_context("spawn")
    lost = {"linking": 12, "appending": 7, "closing": 0}
    processes = {}
    for moment in lost:
        arguments = (six.media, six.videos, six.media.parent / "teacher", tmp_path / moment, moment)
        processes[moment] = context.Process(target=_extend_and_die, args=arguments)
        processes[moment].start()
    for moment, process in processes.items():
        process.join()
        assert process.exitcode == -signal.SIGKILL
        decoded.clear()
        make(six, tmp_path / moment, range(6), [tmp_path / "first"])
        assert len(decoded) == lost[moment]
        assert bytes_of(tmp_path / moment) == bytes_of(tmp_path / "expected")


def test_an_extended_store_is_verified_like_any_other(six: World, tmp_path: Path) -> None:
    make(six, tmp_path / "first", range(5))
    folder = tmp_path / "second"
    make(six, folder, [5, 0, 1, 3, 4], [tmp_path / "first"])
    teacher = six.media.parent / "teacher"
    assert verify_store(folder, 1.0, teacher, six.videos, six.media) == 15
    assert verify_store(folder, 0.01, teacher, six.videos, six.media) == 4, "one of each shard"
    store = FeatureStore(folder)
    row = noise_keys(store.index).index(("clip5", 1))
    assert (row, store.record(row)["shard"], store.record(row)["shard_row"]) == (1, 3, 1)
    path = folder / "shards/00003/pixels.npy"
    array = np.load(path)
    array[1] = 255 - array[1]
    np.save(path, array)
    with pytest.raises(StoreError, match=r"row 1 \(shard 3, clip 'clip5', view 1\) .*pixels differ"):
        verify_store(folder, 1.0, teacher, six.videos, six.media)


@given(st.lists(st.sets(st.integers(0, CLIPS - 1), min_size=1), min_size=2, max_size=4), st.sampled_from([2, 5, 64]))
@settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sequence_of_corpora_gives_the_records_of_single_clips(
    six: World,
    alone: dict[tuple[str, int], dict[str, np.ndarray]],
    tmp_path_factory: pytest.TempPathFactory,
    corpora: list[set[int]],
    shard_rows: int,
) -> None:
    folder, before = tmp_path_factory.mktemp("sequence"), dict[tuple[str, int], Record]()
    for number, clips in enumerate(corpora):
        report = make(six, folder / str(number), sorted(clips), [folder / str(number - 1)], shard_rows=shard_rows)
        assert report["rows_dead"] <= 0.3 * (report["rows"] + report["rows_dead"])
        records, arrays = records_of(folder / str(number)), arrays_of(folder / str(number))
        assert records.keys() == {(f"clip{clip}", view) for clip in clips for view in range(3)}
        known = records.keys() & before.keys()
        assert report["rows_found"] == len(known)
        assert all(records[key] == before[key] for key in known), "what is taken over, to the byte"
        for key in records:
            assert_same_but_for_rounding(arrays[key], alone[key])
        before = records
    shutil.rmtree(folder)
