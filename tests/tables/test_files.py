"""Tables as people keep them: what is read from any delimiter, encoding and form, and what is refused, with its line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from umt_pipeline.core.errors import TableError
from umt_pipeline.tables import files
from umt_pipeline.tables.files import DELIMITERS, read_table

CELL = st.text(st.one_of(st.sampled_from(',;\t|"\n\r '), st.characters(exclude_categories=["Cs"])), max_size=12)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(table.itertuples(index=False, name=None))


@QUICK
@given(
    cells=st.lists(st.tuples(CELL, CELL, CELL), max_size=5),
    delimiter=st.sampled_from(DELIMITERS),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    line_end=st.sampled_from(["\n", "\r\n"]),
)
def test_any_cells_come_back_from_any_delimiter(
    tmp_path: Path, cells: list[tuple[str, str, str]], delimiter: str, quoting: Any, encoding: str, line_end: str
) -> None:
    # A lone \r is quoted by csv only if the line end has one.
    cells = [tuple(cell.replace("\r", "") for cell in row) for row in cells] if line_end == "\n" else cells  # type: ignore[misc]
    path = tmp_path / "t.csv"
    with path.open("w", encoding=encoding, newline="") as handle:
        writer = csv.writer(handle, delimiter=delimiter, quoting=quoting, lineterminator=line_end)
        writer.writerows([("video", "caption", "label"), *cells])
    table = read_table(path)
    assert list(table) == ["video", "caption", "label"]
    assert rows(table) == cells


@QUICK
@given(
    names=st.lists(CELL.map(str.strip).filter(bool), min_size=2, max_size=4, unique=True),
    delimiter=st.sampled_from(DELIMITERS),
)
def test_a_delimiter_is_found_or_asked_for_but_never_mistaken(tmp_path: Path, names: list[str], delimiter: str) -> None:
    names = [name.replace("\r", "").replace("\0", "") or "x" for name in names]
    path = tmp_path / "t.csv"
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([names, names])
    if len({name.strip() for name in names}) < len(names):
        with pytest.raises(TableError, match="each column once"):
            read_table(path)
    else:
        assert list(read_table(path)) == [name.strip() for name in names]


@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_the_header_says_the_delimiter_whatever_stands_below(tmp_path: Path, delimiter: str) -> None:
    others = "".join(DELIMITERS).replace(delimiter, "")
    text = f"video{delimiter}caption\na.mp4{delimiter}red{others * 5}\n"
    assert rows(read_table(written(tmp_path / "t.csv", text))) == [("a.mp4", "red" + others * 5)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("video\na;b.mp4\nc.mp4\n", ["video"]),
        ('"video, path"\na.mp4\n', ["video, path"]),
        ('video;"a caption, long"\na.mp4;b\n', ["video", "a caption, long"]),
        ("video,caption (en|de)\na.mp4,red ball\nb.mp4,x|y\n", ["video", "caption (en|de)"]),
        ("video, caption\na.mp4,b\n", ["video", "caption"]),
        ("sep=;\nvideo;caption, long\na.mp4;b\n", ["video", "caption, long"]),
        ("sep=\t\r\nvideo\tcaption\r\na.mp4\tb\r\n", ["video", "caption"]),
        ("\n\nvideo,caption\n", ["video", "caption"]),
        ("video\rcaption\r", ["video"]),
        (",video\n0,a.mp4\n", ["", "video"]),
    ],
)
def test_headers(tmp_path: Path, text: str, names: list[str]) -> None:
    assert list(read_table(written(tmp_path / "t.csv", text))) == names


def test_tabs_of_a_tsv_need_no_header_that_says_so(tmp_path: Path) -> None:
    table = read_table(written(tmp_path / "t.TSV", "video, file\tcaption; text\n007\tNA\n"))
    assert table.to_dict("records") == [{"video, file": "007", "caption; text": "NA"}]


def test_a_cell_of_300_kb_and_one_with_lines(tmp_path: Path) -> None:
    long = "word " * 60_000
    table = read_table(written(tmp_path / "t.csv", f'video,caption\na.mp4,{long}\nb.mp4,"one\ntwo\r\nthree"\n'))
    assert rows(table) == [("a.mp4", long), ("b.mp4", "one\ntwo\r\nthree")]


def test_a_table_of_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BLOCK_ROWS", 10)
    for count in (0, 9, 10, 11, 20, 35):
        table = read_table(written(tmp_path / "t.csv", "video,n\n" + "".join(f"{row}.mp4,{row}\n" for row in range(count))))
        assert rows(table) == [(f"{row}.mp4", str(row)) for row in range(count)]
        assert table.index.tolist() == list(range(count))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", 'video,caption\n"a\nb",c\nd\n', r"t\.csv, line 4: expected 2 cells \(video, caption\), found 1"),
        ("t.csv", "video;caption\na.mp4;red; large\n", r"line 2: .* found 3\. A cell that holds a semicolon must be"),
        ("t.csv", 'video,caption\na,b\nc,"d\ne,f\ng,h\n', "not valid CSV: .* the row that begins in line 3"),
        ("t.csv", "sep=;\na;b\nc\n", "line 3: expected 2 cells"),
        ("t.csv", "video,a;b\n", "line 1: expected one delimiter, found comma and semicolon"),
        ("t.csv", "video,,\n", "more than one of: ''"),
        ("t.csv", "video, video\n", "more than one of: video"),
        ("t.csv", "vidéo,ä\na,b\nc,é\n".encode("latin-1"), r"t\.csv, line 1: expected text in UTF-8"),
        ("t.csv", b"video,caption\na,b\nc,\xe9\n", r"t\.csv, line 3: expected text in UTF-8"),
        ("t.csv", "video,caption\n".encode("utf-16")[:-1], "expected text in UTF-8"),
        ("t.csv", "video,caption\n".encode("utf-16-le"), "line 1: expected text, found zero bytes"),
        ("t.csv", b"\xef\xbb\xbf", "found an empty file"),
        ("t.json", "7", "expected a JSON list of objects, .* an object of lists, .* found int 7"),
        ("t.json", '{"a": {"b": 1}}', "an object of lists"),
        ("t.json", '{"a": [1], "b": [1, 2]}', r"lists of one length, .* found \{'a': 1, 'b': 2\}"),
        ("t.json", '{"a": 1}\n{"a": 2}\n', r"Extra data.* is a \.jsonl file: rename it"),
        ("t.json", '[{"a": 1, "a": 2}]', "the key 'a' stands twice"),
        ("t.json", "[" * 100_000, "nested too deeply"),
        ("t.json", r'[{"\ud800": 1}]', "names of columns that are text"),
        ("t.jsonl", '{"a": 1}\n\n{"a": 1, "a": 2}\n', "line 3: not valid JSON: the key 'a' stands twice"),
        ("t.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "line 2: expected text in UTF-8"),
        ("t.xlsx", "", "ending in .csv, .tsv, .json, .jsonl, .parquet, found '.xlsx'"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(TableError, match=message):
        read_table(written(tmp_path / name, content))


def test_what_is_not_there_and_what_is_no_file(tmp_path: Path) -> None:
    for suffix in (".csv", ".json", ".jsonl", ".parquet"):
        with pytest.raises(TableError, match="found nothing"):
            read_table(tmp_path / f"t{suffix}")
        (tmp_path / f"folder{suffix}").mkdir()
        with pytest.raises(TableError, match=f"folder{suffix}: .* found no file"):
            read_table(tmp_path / f"folder{suffix}")


RECORDS = [{"n": 7, "x": 0.5, "t": "007", "m": 1}, {"n": None, "x": 1, "t": None, "m": "a"}, {"x": None, "t": "", "m": True}]


@pytest.mark.parametrize("name", ["t.json", "t.jsonl", "columns.json"])
def test_values_of_json_stay_what_they_are(tmp_path: Path, name: str) -> None:
    text = {
        "t.json": json.dumps(RECORDS),
        "t.jsonl": "\n".join(map(json.dumps, RECORDS)),
        "columns.json": json.dumps({key: [record.get(key) for record in RECORDS] for key in "nxtm"}),
    }[name]
    table = read_table(written(tmp_path / name, text))
    assert table["n"].tolist() == [7, None, None]
    assert type(table["n"][0]) is int
    assert table["x"].dtype == float
    assert table["x"].tolist()[:2] == [0.5, 1.0]
    assert table["t"].tolist()[::2] == ["007", ""]
    assert [type(value) for value in table["m"]] == [int, str, bool]


def test_half_a_surrogate_pair_is_kept_for_the_row_rules(tmp_path: Path) -> None:
    table = read_table(written(tmp_path / "t.json", r'[{"caption": "a\ud800"}, {"caption": "b"}]'))
    assert table["caption"].tolist() == ["a\ud800", "b"]


def test_numbers_and_dictionaries_of_parquet(tmp_path: Path) -> None:
    columns = {"n": pa.array([7, None]), "c": pa.array(["x", "y"]).dictionary_encode(), "x": pa.array([1.0, None])}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert table["n"].tolist() == [7, None]
    assert type(table["n"][0]) is int
    assert table["c"].tolist() == ["x", "y"]
    assert not isinstance(table["c"].dtype, pd.CategoricalDtype)
    assert table["x"].dtype == float
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "twice.parquet")
    with pytest.raises(TableError, match="not a Parquet file"):
        read_table(tmp_path / "twice.parquet")
