"""``kill -9`` at any moment of the ingestion: the same tables in the end, and nothing that was accepted is decoded again."""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pipelines.ingesting import TABLES
from tests.video_files import write_video

FILES = 40
KILLS = 3
COUNTS = re.compile(r"checked (\d+) files: (\d+) from the cache, (\d+) decoded")
PATH = os.pathsep.join(path for path in sys.path if path)


def start(media: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.pipelines.ingesting", str(media), str(out)]
    environment = {**os.environ, "PYTHONPATH": PATH}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> list[int]:
    """Wait for the end and return how many files were checked, from the cache and decoded."""
    _, log = process.communicate()
    assert process.returncode == 0, log[-3000:]
    found = COUNTS.search(log)
    assert found, log
    return [int(count) for count in found.groups()]


def kept(out: Path) -> dict[bytes, float]:
    """Return the files whose results are kept, and when they were found."""
    file = out / "workspace" / "ingestion" / "probed.sqlite"
    if not file.exists():
        return {}
    with closing(sqlite3.connect(file, timeout=10.0)) as connection:
        try:
            return dict(connection.execute("SELECT path, found_at FROM files"))
        except sqlite3.OperationalError:  # its tables are about to be made
            return {}


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    media = tmp_path_factory.mktemp("media")
    content = write_video(media / "0.mp4", 1000).read_bytes()
    for number in range(FILES):  # of other content, but the same size; every tenth one is broken
        end = b"\0\0\0\x10free" + number.to_bytes(8, "big")
        (media / f"{number}.mp4").write_bytes(content + end if number % 10 else content[: len(content) // 2] + end)
        os.utime(media / f"{number}.mp4", (0, time.time() - 3600))
    return media


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_tables(media: Path, tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert finish(start(media, undisturbed)) == [FILES, 0, FILES]
    rng = random.Random(0)
    before: dict[bytes, float] = {}
    for _ in range(KILLS):
        process = start(media, killed)
        wanted = len(before) + rng.randint(1, FILES // (KILLS + 1))
        while len(kept(killed)) < wanted and process.poll() is None:
            time.sleep(rng.uniform(0.0, 0.02))
        assert process.poll() is None, "it was to be killed before its end"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        now = kept(killed)
        assert {path: now.get(path) for path in before} == before, "found again, although it was known"
        before = now
    assert not list(killed.glob("*.parquet"))
    assert finish(start(media, killed)) == [FILES, len(before), FILES - len(before)]
    after = kept(killed)
    assert {path: after[path] for path in before} == before
    for name in TABLES:
        assert (killed / f"{name}.parquet").read_bytes() == (undisturbed / f"{name}.parquet").read_bytes()
