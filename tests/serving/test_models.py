"""A model as a notebook uses it, whatever kind it is of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import umt_pipeline as umt
from tests.evaluation.tiny import VISION, make_tables
from tests.serving.folders import ANSWERS, MOTIONS, SHAPES, write_clip, write_folder
from umt_pipeline.core.errors import CheckpointError, ConfigError, VideoError
from umt_pipeline.core.files import write_json
from umt_pipeline.evaluation.encoders import VideoTextEncoder, clip_loader
from umt_pipeline.evaluation.tables import Tables
from umt_pipeline.models.video_text import load_video_text
from umt_pipeline.serving.describing import describe
from umt_pipeline.serving.models import Model
from umt_pipeline.serving.sources import find
from umt_pipeline.video.reader import read_frames

OPTIONS: dict[str, Any] = {
    "teacher": {"frames": 2},
    "classification": {"test": {"clips": 2, "crops": 1}},
    "question_answering": {"answers": ANSWERS, "max_question_length": 8},
}
KINDS = ("teacher", "stage1", "stage2", "classification", "question_answering")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return make_tables(tmp_path_factory.mktemp("media"), ("train", "test", "test"))


@pytest.fixture(scope="module")
def paths(tables: Tables) -> list[Path]:
    clips = tables.videos[tables.videos["media"] == "video"]
    return [tables.media_root / path for path in clips["path"]]


@pytest.fixture(scope="module")
def folders(tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: write_folder(kind, root / kind, tables) for kind in KINDS}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Model]:
    return {kind: umt.load(folder, "fp32", **OPTIONS.get(kind, {})) for kind, folder in folders.items()}


def test_clips_and_texts_are_embedded_as_the_evaluation_does(
    tables: Tables, paths: list[Path], folders: dict[str, Path], models: dict[str, Model]
) -> None:
    videos = models["stage2"].embed_videos(paths).all()
    texts = models["stage2"].embed_texts(["a disc", "a star that moves"])
    torch.testing.assert_close(torch.cat([videos, texts]).norm(dim=1), torch.ones(5))
    network, tokenizer = load_video_text(folders["stage2"])
    encoder = VideoTextEncoder("x", network.eval(), tokenizer)
    load = clip_loader(tables.videos, tables.media_root)
    clips = tables.videos[tables.videos["media"] == "video"]
    frames = torch.from_numpy(np.stack([load(name, encoder.view) for name in clips["video_id"]]))
    with torch.inference_mode():
        torch.testing.assert_close(videos, encoder.encode(frames)["x/embedding"])


@pytest.mark.parametrize("kind", ["teacher", "stage1", "stage2"])
def test_what_cannot_be_read_is_a_failure_by_its_number(
    tmp_path: Path, paths: list[Path], models: dict[str, Model], kind: str
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    frames = read_frames(paths[0], range(3))
    found = models[kind].embed_videos([paths[0], tmp_path / "broken.mp4", frames, paths[0].read_bytes(), b"nothing"])
    assert sorted(found.failures) == [1, 4]
    assert "broken.mp4" in found.failures[1]
    assert found.vectors.isnan().all(dim=1).tolist() == [False, True, False, False, True]
    torch.testing.assert_close(found.vectors[0], found.vectors[3])
    with pytest.raises(VideoError, match=r"2 of the videos cannot be read: video 1: .*broken\.mp4.*; video 4: .*7 bytes"):
        found.all()
    assert models[kind].embed_videos([tmp_path / "broken.mp4"]).vectors.shape == (1, found.vectors.shape[1])
    assert models[kind].embed_videos([]).all().shape == (0, found.vectors.shape[1])


def test_a_tensor_of_clips_is_a_list_of_videos(paths: list[Path], models: dict[str, Model]) -> None:
    clips = torch.from_numpy(np.stack([read_frames(path, range(3)) for path in (paths[0], paths[2])]))
    found = models["stage2"].embed_videos(clips).all()
    torch.testing.assert_close(found, models["stage2"].embed_videos(list(clips)).all())
    match = models["stage2"].match(clips, ["a disc", "a star"])
    torch.testing.assert_close(match, models["stage2"].match([clips[0], clips[1]], ["a disc", "a star"]))


def test_one_video_in_place_of_a_list_is_refused(paths: list[Path], models: dict[str, Model]) -> None:
    for one in (str(paths[0]), paths[0], b"", read_frames(paths[0], [0])):
        with pytest.raises(ConfigError, match="expected a list of videos or texts, found one of type"):
            models["stage2"].embed_videos(one)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="found one of type str"):
        models["stage2"].embed_texts("a disc")


def test_pairs_are_matched_whatever_their_order(paths: list[Path], models: dict[str, Model]) -> None:
    model = models["stage2"]
    found = model.match([paths[2], paths[0], paths[2]], ["a disc", "a star", "star moving up"])
    alone = [model.match([path], [text])[0] for path, text in [(paths[2], "a disc"), (paths[0], "a star")]]
    torch.testing.assert_close(found[:2], torch.stack(alone))
    with pytest.raises(ValueError, match="found 1 videos and 2 texts"):
        model.match([paths[0]], ["a", "b"])
    with pytest.raises(VideoError, match=r"nowhere\.mp4"):
        model.match([paths[0], "nowhere.mp4"], ["a", "b"])


def test_a_frame_averaged_clip_reads_texts(tmp_path: Path, paths: list[Path]) -> None:
    model = umt.load(f"open_clip:local-dir:{write_clip(tmp_path / 'clip')}", "fp32", frames=3)
    assert model.kind == "open_clip"
    assert model.embedder is not None
    assert model.embedder.view.frames == 3
    assert model.abilities == {"videos", "texts", "attention"}
    texts = model.embed_texts(["a disc", "a star"])
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(2))
    assert (model.embed_videos(paths).all() @ texts.T).shape == (3, 2)


def test_classifiers_say_the_likeliest_label(tmp_path: Path, paths: list[Path], models: dict[str, Model]) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no film")
    said = models["classification"].classify([paths[0], broken, paths[1].read_bytes()])
    assert said.classes == {"motion": MOTIONS, "shape": SHAPES}
    assert list(said.failures) == [1]
    for task in ("motion", "shape"):
        np.testing.assert_allclose(said.probabilities[task].sum(axis=1), [1, np.nan, 1])
    best = said.best(0, 2)
    assert {task: len(rows) for task, rows in best.items()} == {"motion": 2, "shape": 2}
    assert best["shape"][0][1] == said.probabilities["shape"][0].max() >= best["shape"][1][1]
    for refused in (said.all, lambda: said.best(1)):
        with pytest.raises(VideoError, match=r"1 of the videos cannot be read: .*broken\.mp4"):
            refused()


def test_questions_are_answered_from_the_list(
    tmp_path: Path, paths: list[Path], folders: dict[str, Path], models: dict[str, Model]
) -> None:
    said = models["question_answering"].ask(paths[0], "what goes left")
    assert {answer.text for answer in said} == set(ANSWERS)
    shares = [answer.probability for answer in said]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) < 1
    write_json(tmp_path / "answers.json", list(ANSWERS))
    options = {**OPTIONS["question_answering"], "answers": tmp_path / "answers.json"}
    again = umt.load(folders["question_answering"], "fp32", **options).ask(read_frames(paths[0], range(3)), "what goes left")
    assert [answer.text for answer in again] == [answer.text for answer in said]
    with pytest.raises(ConfigError, match="question 0: expected a text"):
        models["question_answering"].ask(paths[0], "  ")
    with pytest.raises(VideoError, match=r"nowhere\.mp4"):
        models["question_answering"].ask("nowhere.mp4", "what goes left")


CALLS: dict[str, Any] = {
    "videos": lambda model, path: model.embed_videos([path]),
    "texts": lambda model, path: model.embed_texts(["a disc"]),
    "match": lambda model, path: model.match([path], ["a disc"]),
    "classify": lambda model, path: model.classify([path]),
    "ask": lambda model, path: model.ask(path, "what"),
    "attention": lambda model, path: model.attention(path),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_does_what_it_says_and_refuses_the_rest(
    paths: list[Path], folders: dict[str, Path], models: dict[str, Model], kind: str
) -> None:
    model = models[kind]
    assert tuple(sorted(model.abilities)) == tuple(sorted(describe(find(folders[kind], {})).abilities))
    for ability, call in CALLS.items():
        if ability in model.abilities - {"texts"}:  # the tiny teacher's tokenizer has more words than its tower
            call(model, paths[0])
        elif ability not in model.abilities:
            with pytest.raises(ConfigError, match=f"a model of kind '{kind}' can do .*'{ability}' was asked of it"):
                call(model, paths[0])


def test_sizes_are_those_of_the_folder(models: dict[str, Model]) -> None:
    assert models["stage1"].embedder is not None
    assert models["stage1"].embedder.dim == VISION.dim
    assert models["classification"].classifiers is not None
    assert models["classification"].classifiers.clip.frames == VISION.frames


def test_what_is_no_video_is_a_failure_that_says_so(paths: list[Path], models: dict[str, Model]) -> None:
    odd: list[Any] = [paths[0], None, ["a"], "", "https://somewhere.org/clip.mp4"]
    for failures in (models["stage2"].embed_videos(odd).failures, models["classification"].classify(odd).failures):
        assert sorted(failures) == [1, 2, 3, 4]
        assert "found None" in failures[1]
        assert "one of type list" in failures[2]
        assert "https://somewhere.org/clip.mp4: expected a file on this machine" in failures[4]


def test_videos_of_a_table_are_taken_in_their_order(paths: list[Path], models: dict[str, Model]) -> None:
    model, pair = models["stage2"], paths[:2]
    expected = model.embed_videos(pair).all()
    shuffled = pd.Series([str(path) for path in pair], index=[1, 0])
    for given in (shuffled, np.array(pair), iter(pair)):
        torch.testing.assert_close(model.embed_videos(given).all(), expected)
    assert torch.equal(model.match(shuffled, pd.Series(["a", "b"], index=[1, 0])), model.match(pair, ["a", "b"]))
    for table in (shuffled.to_frame("video"), {"video": str(paths[0])}):
        with pytest.raises(ConfigError, match="one of its columns"):
            model.embed_videos(table)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", " ", None, 3, "\udcff"])
def test_what_is_no_text_is_refused_by_its_number(paths: list[Path], models: dict[str, Model], text: Any) -> None:
    for kind in ("stage2", "teacher"):
        with pytest.raises(ConfigError, match="text 1: expected a text"):
            models[kind].embed_texts(["a disc", text])
    with pytest.raises(ConfigError, match="text 0: expected a text"):
        models["stage2"].match(paths[:1], [text])
    with pytest.raises(ConfigError, match="question 0: expected a text"):
        models["question_answering"].ask(paths[0], text)


def test_an_option_that_the_model_cannot_follow_is_refused_when_it_is_loaded(folders: dict[str, Path]) -> None:
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("classification", {"clip": {"frames": 64}}, "clip: the model reads"),
        ("classification", {"clip": {"size": 96}}, "clip: the model reads"),
        ("question_answering", {"answers": ANSWERS, "max_question_length": 5000}, "max_question_length: the model reads up to"),
        ("stage2", {"precision": "fp16"}, "precision is 'fp16'"),
    ]
    for kind, options, message in wrong:
        with pytest.raises(ConfigError, match=message):
            umt.load(folders[kind], **options)


def test_a_teacher_is_known_by_what_it_computes_and_not_by_its_address(
    folders: dict[str, Path], models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders["teacher"].parent)
    for address in (folders["teacher"].name, f"open_clip:local-dir:{folders['teacher']}"):
        embedder = umt.load(address, "fp32", frames=2).embedder
        assert embedder is not None
        assert models["teacher"].embedder is not None
        assert embedder.key == models["teacher"].embedder.key
    other = umt.load(folders["teacher"], "fp32", frames=3).embedder
    assert other is not None
    assert other.key != embedder.key


def test_a_folder_of_models_is_told_from_a_model(folders: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match=r"name one of them \(.*stage1, stage2"):
        umt.load(folders["stage2"].parent)
