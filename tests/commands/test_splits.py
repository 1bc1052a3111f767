from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umt_pipeline.commands.splits import assign_splits, local_splits, parse_shares, read_splits
from umt_pipeline.core.errors import ConfigError, TableError


@settings(deadline=None)
@given(st.sets(st.text(min_size=1, max_size=12), min_size=1, max_size=30), st.data())
def test_a_split_depends_on_the_name_alone(videos: set[str], data: st.DataObject) -> None:
    shares = parse_shares("60,20,20")
    some = data.draw(st.lists(st.sampled_from(sorted(videos)), min_size=1, unique=True))
    of_all = assign_splits(sorted(videos), shares).set_index("video")["split"]
    of_some = assign_splits(some, shares).set_index("video")["split"]
    assert of_some.to_dict() == of_all.loc[some].to_dict()


def test_shares_are_met_and_images_are_trained_on() -> None:
    counts = assign_splits([f"{n}.mp4" for n in range(4000)], (80, 10, 10))["split"].value_counts(normalize=True)
    assert counts["train"] == pytest.approx(0.8, abs=0.02)
    assert counts["test"] == pytest.approx(0.1, abs=0.02)
    assert set(assign_splits([f"{n}.png" for n in range(20)], (0, 50, 50))["split"]) == {"train"}


def test_a_table_says_the_splits(tmp_path: Path) -> None:
    table = tmp_path / "captions.csv"
    pd.DataFrame({"video": ["a", "a", "b"], "caption": ["x", "y", "z"], "set": ["train", "train", "test"]}).to_csv(
        table, index=False
    )
    assign, record = read_splits(f"{table}:set")
    assert record == "table"
    assert assign(["b", "unlisted", "a"]).to_dict("records") == [
        {"video": "b", "split": "test"}, {"video": "a", "split": "train"}
    ]  # fmt: skip
    later, _ = read_splits(record)
    assert later(["b"]).empty, "of a new file nobody says it"


def test_a_table_may_write_paths_otherwise_than_the_files_are_called(tmp_path: Path) -> None:
    table = tmp_path / "S.CSV"
    table.write_text("video,split\n./c//a.mp4,test\ncafe\u0301.mp4,train\n", encoding="utf-8")
    assign, _ = read_splits(str(table))
    assert assign(["c/a.mp4", "caf\u00e9.mp4"])["split"].tolist() == ["test", "train"]
    table.write_text("video,split\ncafe\u0301.mp4,test\ncaf\u00e9.mp4,train\n", encoding="utf-8")
    assign, _ = read_splits(str(table))
    both = assign(["caf\u00e9.mp4", "cafe\u0301.mp4"])
    assert both["split"].tolist() == ["train", "test"], "two files of their own"
    with pytest.raises(TableError, match="expected one split per video"):
        assign(["caf\u00e9.mp4"])


def test_a_table_of_splits_may_be_at_an_address(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("video,set\na,test\n", encoding="utf-8")
    assign, _ = read_splits(local_splits(tmp_path / "project", f"file://{tmp_path}/s.csv:set"))
    assert assign(["a"])["split"].tolist() == ["test"]
    for text in ("80,10,10", "table", "s.csv:set"):
        assert local_splits(tmp_path / "project", text) == text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,train\na,test\n", "expected one split per video, found several of 'a'"),
        ("a,train\n./a,test\n", "expected one split per video, found several of 'a'"),
        ("a,dev\n", r"expected one of train, validation, test; found 'dev' of video 'a'"),
    ],
)
def test_a_table_that_contradicts_itself(tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "s.csv").write_text(f"video,split\n{rows}", encoding="utf-8")
    with pytest.raises(TableError, match=message):
        read_splits(str(tmp_path / "s.csv"))


@pytest.mark.parametrize("text", ["80,10,20", "80,20", "most", "-1,51,50"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected (three )?numbers"):
        read_splits(text)
