"""`umt serve` in a terminal: it says where it is, refuses what cannot be served, and ends when it is told to."""

from __future__ import annotations

import logging
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

import umt_pipeline as umt
from tests.processes import wait_until
from tests.server.process import ServeProcess, serving
from tests.server.small import Small, build_index, make_small
from tests.serving.folders import write_folder
from umt_pipeline.commands.main import app
from umt_pipeline.core.errors import CheckpointError, ConfigError, IndexingError
from umt_pipeline.core.files import sha256_file
from umt_pipeline.core.locking import LOCK_FILE
from umt_pipeline.datasets import TableDataset
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.project_config import config_loader
from umt_pipeline.registry.serving_settings import serving_settings
from umt_pipeline.server.running import Address, bound

# A server of which something lasts long, in one of its threads.
LASTING = """
import sys
import time

from umt_pipeline.commands.main import app
from umt_pipeline.server import files, running, searching


def last(*_: object) -> None:
    print("this lasts", flush=True)
    time.sleep(1000)


if __name__ == "__main__":
    running._END_WITHIN_S = 1
    if sys.argv[1] == "transcode":
        files.transcode_for_browsers = last
    else:
        searching.search = last
    app(["serve", *sys.argv[2:]])
"""


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Take back where the command logs to: the standard error of a call that is over."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return make_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server has its temporary files; another one, which was killed, has left some there."""
    folder = tmp_path_factory.mktemp("temporary")
    (folder / "umt-serve-killed").mkdir()
    (folder / "umt-serve-killed" / LOCK_FILE).touch()
    return folder


