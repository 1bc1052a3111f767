"""A newer generation of an index is taken over; one of another model is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import umt_pipeline as umt
from tests.server.small import Small, build_index, started
from umt_pipeline.server.watching import Look, Watcher


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
        (why,) = client.get("/api/models").json()[0]["behind"]
        assert why.startswith("generation 3 of the index is there, and is not served: ")
        assert f"`umt index FOLDER --model {own.model} --out {own.index}`" in why
        assert 'umt_behind{model="tiny"} 1.0' in client.get("/metrics").text


def test_a_damaged_generation_does_not_replace_a_whole_one(own: Small, cache: Path) -> None:
    with started([own.served()], cache) as (client, serving):
        build_index(own.index, umt.load(own.model), [own.videos / "two.mp4"])
        (own.index / "generations" / "000002" / "files.parquet").write_bytes(b"half")
        watcher = Watcher(serving, [], 3600)
        watcher.look()
        found = client.get("/api/search", params={"q": "x"})
        assert (found.status_code, found.json()["generation"]) == (200, 1)
        assert "files.parquet" in client.get("/api/models").json()[0]["behind"][0]
        build_index(own.index, umt.load(own.model), [own.videos / "one.mp4"])
        watcher.look()
        (served,) = client.get("/api/models").json()
        assert (served["index"]["generation"], served["behind"]) == (3, []), "another one is looked at at once"
        assert 'umt_behind{model="tiny"} 0.0' in client.get("/metrics").text


def test_a_champion_and_a_newer_index_of_the_former_one_at_once(own: Small, cache: Path) -> None:
    other = own.other("stage2")
    build_index(own.folder / "of_other", umt.load(other), [own.videos / "one.mp4"])
    champion = own.served(source=other, index=own.folder / "of_other")
    with started([own.served()], cache) as (client, serving):
        build_index(own.index, umt.load(own.model), [own.videos / "two.mp4"])
        Watcher(serving, [Look("tiny", "model", lambda: champion)], 3600).look()
        (served,) = client.get("/api/models").json()
        assert served["key"] == champion.embedder.key, "the former one does not come back with its newer index"
        assert client.get("/healthz").status_code == 200


def test_a_look_that_fails_does_not_keep_others_from_theirs(
    own: Small, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> None:
        raise PermissionError("not yours")

    with started([own.served()], cache) as (client, serving):
        build_index(own.index, umt.load(own.model), [own.videos / "two.mp4"])
        watcher = Watcher(serving, [Look("tiny", "model", fails)], 3600)
        for _ in range(2):
            watcher.look()
        assert client.get("/api/models").json()[0]["index"]["generation"] == 2
        assert caplog.text.count("WARNING") == 1
        assert "not yours" in caplog.text
