"""What a search by a clip has in common with one by a sentence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

import umt_pipeline as umt
from tests.server.small import Small, started
from tests.serving.folders import write_clip
from umt_pipeline.video.views import ViewConfig


@pytest.fixture
def client(small: Small, tmp_path: Path) -> Iterator[TestClient]:
    with started([small.served()], tmp_path / "cache") as (found, _):
        yield found


def test_clips_are_searched_for_with_filters_too(client: TestClient, small: Small) -> None:
    clip = {"file": (small.videos / "one.mp4").read_bytes()}
    for label, names in (("star", {"two.mp4"}), ("ring", {"one.mp4", "old.avi"})):
        sent = client.post("/api/similar", files=clip, params={"label": label})
        assert {hit["name"] for hit in sent.json()["hits"]} == names
        windows = client.get("/api/similar", params={"window": 0, "label": label})
        assert {hit["label"] for hit in windows.json()["hits"]} == {label}
    refused = client.post("/api/similar", files=clip, params={"label": "square"})
    assert refused.status_code == 422
    assert "expected one of 'ring', 'star'" in refused.json()["detail"]


def test_a_clip_that_was_read_for_a_former_model_is_to_be_sent_again(
    small: Small, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = small.served()
    after = replace(before, model=umt.load(f"open_clip:local-dir:{write_clip(tmp_path / 'clip')}"))
    with started([before], cache) as (client, serving):
        frames_of = serving.uploads.frames

        async def meanwhile(path: Path, view: ViewConfig) -> np.ndarray:
            serving.thread.hand(lambda: serving.shelf.put(after)).result()
            return await frames_of(path, view)

        monkeypatch.setattr(serving.uploads, "frames", meanwhile)
        sent = client.post("/api/similar", files={"file": (small.videos / "one.mp4").read_bytes()})
        assert (sent.status_code, sent.headers["Retry-After"]) == (503, "1"), "the page does it by itself"
        assert "was exchanged while the file came in" in sent.json()["detail"]


def test_where_a_model_looks_is_told_without_a_sentence(client: TestClient) -> None:
    found = client.get("/api/why", params={"window": 0}).json()
    assert (found["score"], found["match"]) == (None, None)
    assert sum(frame["weight"] for frame in found["frames"]) == pytest.approx(1)


def test_what_is_wrong_with_a_file_and_what_is_not_read_is_said(own: Small, cache: Path) -> None:
    with started([own.served()], cache) as (client, _):
        (own.videos / "one.mp4").unlink()
        os.utime(own.videos / "two.mp4", (0, 0))
        found = client.get("/api/search", params={"q": "a disc qqqq", "k": 100}).json()
        notes = {hit["name"]: hit["note"] for hit in found["hits"]}
        assert "cannot be opened" in notes["one.mp4"]
        assert "was changed" in notes["two.mp4"]
        assert notes["bare.mp4"] == ""
        assert found["notes"]
