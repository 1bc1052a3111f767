"""Tables in blocks: on disk and in memory, by block and by row, and what their rows have in common."""

from __future__ import annotations

import gc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umt_pipeline.datasets import RawTableDataset, TableDataset
from umt_pipeline.tables import blocks
from umt_pipeline.tables.blocks import Blocks, as_blocks, regroup
from umt_pipeline.tables.keys import KeyIndex, digests, hash_rows, repeated
from umt_pipeline.tables.spill import Spill, SpilledRows

TABLE = pd.DataFrame({"text": [f"t{n}" for n in range(7)], "n": range(7), "lists": [[], ["a"], [], ["b", "c"], [], [], []]})


def spilled(spill: Spill, table: pd.DataFrame, rows: int = 2) -> SpilledRows:
    writer = spill.writer()
    for start in range(0, max(1, len(table)), rows):
        writer.add(table.iloc[start : start + rows])
    return writer.finish()


@pytest.mark.parametrize("sizes", [[0], [7], [0, 3, 0, 4], [1] * 7, [4, 3]])
def test_blocks_of_any_sizes_become_blocks_of_one(sizes: list[int]) -> None:
    cuts = np.cumsum([0, *sizes])
    parts = [TABLE.iloc[start:end] for start, end in pairwise(cuts)]
    found = list(regroup(parts, 3))
    assert [len(block) for block in found] == ([3, 3, 1] if sum(sizes) else [0])
    pd.testing.assert_frame_equal(pd.concat(found, ignore_index=True), TABLE.iloc[: sum(sizes)])


def test_what_is_spilled_comes_back_by_block_and_by_row(tmp_path: Path) -> None:
    table = TABLE.set_axis(pd.Index(range(10, 80, 10)))
    rows = spilled(Spill(tmp_path), table)
    assert (len(rows), rows.columns) == (7, ["text", "n", "lists"])
    pd.testing.assert_frame_equal(pd.concat(rows.blocks()), table.rename_axis("row"))
    places = np.array([6, 0, 3, 3, 1])
    pd.testing.assert_frame_equal(rows.take(places), table.iloc[places].rename_axis("row"))
    assert rows.take(places[:0], "text").empty
    assert [list(block) for block in rows.blocks("n")] == [["n"]] * 4
    assert [len(block) for block in spilled(Spill(tmp_path), table.iloc[:0]).blocks()] == [0]


@pytest.mark.slow
def test_a_spill_goes_with_its_last_table_and_leaves_others_alone(tmp_path: Path) -> None:
    rows = spilled(Spill(tmp_path), TABLE)
    gc.collect()
    (folder,) = tmp_path.iterdir()
    abandoned = tmp_path / "abandoned"
    abandoned.mkdir()
    (abandoned / ".lock").touch()
    Spill(tmp_path)
    gc.collect()
    assert list(tmp_path.iterdir()) == [folder], "one that a killed process has left is gone, one in use is not"
    del rows
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_table_in_blocks_is_written_as_the_whole_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, table in {"whole": TABLE, "blocks": Blocks(lambda: (TABLE.iloc[row : row + 1] for row in range(7)))}.items():
        TableDataset(str(tmp_path / f"{name}.parquet"), clean=True).save(table)
    assert (tmp_path / "whole.parquet").read_bytes() == (tmp_path / "blocks.parquet").read_bytes()
    dataset = TableDataset(str(tmp_path / "whole.parquet"))
    monkeypatch.setattr(blocks.regroup, "__defaults__", (3,))
    dataset.save(TABLE)
    assert pq.ParquetFile(tmp_path / "whole.parquet").num_row_groups == 3
    assert dataset.load()["lists"].map(list).tolist() == TABLE["lists"].tolist()


def test_a_raw_table_is_read_when_it_is_used(tmp_path: Path) -> None:
    dataset = RawTableDataset(str(tmp_path / "t.csv"))
    dataset.save(TABLE[["text"]])
    table = dataset.load()
    assert [list(block["text"]) for block in table] == [list(block["text"]) for block in table] == [list(TABLE["text"])]
    assert RawTableDataset(str(tmp_path / "none.csv"), optional=True).load().read().shape == (0, 0)


@given(st.lists(st.text(max_size=2)), st.lists(st.text(max_size=2)))
def test_the_first_of_equal_texts_is_found(texts: list[str], asked: list[str]) -> None:
    index = KeyIndex([digests(texts[:3]), digests(texts[3:])])
    assert index.find(digests(asked)).tolist() == [texts.index(text) if text in texts else -1 for text in asked]


def test_texts_that_agree_in_half_of_their_hash_are_told_apart() -> None:
    keys = np.array([[1, 5], [1, 3], [1, 9], [2, 3]], np.uint64)
    assert KeyIndex([keys]).find(np.array([[1, 9], [1, 3], [1, 4], [2, 3], [3, 0]], np.uint64)).tolist() == [2, 1, -1, 3, -1]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([0.0, -0.0, 1.0]))))
def test_rows_that_are_equal_are_among_those_that_may_be(rows: list[tuple[str, float]]) -> None:
    table = pd.DataFrame({"a": pd.Series([a for a, _ in rows], dtype=str), "b": pd.Series([b for _, b in rows], dtype=float)})
    assert repeated(hash_rows(table, "a", "b")).tolist() == np.flatnonzero(table.duplicated(keep=False)).tolist()


def test_blocks_of_a_frame_are_views(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 3)
    assert [len(block) for block in as_blocks(TABLE)] == [3, 3, 1]
    assert [list(block) for block in as_blocks(TABLE).only("n")] == [["n"]] * 3
