from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from kedro.io import DatasetError

from umt_pipeline.datasets import JsonDataset, TextFileDataset


def test_json_round_trip_sorted(tmp_path: Path) -> None:
    dataset = JsonDataset(str(tmp_path / "results" / "metrics.json"), metadata={"mlflow": {"metrics": ""}})
    dataset.save({"b": [1, 2.5], "a": "ü"})
    assert dataset.load() == {"a": "ü", "b": [1, 2.5]}
    text = dataset.path.read_text(encoding="utf-8")
    assert text.index('"a"') < text.index('"b"')
    assert "ü" in text


def test_json_that_is_none(tmp_path: Path) -> None:
    dataset = JsonDataset(str(tmp_path / "m.json"))
    with pytest.raises(DatasetError, match="found nothing"):
        dataset.load()
    dataset.path.write_text("{")
    with pytest.raises(DatasetError, match="expected JSON"):
        dataset.load()
    with pytest.raises(DatasetError, match="to write as JSON"):
        dataset.save({"a": object()})
    assert dataset.path.read_text() == "{"


def test_text_keeps_its_line_ends(tmp_path: Path) -> None:
    dataset = TextFileDataset(str(tmp_path / "report.html"))
    dataset.save("<p>ä</p>\r\n\n")
    assert dataset.path.read_bytes() == "<p>ä</p>\r\n\n".encode()
    assert dataset.load() == "<p>ä</p>\n\n"


def test_an_optional_json_file_may_be_missing(tmp_path: Path) -> None:
    path = str(tmp_path / "times.json")
    assert JsonDataset(path, optional=True).load() == {}
    with pytest.raises(DatasetError, match="found nothing"):
        JsonDataset(path).load()


def test_kedro_viz_shows_documents(tmp_path: Path) -> None:
    numbers, page = JsonDataset(str(tmp_path / "m.json")), TextFileDataset(str(tmp_path / "p.html"))
    numbers.save({"a": 1})
    page.save("<p>b</p>")
    assert (numbers.preview(), page.preview()) == ('{"a": 1}', "<p>b</p>")
    kinds = [str(inspect.signature(dataset.preview).return_annotation) for dataset in (numbers, page)]
    assert kinds == ["JSONPreview", "HTMLPreview"], "Kedro-Viz knows by the name how to show it"
