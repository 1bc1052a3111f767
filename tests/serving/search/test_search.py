"""Search as a person uses it: what is found, what is said of files that vanished, and what is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.features.tiny import make_teacher_folder, write_clip
from tests.serving.array_index import ArrayIndex, indexed
from umt_pipeline.core.errors import ConfigError, IndexingError, VideoError
from umt_pipeline.evaluation.encoders import TeacherEncoder
from umt_pipeline.models.teacher import TeacherConfig, load_teacher
from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.serving.inputs import clip_of
from umt_pipeline.serving.search.calibration import Cutoff, keep_cutoff
from umt_pipeline.serving.search.filters import Filters
from umt_pipeline.serving.search.search import Query, search
from umt_pipeline.serving.search.texts import MAX_TEXT
from umt_pipeline.video.views import ViewConfig

SECONDS = 3.0  # of each clip


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    paths = [folder / ("holiday" if number % 2 else "work") / f"clip {number}.mp4" for number in range(6)]
    for number, path in enumerate(paths):
        write_clip(path, int(10 * SECONDS), 40, 56, seed=number)
    return paths


@pytest.fixture
def index(embedder: Embedder, clips: list[Path], tmp_path: Path) -> ArrayIndex:
    """An index of copies, which a test may spoil."""
    copies = [tmp_path / path.parent.name / path.name for path in clips]
    for path, copy in zip(clips, copies, strict=True):
        copy.parent.mkdir(exist_ok=True)
        shutil.copy2(path, copy)
    return indexed(embedder, copies, tmp_path)


def test_a_text_finds_the_places_nearest_to_it(embedder: Embedder, index: ArrayIndex) -> None:
    found = search(embedder, index, Query(text="a disc moving left", k=4))
    cosine = index.vectors_NE @ embedder.encode_texts(["a disc moving left"]).numpy()[0]
    assert [hit.rank for hit in found.hits] == [1, 2, 3, 4]
    assert found.hits[0].score == pytest.approx(cosine.max())
    assert found.hits[0].window == cosine.argmax()
    assert [hit.score for hit in found.hits] == sorted((hit.score for hit in found.hits), reverse=True)
    assert not found.nothing_found
    assert found.answers == found.hits
    assert found.unusable == 0
    assert set(found.took) == {"embed", "nearest", "total"}
    again = search(embedder, index, Query(text="  a disc\nmoving\x00left ", k=4))
    assert again.hits == found.hits


def test_a_known_vector_of_a_text_is_not_computed_again(embedder: Embedder, index: ArrayIndex) -> None:
    vector = embedder.encode_texts(["a disc"]).numpy()[0]
    by_text = search(embedder, index, Query(text="a disc"))
    assert search(embedder, index, Query(text="a disc", vector=vector)).hits == by_text.hits
    assert search(None, index, Query(vector=vector)).hits == by_text.hits


def test_more_hits_than_places_are_all_places(embedder: Embedder, index: ArrayIndex) -> None:
    found = search(embedder, index, Query(text="a disc", k=10_000))
    assert {hit.path for hit in found.hits} == set(index.files["path"])
    assert len(found.hits) <= len(index.windows)


def test_cosine_and_matching_head_rank_anew_what_it_is_shown(embedder: Embedder, index: ArrayIndex) -> None:
    text = "a disc moving left"
    plain = search(embedder, index, Query(text=text, k=6)).hits
    found = search(embedder, index, Query(text=text, k=6, rerank=3))
    assert [hit.match is not None for hit in found.hits] == [True] * 3 + [False] * 3
    assert {hit.window for hit in found.hits[:3]} == {hit.window for hit in plain[:3]}
    assert [hit.window for hit in found.hits[3:]] == [hit.window for hit in plain[3:]]
    together = []
    for hit in found.hits[:3]:
        start, end = index.windows.loc[hit.window, ["start_s", "end_s"]]
        frames = torch.from_numpy(clip_of(hit.path, embedder.view, (start, end)))[None]
        no, yes = embedder.match_logits(frames, [text])[0].tolist()
        assert hit.match == pytest.approx(yes, abs=1e-5)
        together.append(hit.score / embedder.temperature + yes - no)
    assert together == sorted(together, reverse=True)
    assert "rerank" in found.took


def test_files_that_vanished_or_changed_are_found_and_it_is_said(embedder: Embedder, index: ArrayIndex) -> None:
    text = "a disc moving left"
    plain = search(embedder, index, Query(text=text, k=6)).hits
    gone, broken, touched = (Path(hit.path) for hit in plain[:3])
    gone.unlink()
    broken.write_bytes(b"no video")
    os.utime(touched, (0, 0))
    found = search(embedder, index, Query(text=text, k=6))
    assert [hit.window for hit in found.hits] == [hit.window for hit in plain]
    note_of = {hit.path: hit.note for hit in found.hits}
    assert note_of[str(gone)].startswith("the file cannot be opened: No such file")
    assert note_of[str(touched)] == "the file was changed after it was indexed: indexing again reads it anew"
    assert found.unusable == sum(bool(note) for note in note_of.values())
    ranked = search(embedder, index, Query(text=text, k=6, rerank=3)).hits
    # What can be looked at comes first, then what cannot, in the order that it had.
    assert [hit.path for hit in ranked[:3]] == [str(touched), str(gone), str(broken)]
    assert ranked[0].match is not None
    assert "changed" in ranked[0].note
    assert [hit.match for hit in ranked[1:3]] == [None, None]
    assert "missing_file" in ranked[1].note
    assert str(gone) in ranked[1].note
    assert str(broken) in ranked[2].note


def test_a_clip_finds_what_looks_like_it_but_not_itself(embedder: Embedder, index: ArrayIndex, clips: list[Path]) -> None:
    """Known by content: as a file of any name, and as bytes."""
    for video in (clips[2], clips[2].read_bytes(), str(clips[2])):
        found = search(embedder, index, Query(video=video, k=10))
        assert {Path(hit.path).name for hit in found.hits} == {f"clip {number}.mp4" for number in (0, 1, 3, 4, 5)}
        assert found.cutoff is None
    part = search(embedder, index, Query(video=clips[2], span=(0.0, 1.0), k=10))
    (own,) = [hit for hit in part.hits if Path(hit.path).name == "clip 2.mp4"]
    assert (own.start_s, own.end_s) == (1.5, 3.0)
    frames = clip_of(clips[2], embedder.view, (0.0, 1.5))
    best = search(embedder, index, Query(video=frames)).hits[0]
    assert Path(best.path).name == "clip 2.mp4"
    assert best.score == pytest.approx(1.0)


def test_a_window_finds_its_like_elsewhere(embedder: Embedder, index: ArrayIndex) -> None:
    found = search(None, index, Query(window=4, k=10))
    assert {Path(hit.path).name for hit in found.hits} == {f"clip {number}.mp4" for number in (0, 1, 3, 4, 5)}
    assert found.hits == search(embedder, index, Query(window=4, k=10)).hits
    with pytest.raises(IndexingError, match=r"expected a window below 12, found 12"):
        search(None, index, Query(window=12))


def test_filters_leave_out_what_is_not_wanted(embedder: Embedder, index: ArrayIndex) -> None:
    def names(**filters: str) -> set[int]:
        found = search(embedder, index, Query(text="a disc", k=99, filters=Filters(**filters)))
        return {int(Path(hit.path).stem.split()[1]) for hit in found.hits}

    index.files["date"] = [f"2024-05-0{day}T23:30:00+00:00" for day in range(1, 7)]
    assert names(label="disc") == {0, 3}
    assert names(split="train") == {1, 3, 5}
    assert names(label="disc", split="train") == {3}
    assert names(path="holiday/*") == names(path="*holiday*") == {1, 3, 5}
    assert names(path="clip [24].mp4") == {2, 4}
    assert names(path="clip") == names(path="oliday/*") == set()
    assert names(after="2024-05-03", before="2024-05-05") == {2, 3}
    assert names(after="2024-05-04T01:30+02:00") == {2, 3, 4, 5}
    assert names(before="2024-05-04T01:30+02:00") == {0, 1}
    with pytest.raises(ConfigError, match=r"label 'dics': expected one of 'disc', 'star'"):
        names(label="dics")
    with pytest.raises(ConfigError, match=r"after: expected a date such as 2024-05-01 or .*, found 'yesterday'"):
        names(after="yesterday")


def test_nothing_found_is_an_answer(embedder: Embedder, index: ArrayIndex) -> None:
    best = search(embedder, index, Query(text="a disc", k=3)).hits
    cut = Cutoff(
        score=(best[0].score + best[1].score) / 2, missed=0.1, invented=0.2, present=40, absent=40, hidden=True, windows=12
    )
    keep_cutoff(index, cut)
    found = search(embedder, index, Query(text="a disc", k=3))
    assert found.answers == best[:1]
    assert found.hits == best
    assert not found.nothing_found
    keep_cutoff(index, cut.model_copy(update={"score": 0.999}))
    found = search(embedder, index, Query(text="a disc", k=3))
    assert found.nothing_found
    assert found.hits == best
    nowhere = Filters(path="nowhere/*")
    assert search(embedder, index, Query(text="a disc", filters=nowhere)).nothing_found


def test_a_text_of_unknown_words_has_no_answer(embedder: Embedder, index: ArrayIndex) -> None:
    found = search(embedder, index, Query(text="красный автобус"))
    assert found.nothing_found
    assert found.hits
    assert found.reading is not None
    assert found.reading.notes == ["the model knows no word of this text: it was trained with other words, or another script"]
    mixed = search(embedder, index, Query(text="a disc автобус"))
    assert mixed.reading is not None
    assert "tokens are unknown" in mixed.reading.notes[0]
    assert mixed.answers


def test_a_text_of_ten_kilobytes_is_cut_and_it_is_said(embedder: Embedder, index: ArrayIndex) -> None:
    found = search(embedder, index, Query(text="a disc " * 1500))
    assert found.reading is not None
    assert found.reading.notes == ["the model reads the first 10 of the text's 3000 tokens"]
    assert found.hits == search(embedder, index, Query(text="a disc " * 5)).hits


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"text": ""}, "the text: expected a sentence or a word, found nothing to read"),
        ({"text": " \t\x00\ud800 "}, "the text: expected a sentence or a word, found nothing to read"),
        ({"text": "a" * (MAX_TEXT + 1)}, "the text: expected at most 20,000 characters, found 20,001"),
        ({}, "a query: expected one of text, vector, video and window, found none"),
        ({"text": "a", "window": 1}, "a query: expected one of text, vector, video and window, found text and window"),
        ({"text": "a", "k": 0}, "k: expected at least 1, found 0"),
        ({"text": "a", "rerank": -1}, "rerank: expected a number of places"),
        ({"text": "a", "span": (0.0, 1.0)}, "span: expected a video that it is a part of"),
        ({"window": 1, "rerank": 4}, "rerank: expected a number of places, and a text that they are matched with, found 4"),
    ],
)
def test_queries_that_cannot_work_are_refused(query: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Query(**query)


def test_what_an_index_cannot_answer_is_refused(embedder: Embedder, index: ArrayIndex, clips: list[Path]) -> None:
    other = ArrayIndex(index.vectors_NE, [(0, 0.0, 1.0)] * 12)
    with pytest.raises(IndexingError, match=r"expected the model whose vectors it holds, tiny \(key abababababab\)"):
        search(embedder, other, Query(text="a disc"))
    with pytest.raises(ConfigError, match=r"vector: expected 8 finite numbers"):
        search(None, index, Query(vector=np.ones(9, dtype=np.float32)))
    with pytest.raises(ConfigError, match=r"vector: expected 8 finite numbers"):
        search(None, index, Query(vector=np.full(8, np.nan, dtype=np.float32)))
    with pytest.raises(ConfigError, match=r"expected the model that the index was made with, found none"):
        search(None, index, Query(text="a disc"))
    with pytest.raises(VideoError, match=r"missing_file: .*nothing\.mp4"):
        search(embedder, index, Query(video=clips[0].with_name("nothing.mp4")))


def test_a_clip_model_searches_but_matches_nothing(tmp_path: Path, clips: list[Path]) -> None:
    """No text is unknown to it."""
    teacher = load_teacher(make_teacher_folder(tmp_path / "clip"), TeacherConfig(layers=1), 4)
    blind = Embedder("teacher", TeacherEncoder(teacher, ViewConfig(frames=2, size=32)), "teacher_cls")
    index = indexed(blind, clips, tmp_path)
    assert len(search(blind, index, Query(video=clips[0])).hits) == 5
    with pytest.raises(ConfigError, match=r"rerank: a model of kind 'teacher' has no matching head"):
        search(blind, index, Query(text="a disc", rerank=2))
    with pytest.raises(ConfigError, match=r"reads no text"):
        search(blind, index, Query(text="a disc"))