@pytest.fixture(scope="module")
def server(small: Small, temporary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    arguments = ["--index", small.index, "--port", "0", "--every", "0.1"]
    with serving(arguments, tmp_path_factory.mktemp("serve"), TMPDIR=str(temporary)) as found:
        yield found


def test_it_searches_plays_and_is_well(server: ServeProcess) -> None:
    with httpx.Client(base_url=server.base) as client:
        assert client.get("/").status_code == 200
        assert client.get("/healthz").json() == {"status": "ok", "problems": []}
        hits = client.get("/api/search", params={"q": "a disc"}).json()["hits"]
        part = client.get(hits[0]["media_url"], headers={"Range": "bytes=0-3"})
        assert (part.status_code, len(part.content)) == (206, 4)
        assert "server" not in client.get("/").headers


@pytest.mark.slow
def test_fifty_clients_at_once_have_their_answers(server: ServeProcess) -> None:
    def ask(number: int) -> None:
        with httpx.Client(base_url=server.base, timeout=30) as client:
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                statuses.append(client.get("/api/search", params={"q": f"disc {number}"}).status_code)

    statuses: list[int] = []
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) >= 50
    assert set(statuses) == {200}
    said = httpx.get(f"{server.base}/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in said.splitlines() if line.startswith("umt_text_batch_size_"))
    total, count = float(lines["umt_text_batch_size_sum"]), float(lines["umt_text_batch_size_count"])
    assert total / count > 1.5, "queries go through the model together"


def test_a_client_that_sends_too_much_or_nothing_costs_only_itself(server: ServeProcess) -> None:
    host, port = server.base.removeprefix("http://").split(":")
    head = f"POST /api/similar HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    with socket.create_connection((host, int(port))) as slow, socket.create_connection((host, int(port))) as large:
        slow.sendall(head.encode() + b"Content-Length: 100\r\n\r\n--x\r\n")
        large.sendall(head.encode() + f"Content-Length: {10**12}\r\n\r\n--x\r\n".encode())
        large.settimeout(10)
        assert b"413" in large.recv(100)
        assert httpx.get(f"{server.base}/healthz").status_code == 200


def test_a_newer_generation_is_taken_over(server: ServeProcess, small: Small) -> None:
    build_index(small.index, umt.load(small.model), sorted(small.videos.iterdir())[:2])
    wait_until("two files", lambda: httpx.get(f"{server.base}/api/models").json()[0]["index"]["files"] == 2)


def test_told_to_end_it_ends_cleanly(server: ServeProcess, temporary: Path) -> None:
    """The last of those that share it."""
    assert not (temporary / "umt-serve-killed").exists()
    assert list(temporary.glob("umt-serve-*"))
    assert server.end() == 0
    assert not list(temporary.glob("umt-*")), "temporary files went with it"
    assert "Traceback" not in "".join(server.said)


@pytest.mark.slow  # waits for the end of what lasts
@pytest.mark.parametrize("what", ["transcode", "model"])
def test_told_to_end_it_does_not_wait_for_what_lasts(small: Small, tmp_path: Path, what: str) -> None:
    script = tmp_path / "lasting.py"
    script.write_text(LASTING)
    arguments = ["--index", small.index, "--model", small.model, "--port", "0"]
    with serving(arguments, tmp_path, [sys.executable, script, what], TMPDIR=str(tmp_path)) as server:
        base = server.base
        old = sha256_file(small.videos / "old.avi")
        address = f"{base}/media/{old}" if what == "transcode" else f"{base}/api/similar?window=0"

        def ask() -> None:
            with suppress(httpx.HTTPError):
                httpx.get(address, timeout=60)

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until("it is under way", lambda: "this lasts" in "".join(server.said))
        assert server.end() == 0, "within the 30 seconds that a test waits, of the 1000 that it lasts"
        asking.join()
    assert not list(tmp_path.glob("umt-*"))


@pytest.mark.slow  # starts two servers
def test_a_corpus_is_served_with_an_index_that_is_made_first(small: Small, project: Path) -> None:
    make_corpus(project, small)
    with serving(["--port", "0"], project) as server, httpx.Client(base_url=server.base, timeout=60) as client:
        search, classes = client.get("/api/models").json()
        assert (search["name"], search["champion"]) == ("demo_stage2", False)
        assert search["index"]["labels"] == ["left", "up"], "of the clean tables, the first task by name"
        assert search["index"]["splits"] == ["test", "train"]
        assert (classes["name"], classes["abilities"]) == ("demo_classification", ["classify"])
        hit = client.get("/api/search", params={"q": "a disc"}).json()["hits"][0]
        assert hit["path"] == hit["name"], "paths are told from the folder of the corpus on"
        said = client.post("/api/classify", data={"window": hit["window"], "index": "demo_stage2"})
        assert said.status_code == 200, said.text
        assert search["source"].endswith("06_models/stage2")
    (made,) = (project / "data" / "09_index").iterdir()
    assert made.name == search["key"][:16]
    with serving(["demo", "--port", "0"], project) as server:
        assert httpx.get(f"{server.base}/api/models").json()[0]["index"]["generation"] == 1, "it was there"


def make_corpus(project: Path, small: Small) -> None:
    """Write what the demo's pipelines would: clips, clean tables, models."""
    clips = small.tables.videos[small.tables.videos["media"] == "video"]
    tables = {
        "videos": clips,
        "labels": small.tables.labels[small.tables.labels["video_id"].isin(clips["video_id"])],
        "captions": small.tables.captions[small.tables.captions["video_id"].isin(clips["video_id"])],
    }
    for name, table in tables.items():
        TableDataset(str(project / "data" / "03_primary" / f"{name}.parquet"), clean=True).save(table.reset_index(drop=True))
    media = project / "data" / "01_raw" / "demo" / "videos"
    for path in clips["path"]:
        (media / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(small.tables.media_root / path, media / path)
    shutil.copytree(small.model, project / "data" / "06_models" / "stage2")
    clip: Any = serving_settings("classification", project, config_loader(project, "base"))
    vision = ViTConfig(image_size=clip.clip.size, patch_size=8, frames=clip.clip.frames, dim=16, depth=1, heads=2)
    write_folder("classification", project / "data" / "06_models" / "classification", small.tables, vision)


@pytest.mark.slow  # starts two servers
def test_others_than_this_machine_need_a_token(small: Small, tmp_path: Path) -> None:
    arguments = ["--index", small.index, "--port", "0", "--host", "0.0.0.0"]
    with serving(arguments, tmp_path) as server:
        token = server.url.partition("?token=")[2]
        assert len(token) >= 24, "made up"
        base = server.base.replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{base}/api/models").status_code == 401
        assert httpx.get(f"{base}/api/models", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    with serving(arguments, tmp_path, UMT_SERVE_TOKEN="my own") as server:
        assert server.url.endswith("?token=my%20own")


def test_a_port_that_is_taken_is_said_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: expected a free port"):
            CliRunner().invoke(app, ["serve", "--index", str(tmp_path), "--port", str(port)], catch_exceptions=False)
    with pytest.raises(ConfigError, match="--host"):
        bound(Address("no such host", 0))


def test_what_cannot_be_served_is_said(small: Small, tmp_path: Path) -> None:
    def serve(*arguments: str | Path) -> None:
        CliRunner().invoke(app, ["serve", "--port", "0", *map(str, arguments)], catch_exceptions=False)

    with pytest.raises(IndexingError, match="expected an index, found none"):
        serve("--index", tmp_path)
    with pytest.raises(IndexingError, match="expected the model whose vectors it holds"):
        serve("--index", small.index, "--model", small.other("stage2"))
    with pytest.raises(CheckpointError, match="expected a model folder"):
        serve("--index", small.index, "--model", tmp_path / "none")
    with pytest.raises(ConfigError, match="a --model for each --index"):
        serve("--index", small.index, "--model", small.model, "--model", small.model)
    with pytest.raises(ConfigError, match="either a corpus or --index"):
        serve("demo", "--index", small.index)
