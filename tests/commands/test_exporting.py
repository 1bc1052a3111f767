"""`umt export`, and the commands of docs/export.md."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.conftest import ROOT
from tests.evaluation.tiny import make_tables
from tests.serving.folders import write_folder
from umt_pipeline.commands.main import app
from umt_pipeline.core.errors import CheckpointError, ConfigError, TableError
from umt_pipeline.evaluation.tables import Tables

COMMANDS = re.compile(r"^\.venv/bin/umt (export .*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return make_tables(tmp_path_factory.mktemp("media"), ("train", "test", "test"))


@pytest.fixture(scope="module")
def stage2(tmp_path_factory: pytest.TempPathFactory, tables: Tables) -> Path:
    return write_folder("stage2", tmp_path_factory.mktemp("models") / "stage2", tables)


def umt(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, arguments)], catch_exceptions=False)


def captions_of(tables: Tables, folder: Path) -> Path:
    table = tables.captions.merge(tables.videos[["video_id", "path"]])[["path", "caption"]]
    file = folder / "captions.csv"
    table.rename(columns={"path": "video"}).to_csv(file, index=False)
    return file


def test_a_model_is_compared_on_given_clips(tmp_path: Path, stage2: Path, tables: Tables) -> None:
    out = tmp_path / "out"
    given = ("--clips", tables.media_root, "--captions", captions_of(tables, tmp_path))
    done = umt(stage2, "--format", "transformers", "--out", out, *given)
    assert done.exit_code == 0, done.output
    assert f"compared on 3 clips of {tables.media_root.name}" in done.output
    assert f"wrote {out}: README.md, config.json" in done.output
    assert re.search(r"^video: differs from the model by \S+ at most \(allowed 1e-05\)$", done.output, re.MULTILINE)


def test_clips_that_cannot_be_read_are_named(tmp_path: Path, stage2: Path, tables: Tables) -> None:
    (tmp_path / "clips").mkdir()
    for number, path in enumerate(tables.media_root.glob("*.mp4")):
        (tmp_path / "clips" / path.name).write_bytes(path.read_bytes())
        (tmp_path / "clips" / path.name).with_suffix(".txt").write_text(f"a disc {number}", encoding="utf-8")
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no film")
    done = umt(stage2, "--format", "transformers", "--out", tmp_path / "out", "--clips", tmp_path / "clips", "--json")
    assert done.exit_code == 3, "something failed, and what was asked for is there"
    assert json.loads(done.stdout) == json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert "not compared on 1 clips that cannot be read:\n  broken.mp4: " in done.stderr


def test_what_is_missing_or_not_meant_is_said(tmp_path: Path, stage2: Path, tables: Tables) -> None:
    out = tmp_path / "out"
    with pytest.raises(CheckpointError, match=r"expected a model folder, .*, found nothing"):
        umt(tmp_path / "nowhere", "--format", "onnx", "--out", out)
    with pytest.raises(ConfigError, match=r"--captions .* goes with --clips"):
        umt(stage2, "--format", "onnx", "--out", out, "--captions", tmp_path / "captions.csv")
    with pytest.raises(ConfigError, match="expected captions of two clips or more"):
        umt(stage2, "--format", "torch", "--out", out, "--clips", tables.media_root)
    table = tmp_path / "table.csv"
    table.write_text("file,caption\na.mp4,a disc\n", encoding="utf-8")
    with pytest.raises(TableError, match=r"table\.csv: expected columns video, caption; missing: video"):
        umt(stage2, "--format", "torch", "--out", out, "--clips", tables.media_root, "--captions", table)
    teacher = write_folder("teacher", tmp_path / "teacher", tables)
    with pytest.raises(CheckpointError, match="a model of kind 'teacher', of which nothing is exported"):
        umt(teacher, "--format", "torch", "--out", out)
    assert not out.exists()


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path: Path, stage2: Path, tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/06_models").mkdir(parents=True)
    (tmp_path / "data/06_models/stage2").symlink_to(stage2)
    write_folder("stage1", tmp_path / "data/06_models/stage1", tables)
    write_folder("classification", tmp_path / "data/06_models/classification", tables)
    (tmp_path / "clips").symlink_to(tables.media_root)
    captions_of(tables, tmp_path)
    lines = COMMANDS.findall((ROOT / "docs" / "export.md").read_text(encoding="utf-8"))
    assert len(lines) >= 5
    for line in lines:
        done = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False)
        assert done.exit_code == 0, f"{line}: {done.output}"
    assert (tmp_path / "exported/onnx/video.int8.onnx").is_file()
