"""A newer generation of an index is taken over; one of another model is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import umt_pipeline as umt
from tests.server.small import Small, build_index, started
from umt_pipeline.server.watching import Watcher


def test_a_newer_generation_is_taken_over(own: Small, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    with started([own.served()], cache) as (client, serving):
        watcher = Watcher(serving, [], 3600)
        first = client.get("/api/search", params={"q": "x", "k": 100}).json()
        shutil.copy(own.videos / "one.mp4", own.videos / "copy.mp4")
        (own.videos / "copy.mp4").write_bytes((own.videos / "copy.mp4").read_bytes() + b"\0")
        build_index(own.index, umt.load(own.model), [own.videos / name for name in ("copy.mp4", "two.mp4")])
        watcher.look()
        second = client.get("/api/search", params={"q": "x", "k": 100}).json()
        assert (first["generation"], second["generation"]) == (1, 2)
        assert {hit["name"] for hit in second["hits"]} == {"copy.mp4", "two.mp4"}
        assert client.get(first["hits"][0]["thumbnail_url"]).status_code == 409, "windows have other numbers now"
        assert 'umt_index_generation{model="tiny"} 2.0' in client.get("/metrics").text
        build_index(own.index, umt.load(own.other("stage2")), [own.videos / "two.mp4"])
        for _ in range(2):
            watcher.look()
        assert client.get("/api/search", params={"q": "x"}).json()["generation"] == 2
        assert caplog.text.count("is of another model") == 1


def test_a_damaged_generation_does_not_replace_a_whole_one(own: Small, cache: Path) -> None:
    with started([own.served()], cache) as (client, serving):
        build_index(own.index, umt.load(own.model), [own.videos / "two.mp4"])
        (own.index / "generations" / "000002" / "files.parquet").write_bytes(b"half")
        Watcher(serving, [], 3600).look()
        found = client.get("/api/search", params={"q": "x"})
        assert (found.status_code, found.json()["generation"]) == (200, 1)
