from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kedro.io import DatasetError

import umt_pipeline.datasets.table
from umt_pipeline.core.errors import TableError
from umt_pipeline.datasets import TableDataset

SUFFIXES = [".csv", ".tsv", ".json", ".jsonl", ".parquet"]
# Surrogates are no text, \r\n within a CSV cell is the reader's line end, NUL is refused by csv.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00"), max_size=20)


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_text_comes_back_as_it_was(tmp_path: Path, suffix: str, rows: list[tuple[str, str]]) -> None:
    dataset = TableDataset(str(tmp_path / f"table{suffix}"))
    dataset.save(pd.DataFrame(rows, columns=["video", "caption"], dtype=str))
    assert [tuple(row) for row in dataset.load().itertuples(index=False)] == rows


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_looks_like_a_number_stays_text(tmp_path: Path, suffix: str) -> None:
    dataset = TableDataset(str(tmp_path / f"table{suffix}"))
    dataset.save(pd.DataFrame({"video": ["001", "NA", "1e5"], "caption": ["", "null", "2020-01-01"]}))
    loaded = dataset.load()
    assert loaded["video"].tolist() == ["001", "NA", "1e5"]
    assert loaded["caption"].tolist() == ["", "null", "2020-01-01"]


def test_numbers_of_our_own_tables(tmp_path: Path) -> None:
    dataset = TableDataset(str(tmp_path / "history.csv"), infer_types=True)
    table = pd.DataFrame({"step": [1, 2], "loss": [0.1, 1 / 3]})
    dataset.save(table)
    pd.testing.assert_frame_equal(dataset.load(), table)


def test_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(b"\xef\xbb\xbfvideo,split\r\na.mp4,train\r\n\r\n")
    assert TableDataset(str(tmp_path / "table.csv")).load().to_dict("records") == [{"video": "a.mp4", "split": "train"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "empty file"),
        ("t.csv", b"video,caption\na.mp4,red, large\n", r"t.csv, line 2: expected 2 cells \(video, caption\), found 3"),
        ("t.csv", b"video,caption\na.mp4\n", "line 2: expected 2 cells"),
        ("t.csv", b"video,video\na,b\n", "more than one of: video"),
        ("t.csv", b"video\n\xff\xfe\n", "UTF-8"),
        ("t.csv", b'video\n"a\n', "not valid CSV"),
        ("t.json", b'{"a": 1}', "expected a JSON list"),
        ("t.json", b"[1]", "item 0"),
        ("t.json", b"[{", "not valid JSON"),
        ("t.jsonl", b'{"a": 1}\n{"a"\n', "line 2: not valid JSON"),
        ("t.parquet", b"text", "not a Parquet file"),
    ],
)
def test_malformed_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        TableDataset(str(tmp_path / name)).load()


def test_missing_file_and_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="found nothing"):
        TableDataset(str(tmp_path / "t.csv")).load()
    with pytest.raises(Exception, match=r"a table ending in \.csv, \.tsv, \.json, \.jsonl, \.parquet, found '\.xlsx'"):
        TableDataset(str(tmp_path / "t.xlsx"))


def test_a_failed_save_leaves_the_old_table(tmp_path: Path) -> None:
    dataset = TableDataset(str(tmp_path / "t.parquet"))
    dataset.save(pd.DataFrame({"a": [1]}))
    with pytest.raises(DatasetError):
        dataset.save(pd.DataFrame({"a": [1, "mixed"]}))
    assert dataset.load()["a"].tolist() == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_an_optional_table_may_be_missing_but_not_broken(tmp_path: Path) -> None:
    dataset = TableDataset(str(tmp_path / "t.jsonl"), optional=True)
    assert dataset.load().shape == (0, 0)
    (tmp_path / "t.jsonl").write_text("{")
    with pytest.raises(DatasetError, match="not valid JSON"):
        dataset.load()


def test_half_a_character_in_json_is_left_to_whoever_reads_the_table(tmp_path: Path) -> None:
    for name, text in (("t.json", r'[{"a": "x"}, {"a": "\ud800"}]'), ("t.jsonl", '{"a": "x"}\n{"a": "\\ud800"}\n')):
        (tmp_path / name).write_text(text)
        assert TableDataset(str(tmp_path / name)).load()["a"].tolist() == ["x", "\ud800"]


def test_a_clean_table_knows_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = TableDataset(str(tmp_path / "t.parquet"), clean=True)
    table = pd.DataFrame({"a": ["x"]})
    clean.save(table)
    pd.testing.assert_frame_equal(clean.load(), table)
    pd.testing.assert_frame_equal(TableDataset(str(tmp_path / "t.parquet")).load(), table)
    monkeypatch.setattr(umt_pipeline.datasets.table, "SCHEMA_VERSION", 999)
    with pytest.raises(DatasetError, match=r"t.parquet: expected .* schema version 999, found version 2.*run ingestion again"):
        clean.load()
    TableDataset(str(tmp_path / "t.parquet")).save(table)
    with pytest.raises(DatasetError, match="found version none"):
        clean.load()
    (tmp_path / "t.parquet").write_text("text")
    with pytest.raises(DatasetError, match="not a Parquet file"):
        clean.load()
    with pytest.raises(TableError, match=r"clean table to end in \.parquet"):
        TableDataset(str(tmp_path / "t.csv"), clean=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_kedro_viz_shows_the_first_rows(tmp_path: Path, suffix: str) -> None:
    dataset = TableDataset(str(tmp_path / f"table{suffix}"))
    dataset.save(pd.DataFrame({"video": ["a", "b", "c"], "caption": ["x", "y", "z"]}))
    assert dataset.preview(rows=2) == {"columns": ["video", "caption"], "index": [0, 1], "data": [["a", "x"], ["b", "y"]]}
    missing = TableDataset(str(tmp_path / f"other{suffix}"), optional=True)
    assert missing.preview()["data"] == []
