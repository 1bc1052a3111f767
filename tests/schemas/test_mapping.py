from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from umt_pipeline.core.errors import TableError
from umt_pipeline.schemas import Column, Constant, RawCaptions, RawLabels, RawVideos, check_table, select_columns

MAPPING: dict[str, Column] = {"video": "file", "caption": "text"}


def test_columns_are_renamed_and_others_reported() -> None:
    raw = pd.DataFrame({"id": [7], "text": ["a ball"], "file": ["a.mp4"]}, index=[99])
    selected = select_columns(raw, MAPPING, "raw_captions", "ingestion.columns.captions")
    table, ignored = selected.table, selected.ignored
    assert table.to_dict(orient="list") == {"video": ["a.mp4"], "caption": ["a ball"]}
    assert list(table.index) == [0]
    assert ignored == ["id"]


def test_a_constant_stands_for_a_column_that_is_not_there() -> None:
    raw = pd.DataFrame({"video": ["a", "b"], "label": ["run", "jump"]})
    mapping: dict[str, Column] = {"video": "video", "task": Constant(constant="action"), "label": "label"}
    selected = select_columns(raw, mapping, "raw_labels", "ingestion.columns.labels")
    table, ignored = selected.table, selected.ignored
    assert list(table["task"]) == ["action", "action"]
    assert ignored == []


def test_missing_column_names_table_column_parameter_and_what_is_there() -> None:
    with pytest.raises(TableError) as caught:
        select_columns(
            pd.DataFrame({"file": ["a"], "title": ["b"]}), MAPPING, "raw_captions", "ingestion.columns.captions"
        )
    for part in (
        "raw_captions",
        "expected a column 'text'",
        "found: file, title",
        "ingestion.columns.captions.caption",
    ):
        assert part in str(caught.value)


def test_repeated_column_is_an_error() -> None:
    raw = pd.DataFrame([["a", "b", "c"]], columns=["file", "text", "text"])
    with pytest.raises(TableError, match="found more than one of: text"):
        select_columns(raw, MAPPING, "raw_captions", "p")


def test_a_table_without_rows_or_columns_is_empty_not_wrong() -> None:
    selected = select_columns(pd.DataFrame(), MAPPING, "raw_captions", "p")
    table, ignored = selected.table, selected.ignored
    assert (list(table.columns), len(table), ignored) == (["video", "caption"], 0, [])
    assert check_table(table, RawCaptions, "raw_captions", MAPPING).empty


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("001", "001"),
        ("NA", "NA"),
        ("1e5", "1e5"),
        (12, "12"),
        (np.int64(12), "12"),
        (1.0, "1"),
        (np.float64(-7.0), "-7"),
        ("1.0", "1.0"),
        (None, ""),
        (float("nan"), ""),
        (pd.NA, ""),
    ],
)
def test_cells_become_text_without_loss(value: Any, text: str) -> None:
    raw = pd.DataFrame({"file": pd.Series([value], dtype=object), "text": ["x"]})
    assert select_columns(raw, MAPPING, "t", "p").table.at[0, "video"] == text


@pytest.mark.parametrize(
    ("value", "reason", "found"),
    [
        (1.5, "not_text", "found float 1.5"),
        (2.0**60, "not_text", "found float"),
        (float("inf"), "not_text", "found float inf"),
        (True, "not_text", "found bool True"),
        (["a"], "not_text", "found list ['a']"),
        ({"a": 1}, "not_text", "found dict"),
        ("a\ud800b", "broken_text", r"a lone surrogate in 'a\ud800b'"),
    ],
)
def test_cells_that_are_not_text_are_named_and_left_blank(value: Any, reason: str, found: str) -> None:
    raw = pd.DataFrame({"file": pd.Series(["ok", value], dtype=object), "text": ["x", "y"]})
    selected = select_columns(raw, MAPPING, "t", "p")
    assert selected.table["video"].tolist() == ["ok", ""]
    (cell,) = selected.bad
    assert (cell.row, cell.column, cell.reason) == (1, "video", reason)
    assert cell.detail.startswith("column 'video' (your 'file'): expected")
    assert found in cell.detail
    cell.detail.encode()  # can be written


@given(st.lists(st.text(st.characters(codec="utf-8")), max_size=5))
def test_text_is_never_changed(values: list[str]) -> None:
    raw = pd.DataFrame({"file": pd.Series(values, dtype=object), "text": pd.Series(values, dtype=object)})
    assert list(select_columns(raw, MAPPING, "t", "p").table["caption"]) == values


def test_problems_name_row_both_columns_expectation_and_value() -> None:
    table = pd.DataFrame({"video": ["a", "b", "c"], "caption": ["x", " ", "y"]})
    with pytest.raises(TableError) as caught:
        check_table(table, RawCaptions, "raw_captions", MAPPING)
    assert "Table raw_captions: 1 problem(s)" in str(caught.value)
    assert "row 1, column 'caption' (your 'text'): expected text that is not blank, found ' '" in str(caught.value)


def test_duplicates_name_every_row() -> None:
    videos = pd.DataFrame({"video": ["a", "b", "a"], "split": ["train"] * 3})
    with pytest.raises(TableError) as caught:
        check_table(videos, RawVideos, "raw_videos", {})
    for row in (0, 2):
        assert f"row {row}, column 'video': expected a value that occurs once, found 'a'" in str(caught.value)
    labels = pd.DataFrame({"video": ["a", "a"], "task": ["t", "t"], "label": ["x", "y"]})
    with pytest.raises(TableError, match="2 problem") as caught:
        check_table(labels, RawLabels, "raw_labels", {"task": Constant(constant="t")})
    assert "row 1, column 'video' and column 'task': expected a combination that occurs once, found 'a', 't'" in str(
        caught.value
    )


def test_many_problems_are_counted() -> None:
    table = pd.DataFrame({"video": ["a"] * 30, "caption": [""] * 30})
    with pytest.raises(TableError, match=r"30 problem(?s:.*)and 25 more") as caught:
        check_table(table, RawCaptions, "raw_captions", MAPPING)
    assert len(str(caught.value).splitlines()) < 12
