"""Decoding in processes: a file that crashes its decoder costs itself, and is found without decoding all again."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.video import crashing
from umt_pipeline.core.errors import VideoError
from umt_pipeline.video import decode
from umt_pipeline.video.decode import Decoder, DecoderDiedError, decode_batches
from umt_pipeline.video.views import View, ViewConfig, eval_view

VIEW = eval_view(ViewConfig(frames=2, size=32), 3, 40, 56)


@pytest.fixture(autouse=True)
def _as_names_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_load", crashing.behave)


def wanted_of(folder: Path, batches: list[list[str]]) -> list[tuple[int, list[tuple[Path, View]]]]:
    for name in {name for batch in batches for name in batch}:
        (folder / name).touch()
    return [(number, [(folder / name, VIEW) for name in batch]) for number, batch in enumerate(batches)]


def in_short(answer: object) -> str:
    return answer.reason if isinstance(answer, VideoError) else chr(answer[0, 0, 0, 0])  # type: ignore[index]


def test_a_file_that_crashes_its_decoder_costs_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    batches = [["a", "b"], ["crash-1", "crash-1", "c", "c"], ["damaged"], ["d", "crash-2"], *([letter] for letter in "efgh")]
    with Decoder(2) as decoder, caplog.at_level(logging.WARNING):
        found = list(decoder.decode(wanted_of(tmp_path, batches)))
    assert [key for key, _ in found] == list(range(8))
    assert [list(map(in_short, answers)) for _, answers in found] == [
        ["a", "b"],
        ["decoder_crash", "decoder_crash", "c", "c"],
        ["corrupt_frame"],
        ["d", "decoder_crash"],
        *([letter] for letter in "efgh"),
    ]
    error = found[1][1][0]
    assert isinstance(error, VideoError)
    assert error.detail == f"{tmp_path / 'crash-1'}: the process that decoded it ended with SIGSEGV"
    assert "were decoded again, one by one, to find the file" in caplog.text
    # Those that were at work when one of two files broke the pool, and those that waited behind it.
    assert all(len((tmp_path / name).read_bytes()) <= 3 for name in "abcdefgh")
    assert (tmp_path / "h").read_bytes() == b"x", "what comes later is decoded once"


def test_a_killed_process_is_no_fault_of_a_file(tmp_path: Path) -> None:
    with Decoder(2) as decoder:
        found = list(decoder.decode(wanted_of(tmp_path, [["a", "once"], ["b"], ["c"]])))
    assert [list(map(in_short, answers)) for _, answers in found] == [["a", "o"], ["b"], ["c"]]


def test_a_crash_is_named_where_all_files_must_be_read(tmp_path: Path) -> None:
    paths = [path for _, [(path, _)] in wanted_of(tmp_path, [["a"], ["crash-1"]])]
    with pytest.raises(VideoError, match=r"decoder_crash: .*/crash-1: the process that decoded it ended with SIGSEGV"):
        list(decode_batches(paths, [VIEW] * 2, [range(2)], workers=1))


def test_processes_that_cannot_be_started_are_no_fault_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "follow_parent", crashing.die)
    monkeypatch.setattr(decode, "_serve", crashing.die)
    with (
        Decoder(1) as decoder,
        pytest.raises(DecoderDiedError, match=r"ended with exit code 3 before it had a file.*fewer `workers`"),
    ):
        list(decoder.decode(wanted_of(tmp_path, [["a"]])))
