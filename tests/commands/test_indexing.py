"""`umt embed` and `umt index` as a person calls them: what they print, and how they end."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from tests.conftest import ROOT
from tests.evaluation.tiny import make_tables
from tests.serving.filmed import write_film
from tests.serving.folders import write_folder
from umt_pipeline.commands.clean_tables import clean_tables
from umt_pipeline.commands.main import app
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.serving.index.reading import Index
from umt_pipeline.serving.search.calibration import Cutoff

WINDOWS = ["--length", "4", "--stride", "2", "--snap", "0.4", "--precision", "fp32", "--workers", "1"]


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    return write_folder("stage2", folder / "stage2", make_tables(folder / "media", ("train", "test")))


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for number, colour in enumerate(("red", "green", "blue")):
        write_film(tmp_path / "videos" / f"{colour}.mp4", [(colour, 2.0), ("white", 5.0 * number)], seed=number)
    return tmp_path / "videos"


def test_the_commands_of_the_page_run(tmp_path: Path, model: Path, videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that has what they name."""
    monkeypatch.chdir(tmp_path)
    Path("data/06_models").mkdir(parents=True)
    Path("data/06_models/stage2").symlink_to(model)
    colours = ("red", "green", "blue")
    pd.DataFrame({"path": [f"{name}.mp4" for name in colours], "label": colours}).to_csv("labels.csv", index=False)
    pd.DataFrame({"path": [f"{name}.mp4" for name in colours], "caption": colours}).to_csv("captions.csv", index=False)
    text = (ROOT / "docs" / "search.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\.venv/bin/umt ((?:index|embed) .*)$", text, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        result = call(*shlex.split(command))
        assert result.exit_code == 0, (command, result.stderr, result.exception)
    with Index.open("data/videos.index") as index:
        assert sorted(index.files["label"]) == sorted(colours)


def test_an_index_is_built_and_brought_up_to_date(tmp_path: Path, model: Path, videos: Path) -> None:
    out = tmp_path / "index"
    first = call("index", videos, "--model", model, "--out", out, *WINDOWS, "--json")
    assert first.exit_code == 0, first.output
    document = json.loads(first.stdout)
    assert (document["generation"], document["is_new"], document["failures"]) == (1, True, [])
    assert document["files"]["indexed"] == 3
    assert document["model"]["source"] == str(model)
    with Index.open(out) as index:
        assert len(index.windows) == document["windows"] == 9
        assert index.rule.length_s == 4
    again = call("index", videos, "--model", model, "--out", out, *WINDOWS)
    assert again.exit_code == 0
    assert again.stdout == ""
    assert "nothing new; still generation 1: 9 windows of 3 files" in again.stderr
    (videos / "bad.mp4").write_bytes(b"no video")
    bad = call("index", videos, "--model", model, "--out", out, *WINDOWS)
    assert bad.exit_code == 3
    assert "bad.mp4: not_a_video: " in bad.stderr


def test_vectors_are_written(tmp_path: Path, model: Path, videos: Path) -> None:
    out = tmp_path / "vectors"
    (videos / "bad.mp4").write_bytes(b"no video")
    result = call("embed", videos, "--model", model, "--out", out, "--format", "npy", *WINDOWS, "--json")
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert document["windows"] == 9
    assert [Path(row["path"]).name for row in document["failures"]] == ["bad.mp4"]
    assert np.load(out / "vectors.npy").shape == (9, document["model"]["dim"])
    wrong = call("embed", videos, "--model", model, "--out", out, "--format", "csv")
    assert isinstance(wrong.exception, ConfigError)
    assert "--format: expected parquet or npy, found 'csv'" in str(wrong.exception)


def test_captions_calibrate_the_index_and_make_its_report(
    tmp_path: Path, model: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What an untrained model says of three files makes none.
    cutoff = Cutoff(score=0.2, missed=0.1, invented=0.3, present=30, absent=30, hidden=True, windows=3)
    monkeypatch.setattr("umt_pipeline.serving.search.report.calibrate", lambda scores, windows: cutoff)
    out, captions = tmp_path / "index", tmp_path / "captions.csv"
    rows = [(f"{colour}.mp4", f"a {colour} disc {number}") for colour in ("red", "green", "blue") for number in range(10)]
    pd.DataFrame(rows, columns=["path", "caption"]).to_csv(captions, index=False)
    told = call("index", videos, "--model", model, "--out", out, *WINDOWS, "--captions", captions, "--report")
    assert told.exit_code == 0, told.output
    assert cutoff.sentence in told.stderr
    assert (out / "report.html").is_file()
    assert list(out.glob("cutoff-*.json"))
    without = call("index", videos, "--model", model, "--out", out, *WINDOWS, "--report")
    assert "--report: expected captions to search for, found none" in str(without.exception)


def test_short_windows_need_no_other_option(tmp_path: Path, model: Path, videos: Path) -> None:
    out = tmp_path / "index"
    told = call("index", videos, "--model", model, "--out", out, "--length", "4", "--stride", "2", "--workers", "1", "--json")
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["rule"]["snap_s"] == pytest.approx(0.4)


def test_what_cannot_work_is_said(tmp_path: Path, model: Path, videos: Path) -> None:
    wrong = call("index", videos, "--model", model, "--out", tmp_path / "i", "--length", "2", "--stride", "3")
    assert "what lies between windows is lost" in str(wrong.exception)
    other = write_folder("classification", tmp_path / "classifier", make_tables(tmp_path / "media", ("train", "test")))
    wrong = call("index", videos, "--model", other, "--out", tmp_path / "i", *WINDOWS)
    assert wrong.exit_code == 1
    assert isinstance(wrong.exception, ConfigError)
    nowhere = call("index", tmp_path / "nowhere", "--model", model, "--out", tmp_path / "i", *WINDOWS)
    assert "expected a folder of videos, found nothing" in str(nowhere.exception)


def test_a_corpus_gives_labels_splits_and_captions(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected the clean table videos of base, found nothing"):
        clean_tables(project, "base")
    primary = project / "data" / "03_primary"
    primary.mkdir(parents=True)
    pd.DataFrame({"video_id": ["a", "b"], "path": ["x/a.mp4", "b.mp4"], "split": ["train", "test"]}).to_parquet(
        primary / "videos.parquet"
    )
    labels = [("a", "motion", "left"), ("a", "shape", "disc"), ("b", "shape", "star")]
    pd.DataFrame(labels, columns=["video_id", "task", "label"]).to_parquet(primary / "labels.parquet")
    captions = [(0, "b", "a star"), (1, "a", "a disc")]
    pd.DataFrame(captions, columns=["caption_id", "video_id", "caption"]).to_parquet(primary / "captions.parquet")
    known, said = clean_tables(project, "base")
    media = project / "data" / "01_raw" / "demo" / "videos"
    assert known["path"].tolist() == [str(media / "x" / "a.mp4"), str(media / "b.mp4")]
    assert known["label"].fillna("none").tolist() == ["left", "none"]
    assert known["split"].tolist() == ["train", "test"]
    assert said[["path", "caption", "split"]].values.tolist() == [
        [str(media / "b.mp4"), "a star", "test"],
        [str(media / "x" / "a.mp4"), "a disc", "train"],
    ]
