"""A folder goes with its process; what a killed one left goes when the next one is made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from umt_pipeline.server.own_folder import OwnFolder

USING = """
import sys, time
from pathlib import Path
from umt_pipeline.server.own_folder import OwnFolder

with OwnFolder("umt-x-", Path(sys.argv[1])) as folder:
    (folder / "film.mp4").write_bytes(b"half")
    print("made", flush=True)
    time.sleep(1000)
"""


def test_it_goes_with_the_block(tmp_path: Path) -> None:
    with OwnFolder("umt-x-", tmp_path) as folder:
        (folder / "inside").mkdir()
        assert folder.parent == tmp_path
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_goes_and_what_others_use_stays(tmp_path: Path) -> None:
    (tmp_path / "umt-x-stranger").mkdir()
    with subprocess.Popen([sys.executable, "-c", USING, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (other,) = tmp_path.glob("umt-x-*/film.mp4")
        with OwnFolder("umt-x-", tmp_path) as own:
            assert other.exists(), "a process uses it"
            process.kill()
            process.wait()
            with OwnFolder("umt-x-", tmp_path):
                assert not other.parent.exists()
                assert own.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["umt-x-stranger"], "nobody knows whose it is"
