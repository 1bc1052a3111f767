"""However an index came about, it holds what an index from nothing would; and what is not whole never serves."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.index.contents import DIM, MODEL, Made, content, embedded, write
from umt_pipeline.core.errors import IndexingError
from umt_pipeline.serving.embedding.shelf import Embedded
from umt_pipeline.serving.index import writing
from umt_pipeline.serving.index.layout import FORMAT, generation_folder
from umt_pipeline.serving.index.reading import Index
from umt_pipeline.serving.index.writing import write_generation

Rows = set[tuple[str, float, float, bytes]]
# What happens to a folder between two builds: a file, and what becomes of it.
STEPS = st.lists(
    st.lists(st.tuples(st.integers(0, 11), st.sampled_from(["add", "change", "move", "remove"])), min_size=1, max_size=6),
    min_size=1,
    max_size=11,
)


def rows_of(index: Index) -> Rows:
    vectors_nE = index.vectors(np.arange(len(index.windows)))
    paths = index.files["path"].to_numpy()
    spans = index.windows[["file", "start_s", "end_s"]].itertuples(index=False, name=None)
    return {(paths[file], start, end, vector.tobytes()) for (file, start, end), vector in zip(spans, vectors_nE, strict=True)}


def expected(of: Mapping[str, Embedded], paths: Mapping[str, str]) -> Rows:
    return {
        (paths[name], float(start), float(end), vector.tobytes())
        for name, (spans_W2, vectors_WE) in of.items()
        for (start, end), vector in zip(spans_W2, vectors_WE, strict=True)
    }


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(steps=STEPS)
def test_any_sequence_of_changes_gives_what_an_index_from_nothing_holds(steps: list[list[tuple[int, str]]]) -> None:
    contents: dict[int, str] = {}
    places: dict[int, str] = {}
    seed = 0
    with tempfile.TemporaryDirectory() as folder:
        known: dict[str, Embedded] = {}
        for step in steps:
            before = set(contents.values())
            for number, what in step:
                if what == "remove" and len(contents) > 1:
                    contents.pop(number, None)
                elif what == "move" and number in contents:
                    places[number] = f"/elsewhere/{len(places)}-{seed}-{number}.mp4"
                elif what in ("add", "change") and (what == "change") == (number in contents):
                    seed += 1
                    contents[number] = f"content {seed}"
                    known[contents[number]] = embedded(seed, 1 + seed % 4)
            if not contents:
                continue
            paths = {name: places.get(number, f"/videos/{number}.mp4") for number, name in contents.items()}
            made = Made(known)
            old = Index.open(folder) if (Path(folder) / "current.json").is_file() else None
            manifest = write_generation(Path(folder), old, content(paths), made)
            with Index.open(folder) as index:
                own = {name: known[name] for name in contents.values()}
                assert rows_of(index) == expected(own, paths)
                assert index.files["n_windows"].tolist() == [len(known[name].spans_W2) for name in index.files["file_id"]]
                assert len(index.windows) == manifest.facts["windows"]
                assert len(index.segments) <= writing.MOST_SEGMENTS
                assert set(made.asked) == set(contents.values()) - (before if old is not None else set())
                query = known[next(iter(own))].vectors_WE[:1]
                scores, numbers = index.nearest(query, 5)
                every = np.sort(index.vectors(np.arange(len(index.windows))) @ query[0])[::-1][:5]
                np.testing.assert_allclose(scores[0, : len(every)], every, rtol=1e-5)
                assert (numbers[0, len(every) :] == -1).all()


def test_what_is_unchanged_stays_in_the_file_that_it_is_in(tmp_path: Path) -> None:
    of = {f"f{number}": embedded(number, 2) for number in range(9)}
    write(tmp_path, {name: of[name] for name in list(of)[:6]})
    (first,) = generation_folder(tmp_path, 1).glob("segment-*.npy")
    write(tmp_path, {name: of[name] for name in list(of)[1:8]})
    second = generation_folder(tmp_path, 2)
    assert (second / first.name).samefile(first), "one file, two names"
    assert np.load(second / "deleted.npy").tolist() == [0, 1]
    assert len(list(second.glob("segment-*.npy"))) == 2
    with Index.open(tmp_path) as index:
        assert index.facts["files"] == {"found": 7, "indexed": 7, "copies": 0, "failed": 0, "added": 2, "removed": 1}
    # Two of the last five rows more are many: the segment is written again, without them.
    write(tmp_path, {name: of[name] for name in list(of)[3:8]})
    assert np.load(generation_folder(tmp_path, 3) / "deleted.npy").tolist() == []
    assert not (generation_folder(tmp_path, 3) / first.name).exists()
    assert [path.name for path in sorted((tmp_path / "generations").iterdir())] == ["000002", "000003"]


def test_many_small_additions_are_written_together(tmp_path: Path) -> None:
    of: dict[str, Embedded] = {}
    rows: dict[str, int] = {}
    for number in range(24):
        of[f"f{number}"] = embedded(number, 1)
        segments = write(tmp_path, of).segments
        rows |= {segment.name: segment.rows for segment in segments}
        assert len(segments) <= writing.MOST_SEGMENTS
    assert sum(rows.values()) < 24 * 5, "a vector is written again a few times, not at each addition"


def test_an_open_index_serves_on_and_says_that_there_is_another(tmp_path: Path) -> None:
    of = {f"f{number}": embedded(number, 2) for number in range(4)}
    write(tmp_path, {"f0": of["f0"]})
    with Index.open(tmp_path) as index:
        assert not index.changed()
        for _ in range(3):
            of[f"more{len(of)}"] = embedded(len(of), 1)
            write(tmp_path, of)
        assert index.changed()
        assert not generation_folder(tmp_path, 1).exists()
        assert rows_of(index) == expected({"f0": of["f0"]}, {"f0": "/videos/f0.mp4"})
        assert index.nearest(of["f0"].vectors_WE[:1], 1)[1].tolist() == [[0]]


def test_another_model_is_built_beside_the_old_one(tmp_path: Path) -> None:
    of = {f"f{number}": embedded(number, 2) for number in range(4)}
    write(tmp_path, of)
    other = MODEL.model_copy(update={"key": "b" * 64, "source": "models/two"})
    made = Made({name: embedded(100 + number, 2) for number, name in enumerate(of)})
    with Index.open(tmp_path) as old:
        write_generation(tmp_path, old, content({name: f"/videos/{name}.mp4" for name in of}, "two", other), made)
        assert rows_of(old) == expected(of, {name: f"/videos/{name}.mp4" for name in of})
    with Index.open(tmp_path) as new:
        assert new.model.source == "models/two"
        assert set(made.asked) == set(of), "nothing is taken over"
        with pytest.raises(IndexingError, match=r"vectors it holds, models/two \(key bbb.*found models/one \(key aaa"):
            new.require_model("a" * 64, "models/one")
        new.require_model("b" * 64, "models/two")


def test_numbers_that_do_not_add_up_leave_the_old_generation(tmp_path: Path) -> None:
    of = {"f0": embedded(0, 2)}
    write(tmp_path, of)
    asked = content({"f0": "/videos/f0.mp4", "f1": "/videos/f1.mp4"})
    with Index.open(tmp_path) as old:
        with pytest.raises(IndexingError, match=r"expected 5 files, as were found in the folder, found 2 with windows"):
            write_generation(tmp_path, old, replace(asked, facts={"found": 5}), Made({"f1": embedded(1, 1)}))
        with pytest.raises(IndexingError, match=r"at least one window of each file, found none of /videos/f1.mp4"):
            write_generation(tmp_path, old, asked, Made({"f1": Embedded(np.empty((0, 2)), np.empty((0, 8), np.float32))}))
    with Index.open(tmp_path) as index:
        assert index.generation == 1
    assert [path.name for path in (tmp_path / "generations").iterdir()] == ["000001"], "nothing is left half-written"


@pytest.mark.parametrize("what", ["npy", "parquet", "files", "deleted", "index.json", "shorter", "gone", "segment gone"])
def test_a_damaged_index_is_refused(tmp_path: Path, what: str) -> None:
    write(tmp_path, {f"f{number}": embedded(number, 3) for number in range(4)})
    where = generation_folder(tmp_path, 1)
    names = {"npy": "segment-*.npy", "parquet": "segment-*.parquet", "files": "files.parquet", "deleted": "deleted.npy"}
    if what in names:
        (path,) = where.glob(names[what])
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    elif what == "index.json":
        document = json.loads((where / "index.json").read_text())
        (where / "index.json").write_text(json.dumps({**document, "facts": {}}))
    elif what == "shorter":
        os.truncate(where / "index.json", 40)
    else:
        (path,) = where.glob("index.json" if what == "gone" else "segment-*.npy")
        path.unlink()
    with pytest.raises(IndexingError, match=r"The index is damaged. Build it again: `umt index FOLDER .*` --anew"):
        Index.open(tmp_path)


def test_an_index_of_another_version_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"f0": embedded(0, 1)})
    (tmp_path / "current.json").write_text(json.dumps({"format": FORMAT + 1, "generation": 1, "sha256": ""}))
    with pytest.raises(IndexingError, match=rf"index of format {FORMAT}, found format {FORMAT + 1}. Build it again"):
        Index.open(tmp_path)


def test_what_is_not_whole_yet_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(IndexingError, match=r"expected an index, found none. Build one: `umt index"):
        Index.open(tmp_path / "nowhere")
    write(tmp_path, {"f0": embedded(0, 1)})
    (tmp_path / "current.json").unlink()  # killed before the generation was put in its place
    with pytest.raises(IndexingError, match=r"found an index of which no generation is whole.*goes on where it was"):
        Index.open(tmp_path)
    assert write(tmp_path, {"f0": embedded(0, 1)}).generation == 2
    with Index.open(tmp_path) as index:
        assert len(index.windows) == 1


def test_only_what_is_allowed_is_found(tmp_path: Path) -> None:
    of = {f"f{number}": embedded(number, 3) for number in range(5)}
    write(tmp_path, {name: of[name] for name in list(of)[:3]})
    write(tmp_path, {name: of[name] for name in list(of)[1:]})
    with Index.open(tmp_path) as index:
        queries = embedded(77, 4).vectors_WE
        allowed = index.windows["file"].isin([0, 3]).to_numpy()
        scores, numbers = index.nearest(queries, 8, allowed)
        truth = queries @ index.vectors(np.arange(len(index.windows))).T
        for query in range(4):
            best = sorted(np.flatnonzero(allowed), key=lambda number: -truth[query, number])
            assert numbers[query, :6].tolist() == best
            np.testing.assert_allclose(scores[query, :6], truth[query, best], rtol=1e-5)
        assert (numbers[:, 6:] == -1).all()
        assert np.isneginf(scores[:, 6:]).all()
        assert (index.nearest(queries, 3, np.zeros(len(index.windows), dtype=bool))[1] == -1).all()
        with pytest.raises(IndexingError, match=r"expected queries of 8 numbers, as models/one makes them, found"):
            index.nearest(np.ones((1, 5)), 1)


def test_tables_are_as_others_expect_them(tmp_path: Path) -> None:
    write(tmp_path, {f"f{number}": embedded(number, 3) for number in range(2)})
    with Index.open(tmp_path) as index:
        columns = ["file_id", "path", "media", "duration_s", "label", "split", "date", "n_windows"]
        assert index.files.columns.tolist() == columns
        assert index.files["duration_s"].tolist() == [20.0, 20.0]
        assert index.windows.columns.tolist() == ["file", "start_s", "end_s"]
        assert index.windows.index.equals(pd.RangeIndex(6))
        assert index.vectors(np.array([5, 0])).shape == (2, 8)


def test_a_closed_index_gives_no_vectors(tmp_path: Path) -> None:
    """Least of all those that happen to be in memory."""
    write(tmp_path, {"a": embedded(1, 3)})
    with Index.open(tmp_path) as index:
        assert index.vectors(np.array([2])).shape == (1, DIM)
    with pytest.raises(IndexingError, match=r"generation 1 was closed: open the index again"):
        index.vectors(np.array([2]))
    with pytest.raises(IndexingError, match=r"generation 1 was closed: open the index again"):
        index.nearest(np.zeros((1, DIM)), 1)
