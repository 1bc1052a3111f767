"""What is asked of a server over HTTP, and what it answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import umt_pipeline as umt
from tests.server.small import VIDEOS, Small, started
from tests.serving.folders import ANSWERS, MOTIONS, SHAPES
from tests.video_files import write_video
from umt_pipeline.core.files import sha256_file
from umt_pipeline.server import health
from umt_pipeline.server.limits import Limits
from umt_pipeline.server.shelf import Served
from umt_pipeline.server.state import Serving
from umt_pipeline.serving.index.reading import Index
from umt_pipeline.serving.search.search import Query, search

NAMES = {name for name, _, _ in VIDEOS}


@pytest.fixture(scope="module")
def server(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, Serving]]:
    served = [
        small.served(),
        small.served("labels", small.other("classification"), clip={"frames": 2, "size": 32}, test={"clips": 2, "crops": 1}),
        small.served("answers", small.other("question_answering"), answers=list(ANSWERS), max_question_length=8),
    ]
    with started(served, tmp_path_factory.mktemp("cache"), Limits(upload_mib=0.5)) as found:
        yield found


@pytest.fixture
def client(server: tuple[TestClient, Serving]) -> TestClient:
    return server[0]


def hits(client: TestClient, **asked: Any) -> list[dict[str, Any]]:
    found = client.get("/api/search", params={"q": "a disc", **asked})
    assert found.status_code == 200, found.text
    return list(found.json()["hits"])


def edition(client: TestClient) -> str:
    return str(client.get("/api/models").json()[0]["index"]["edition"])


def refused(found: Any, status: int) -> str:
    assert found.status_code == status, found.text
    assert set(found.json()) == {"detail"}
    return str(found.json()["detail"])


def test_models_say_what_they_are(client: TestClient, small: Small) -> None:
    tiny, labels, answers = client.get("/api/models").json()
    assert (tiny["name"], tiny["kind"], tiny["champion"]) == ("tiny", "stage2", False)
    assert set(tiny["abilities"]) == {"videos", "texts", "match", "attention"}
    with Index.open(small.index) as index:
        named = {"generation": 1, "edition": index.edition}
    assert tiny["index"] == {**named, "files": 4, "windows": 12, "labels": ["ring", "star"], "splits": ["test"]}
    assert tiny["key"] == Index.open(small.index).model.key
    assert (labels["abilities"], labels["index"]) == (["classify"], None)
    assert (answers["abilities"], answers["index"]) == (["ask"], None)


@pytest.mark.parametrize("rerank", [0, 6])
def test_a_sentence_finds_what_the_library_finds(client: TestClient, small: Small, rerank: int) -> None:
    found = client.get("/api/search", params={"q": "  a disc\n", "k": 5, "rerank": rerank}).json()
    with Index.open(small.index) as index:
        expected = search(umt.load(small.model).embedder, index, Query(text="a disc", k=5, rerank=rerank))
    assert [hit["window"] for hit in found["hits"]] == [hit.window for hit in expected.hits]
    for hit, other in zip(found["hits"], expected.hits, strict=True):
        assert hit["score"] == pytest.approx(other.score, abs=1e-5)
        assert (hit["match"] is None) == (rerank == 0)
        assert (hit["file"], hit["path"], hit["start_s"]) == (other.file_id, other.path, other.start_s)
    assert (found["query"], found["model"], found["generation"]) == ("a disc", "tiny", 1)
    assert found["took_ms"]["total"] > 0
    assert not found["nothing_found"]


def test_filters_hold(client: TestClient) -> None:
    assert {hit["label"] for hit in hits(client, label="star")} == {"star"}
    assert {hit["name"] for hit in hits(client, path="*.avi")} == {"old.avi"}
    assert hits(client, before="2000-01-01") == []
    assert {hit["name"] for hit in hits(client, after="2000-01-01", split="test", k=100)} == NAMES
    found = client.get("/api/search", params={"q": "x", "label": "square"})
    assert "expected one of 'ring', 'star'" in refused(found, 422)


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({"q": ""}, 422, "q:"),
        ({"q": " \n"}, 422, "nothing to read"),
        ({"q": "x" * 10_240}, 422, "2000"),
        ({}, 422, "q:"),
        ({"q": "x", "k": "0"}, 422, "k:"),
        ({"q": "x", "k": "many"}, 422, "k:"),
        ({"q": "x", "rerank": "100000"}, 422, "rerank:"),
        ({"q": "x", "model": "../x"}, 404, "tiny"),
        ({"q": "x", "model": "labels"}, 422, "has an index"),
        ({"q": "x", "after": "yesterday"}, 422, "after:"),
    ],
)
def test_what_cannot_be_answered_is_said(client: TestClient, asked: dict[str, str], status: int, words: str) -> None:
    assert words in refused(client.get("/api/search", params=asked), status)


@pytest.mark.parametrize("text", ["ein roter Bus", "红色的公共汽车", "🚌 حافلة", "a\x00b", "x" * 2000, "%00", "' OR 1=1 --"])
def test_any_text_is_a_query(client: TestClient, text: str) -> None:
    assert len(hits(client, q=text)) > 0


def test_a_window_has_neighbours_that_are_not_itself(client: TestClient) -> None:
    window = hits(client)[0]["window"]
    found = client.get("/api/similar", params={"window": window, "k": 3}).json()
    assert found["hits"]
    assert window not in [hit["window"] for hit in found["hits"]]
    assert refused(client.get("/api/similar", params={"window": 12}), 404).startswith("window 12: expected one of 12")
    assert client.get("/api/similar", params={"window": 2**70}).status_code == 422
    assert "search again" in refused(client.get("/api/similar", params={"window": 1, "edition": "0" * 16}), 409)


def test_an_uploaded_clip_finds_what_the_library_finds(client: TestClient, small: Small, tmp_path: Path) -> None:
    content = (small.videos / "two.mp4").read_bytes()
    found = client.post("/api/similar", files={"file": ("../../etc/x.mp4", content)}, params={"k": 4})
    assert found.status_code == 200, found.text
    assert found.json()["query"] == "x.mp4"
    with Index.open(small.index) as index:
        expected = search(umt.load(small.model).embedder, index, Query(video=small.videos / "two.mp4", k=4))
    first = found.json()["hits"][0]
    assert first["window"] == expected.hits[0].window
    assert first["score"] == pytest.approx(expected.hits[0].score, abs=1e-5)
    picture = tmp_path / "a.png"
    Image.effect_noise((64, 64), 50).save(picture)
    assert client.post("/api/similar", files={"file": picture.read_bytes()}).status_code == 200


def test_uploads_that_are_no_videos_are_refused_with_the_reason(client: TestClient, tmp_path: Path) -> None:
    def send(content: bytes) -> Any:
        return client.post("/api/similar", files={"file": ("a.mp4", content)})

    assert "not_a_video" in refused(send(b"hello"), 415)
    assert "empty_file" in refused(send(b""), 422)
    whole = write_video(tmp_path / "a.mp4").read_bytes()
    assert refused(send(whole[: len(whole) // 2]), 415)
    assert "0.5 MiB" in refused(send(b"x" * 2**20), 413)
    assert "file" in refused(client.post("/api/similar"), 422)
    assert refused(client.post("/api/similar", content=b"--x", headers={"Content-Type": "multipart/form-data"}), 400)


def test_no_upload_is_left_behind(client: TestClient, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for content in ((small.videos / "one.mp4").read_bytes(), b"hello", b"x" * 2**20):
        client.post("/api/similar", files={"file": content})
    assert list(tmp_path.iterdir()) == []


def test_why_says_where_the_model_looked(client: TestClient) -> None:
    hit = hits(client)[0]
    found = client.get("/api/why", params={"window": hit["window"], "q": "a disc"}).json()
    assert found["score"] == pytest.approx(hit["score"], abs=1e-5)
    assert isinstance(found["match"], float)
    assert sum(frame["weight"] for frame in found["frames"]) == pytest.approx(1.0, abs=1e-4)
    assert all(hit["start_s"] <= frame["second"] < hit["end_s"] for frame in found["frames"])
    for frame in found["frames"]:
        picture = client.get(frame["image_url"])
        assert (picture.status_code, picture.headers["content-type"]) == (200, "image/jpeg")
    assert client.get("/pictures/why-../../x.jpg").status_code in (404, 422)
    assert client.get(f"/pictures/why-{'0' * 32}-000.jpg").status_code == 404


def test_media_is_given_in_parts(client: TestClient, small: Small) -> None:
    path = small.videos / "one.mp4"
    content, address = path.read_bytes(), f"/media/{sha256_file(path)}"
    whole = client.get(address)
    assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, content, "video/mp4")
    assert whole.headers["accept-ranges"] == "bytes"
    head = client.head(address)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(content)))
    for asked, expected in (("bytes=10-19", content[10:20]), ("bytes=-7", content[-7:]), ("bytes=100-", content[100:])):
        part = client.get(address, headers={"Range": asked})
        assert (part.status_code, part.content) == (206, expected)
        assert part.headers["content-range"].endswith(f"/{len(content)}")
    beyond = client.get(address, headers={"Range": f"bytes={len(content)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(content)}")
    assert client.get(address, headers={"Range": "lines=1-2"}).status_code == 400
    same = {"Range": "bytes=0-1", "If-Range": whole.headers["etag"]}
    assert client.get(address, headers=same).status_code == 206
    assert client.get(address, headers=same | {"If-Range": '"another"'}).status_code == 200
    several = client.get(address, headers={"Range": "bytes=0-1,5-6"})
    assert several.headers["content-type"].startswith("multipart/byteranges")


def test_what_browsers_cannot_play_comes_as_what_they_can(client: TestClient, small: Small, server: Any) -> None:
    address = f"/media/{sha256_file(small.videos / 'old.avi')}"
    found = client.get(address)
    assert (found.status_code, found.headers["content-type"]) == (200, "video/mp4")
    assert found.content[4:8] == b"ftyp"
    assert client.get(address, headers={"Range": "bytes=0-7"}).content == found.content[:8]


@pytest.mark.parametrize("file_id", ["0" * 64, "0" * 63, "../x", "%2e%2e%2fetc%2fpasswd", "A" * 64, "/etc/passwd"])
def test_only_files_of_the_index_are_given(client: TestClient, file_id: str) -> None:
    assert client.get(f"/media/{file_id}").status_code in (404, 422)
    assert client.get(f"/static/{file_id}").status_code == 404


def test_windows_have_thumbnails(client: TestClient) -> None:
    for hit in hits(client):
        found = client.get(hit["thumbnail_url"])
        assert (found.status_code, found.headers["content-type"]) == (200, "image/jpeg")
        assert found.content[:3] == b"\xff\xd8\xff"
    assert client.get("/thumbnails/tiny/12.jpg").status_code == 404
    assert client.get("/thumbnails/other/0.jpg").status_code == 404
    assert client.get("/thumbnails/tiny/0.jpg?edition=0123456789abcdef").status_code == 409
    assert client.get("/thumbnails/tiny/x.jpg").status_code == 422


def test_labels_and_answers_are_given_by_models_that_have_them(
    client: TestClient, server: tuple[TestClient, Serving], small: Small
) -> None:
    path, shelf = small.videos / "one.mp4", server[1].shelf
    content = path.read_bytes()
    window = next(hit["window"] for hit in hits(client, k=100) if hit["name"] == "one.mp4")
    span = shelf.get("tiny").place(window).span
    by_file = client.post("/api/classify", files={"file": content})
    assert by_file.status_code == 200, by_file.text
    shown = client.post("/api/classify", data={"window": window}).json()
    assert shown != by_file.json(), "of a window, and not of its file"
    expected = shelf.now("labels").model.classify([path], [span]).best(0)
    assert {task: [(one["label"], one["probability"]) for one in said] for task, said in shown["tasks"].items()} == expected
    tasks = by_file.json()["tasks"]
    assert {task: {one["label"] for one in said} for task, said in tasks.items()} == {
        "motion": set(MOTIONS),
        "shape": set(SHAPES),
    }
    for said in tasks.values():
        shares = [one["probability"] for one in said]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1.0)
    asked = client.post("/api/ask", data={"question": "what goes", "window": window})
    assert {one["text"] for one in asked.json()["answers"]} == set(ANSWERS)
    said_of = [(one["text"], one["probability"]) for one in asked.json()["answers"]]
    assert said_of == [(one.text, one.probability) for one in shelf.now("answers").model.ask(path, "what goes", span)]
    assert client.post("/api/ask", data={"question": "what goes"}, files={"file": content}).json() != asked.json()
    for address in ("/api/classify", "/api/ask"):
        about = {"window": window, "question": "what goes"}
        assert client.post(address, data={**about, "edition": edition(client)}).status_code == 200
        assert "search again" in refused(client.post(address, data={**about, "edition": "0" * 16}), 409)


def test_labels_and_answers_of_nothing_are_refused(client: TestClient) -> None:
    assert "one of file and window" in refused(client.post("/api/classify"), 422)
    assert "both" in refused(client.post("/api/classify", data={"window": 0}, files={"file": b"x"}), 422)
    assert "is able to classify" in refused(client.post("/api/classify", data={"window": 0, "model": "tiny"}), 422)
    assert "blank" in refused(client.post("/api/ask", data={"window": 0, "question": "  "}), 422)
    assert "not_a_video" in refused(client.post("/api/classify", files={"file": b"x"}), 415)


def test_health_embeds_and_compares(client: TestClient, server: tuple[TestClient, Serving]) -> None:
    found = client.get("/healthz")
    assert (found.status_code, found.json()) == (200, {"status": "ok", "problems": []})


def test_a_model_that_says_something_else_is_not_well(small: Small, cache: Path) -> None:
    served = small.served()
    with started([served], cache, Limits(health_rest=0)) as (client, _):
        assert client.get("/healthz").status_code == 200
        embedder = served.embedder
        weights = dict(embedder.encoder.model.named_parameters())  # type: ignore[attr-defined]
        name = next(name for name in weights if "text" in name and name.endswith("weight"))
        weights[name].data[:] = np.nan
        found = client.get("/healthz")
        assert found.status_code == 503
        assert any("the known text's vector" in problem for problem in found.json()["problems"])
        assert "umt_healthy 0.0" in client.get("/metrics").text
        assert client.get("/api/search", params={"q": "x"}).status_code == 500, "no answer of no numbers"


def test_who_asks_for_health_all_the_time_costs_little(small: Small, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def check(served: Served) -> list[str]:
        checked.append(served.name)
        time.sleep(0.01)
        return []

    monkeypatch.setattr(health, "_problems", check)
    with started([small.served()], cache, Limits(health_rest=1e6)) as (client, _):
        assert {client.get("/healthz").status_code for _ in range(5)} == {200}
    assert checked == ["tiny"]


def test_prometheus_is_told(client: TestClient) -> None:
    hits(client)
    client.get("/nothing/here")
    said = client.get("/metrics").text
    assert 'umt_requests_total{method="GET",route="/api/search",status="200"}' in said
    assert 'umt_requests_total{method="GET",route="other",status="404"}' in said
    assert 'umt_index_generation{model="tiny"} 1.0' in said
    assert "umt_text_batch_size_bucket" in said
    assert "umt_queue_length 0.0" in said


def test_the_page_and_the_description_are_there(client: TestClient) -> None:
    page = client.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert client.get("/static/app.js").status_code == 200
    described = client.get("/openapi.json").json()
    assert {"/api/search", "/api/similar", "/api/why", "/media/{file_id}", "/healthz"} <= set(described["paths"])
    for path in ("/docs", "/redoc", "/static/", "/static/../app.py", "/static/%2e%2e/app.py"):
        assert client.get(path).status_code == 404


def test_a_full_queue_is_503_with_retry_after(small: Small, cache: Path) -> None:
    import threading

    with started([small.served()], cache, Limits(queue=1)) as (client, serving):
        end = threading.Event()
        began = threading.Event()

        def hold() -> None:
            began.set()
            end.wait(20)

        serving.thread.hand(hold)
        assert began.wait(5)
        waiting = serving.thread.hand(lambda: None)
        found = client.get("/api/search", params={"q": "x"})
        end.set()
        waiting.result(5)
        assert "ask again" in refused(found, 503)
        assert int(found.headers["retry-after"]) >= 1
        assert client.get("/api/search", params={"q": "x"}).status_code == 200
        assert 'umt_refused_total{what="queue"} 1.0' in client.get("/metrics").text


def test_files_that_changed_or_went_are_refused(own: Small, cache: Path) -> None:
    one, two, old = (own.videos / name for name in ("one.mp4", "two.mp4", "old.avi"))
    ids = {path: sha256_file(path) for path in (one, two, old)}
    with started([own.served()], cache) as (client, _):
        assert client.get(f"/media/{ids[one]}").status_code == 200
        one.write_bytes(two.read_bytes())
        assert str(own.folder) not in refused(client.get(f"/media/{ids[one]}"), 409)
        two.unlink()
        assert str(own.folder) not in refused(client.get(f"/media/{ids[two]}"), 410)
        secret = own.folder / "secret"
        secret.write_text("secret")
        old.unlink()
        old.symlink_to(secret)
        refused(client.get(f"/media/{ids[old]}"), 409)
        windows = {hit["name"]: hit["window"] for hit in hits(client, k=100)}
        assert set(windows) == NAMES, "the index still knows them"
        assert client.get(f"/thumbnails/tiny/{windows['two.mp4']}.jpg").status_code == 410
        assert client.get("/api/why", params={"window": windows["old.avi"], "q": "x"}).status_code == 409
        assert len(hits(client, rerank=10)) > 0
