"""`umt search` and `umt similar` on a real index: what they print, and how they end."""

from __future__ import annotations

import json
import re
import shlex
import time
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

import umt_pipeline as umt
from tests.conftest import ROOT
from tests.evaluation.tiny import make_tables, make_video_text
from tests.features.tiny import write_clip
from tests.serving.array_index import indexed, write_index
from umt_pipeline.commands import main as cli
from umt_pipeline.commands.players import open_place, player_command
from umt_pipeline.commands.searching import time_text
from umt_pipeline.core.errors import ConfigError, IndexingError
from umt_pipeline.serving.index.reading import Index
from umt_pipeline.serving.search.calibration import Cutoff, keep_cutoff


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_video_text(folder, make_tables(folder / "media", ("train", "test")), seed=2)
    return folder


@pytest.fixture
def index(model: Path, tmp_path: Path) -> Path:
    clips = [tmp_path / f"clip {number}.mp4" for number in range(4)]
    for number, path in enumerate(clips):
        write_clip(path, 30, 40, 56, seed=number)
    embedder = umt.load(model, "fp32").embedder
    assert embedder is not None
    return write_index(indexed(embedder, clips, tmp_path), tmp_path / "videos.index", model)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_the_commands_of_the_page_run(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that has what they name."""
    monkeypatch.chdir(index.parent)
    Path("data").mkdir()
    index.rename("data/videos.index")
    Path("clip 0.mp4").rename("clip.mp4")
    text = (ROOT / "docs" / "search.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\.venv/bin/umt ((?:search|similar) .*)$", text, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        result = run(*shlex.split(command))
        assert result.exit_code == 0, (command, result.stderr, result.exception)


def test_hits_are_printed_as_lines(index: Path) -> None:
    result = run("search", "a star moving left", "--index", index, "-k", 3)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    assert all("clip " in line and "0:0" in line for line in lines)
    assert "embed" in result.stderr
    assert " ms" in result.stderr


def test_json_is_one_document(index: Path, model: Path) -> None:
    result = run("search", "a star moving left", "--index", index, "--rerank", 2, "--json")
    found = json.loads(result.stdout)
    assert (found["query"], found["nothing_found"], found["cutoff"]) == ("a star moving left", False, None)
    assert (found["index"], found["generation"], found["model"]) == (str(index), 1, str(model))
    assert [hit["match"] is None for hit in found["hits"][:3]] == [False, False, True]
    assert found["hits"][0]["path"].endswith(".mp4")
    assert found["took_ms"]["rerank"] > 0


def test_nothing_found_is_exit_status_4(index: Path) -> None:
    with Index.open(index) as opened:
        keep_cutoff(opened, Cutoff(score=0.9999, missed=0.1, invented=0.05, present=40, absent=60, hidden=False, windows=8))
    result = run("search", "a star moving left", "--index", index)
    assert (result.exit_code, result.stdout) == (4, "")
    assert "nothing found: the best of all places scores 0." in result.stderr
    assert "cut-off 1.000: nothing is found for 10.0% of 40 captions" in result.stderr
    shown = run("search", "a star moving left", "--index", index, "--all", "--json")
    assert shown.exit_code == 4
    assert json.loads(shown.stdout)["nothing_found"]
    assert json.loads(shown.stdout)["hits"]
    assert run("search", "a star moving left", "--index", index, "--path", "nowhere/*").exit_code == 4


def test_a_cutoff_of_other_windows_does_not_count_and_that_is_said(index: Path) -> None:
    with Index.open(index) as opened:
        cutoff = Cutoff(score=0.9999, missed=0.1, invented=0.05, present=40, absent=60, hidden=False, windows=8)
        own = keep_cutoff(opened, cutoff)
    own.rename(own.with_name(f"{own.stem[:-8]}01234567.json"))
    result = run("search", "a star moving left", "--index", index)
    assert result.exit_code == 0
    assert "no cut-off: the one that was calibrated is of other windows" in result.stderr


def test_a_clip_finds_others(index: Path, tmp_path: Path) -> None:
    result = run("similar", tmp_path / "clip 1.mp4", "--index", index, "--json")
    assert result.exit_code == 0
    assert {Path(hit["path"]).name for hit in json.loads(result.stdout)["hits"]} == {f"clip {n}.mp4" for n in (0, 2, 3)}
    part = run("similar", tmp_path / "clip 1.mp4", "--index", index, "--from", 0, "--to", 1)
    assert part.exit_code == 0
    assert "clip 1.mp4" in part.stdout
    wrong = run("similar", tmp_path / "clip 1.mp4", "--index", index, "--from", 2, "--to", 1)
    assert isinstance(wrong.exception, ConfigError)


def test_errors_are_messages(index: Path, tmp_path: Path) -> None:
    assert isinstance(run("search", "", "--index", index).exception, ConfigError)
    assert isinstance(run("search", "a", "--index", tmp_path / "nothing").exception, IndexingError)
    other = tmp_path / "other"
    other.mkdir()
    make_video_text(other, make_tables(tmp_path / "media", ("train", "test")), seed=3)
    result = run("search", "a", "--index", index, "--model", other)
    assert isinstance(result.exception, IndexingError)
    assert "expected the model whose vectors it holds" in str(result.exception)


def test_the_best_hit_is_opened_or_it_is_said_how(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    result = run("search", "a star moving left", "--index", index, "--open")
    assert "not opened, there is no screen here; where there is one: " in result.stderr
    player, told = tmp_path / "bin" / "mpv", tmp_path / "told"
    player.parent.mkdir()
    player.write_text(f'#!/bin/sh\necho "$@" > "{told}.part" && mv "{told}.part" "{told}"\n')
    player.chmod(0o755)
    said = open_place("/videos/a b.mp4", 1.5, 4.0, {"PATH": f"{player.parent}:/bin:/usr/bin", "DISPLAY": ":0"})
    assert said == "opened: mpv --start=1.500 --ab-loop-a=1.500 --ab-loop-b=4.000 '/videos/a b.mp4'"
    last = time.monotonic() + 20
    while not told.exists() and time.monotonic() < last:
        time.sleep(0.02)
    assert told.read_text() == "--start=1.500 --ab-loop-a=1.500 --ab-loop-b=4.000 /videos/a b.mp4\n"


def test_players_begin_at_the_place() -> None:
    def command(start: float, end: float, *there: str) -> list[str] | None:
        return player_command("/videos/a.mp4", start, end, lambda program: program in there)

    assert command(1, 4, "ffplay", "vlc") == ["vlc", "--start-time=1.000", "--stop-time=4.000", "/videos/a.mp4"]
    assert command(1, 4, "ffplay") == ["ffplay", "-ss", "1.000", "/videos/a.mp4"]
    assert command(0, 0, "mpv", "xdg-open") == ["xdg-open", "/videos/a.mp4"]
    assert command(1, 4, "xdg-open") is None
    said = open_place("/videos/a.mp4", 1, 4, {"PATH": "/nowhere", "DISPLAY": ":0"})
    assert said.startswith("not opened, no player that can begin at a place is here (mpv, vlc, ffplay); where there is one")


def test_times_are_written_as_players_show_them() -> None:
    assert [time_text(second) for second in (0, 9.96, 61.25, 3723.5)] == ["0:00.0", "0:10.0", "1:01.2", "1:02:03.5"]
