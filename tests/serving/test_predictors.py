"""What models of each kind say of a table: what their tests, or the library's own functions, say of the same clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import umt_pipeline as umt
from tests.evaluation.tiny import VISION, make_tables
from tests.serving.folders import ANSWERS, MOTIONS, SHAPES, write_folder
from umt_pipeline.core.errors import CheckpointError, ConfigError, VideoError
from umt_pipeline.evaluation.encoders import VideoEncoder, VideoTextEncoder, clip_loader
from umt_pipeline.evaluation.tables import Tables
from umt_pipeline.evaluation.workers import Workers
from umt_pipeline.models.video_text import load_video_text
from umt_pipeline.models.vision import load_vision
from umt_pipeline.serving.files import load_frames
from umt_pipeline.serving.predictors import Predictor, load_predictor
from umt_pipeline.serving.settings import ClassificationSettings
from umt_pipeline.tasks.classification.model import load_classifier
from umt_pipeline.tasks.classification.testing import predict

SETTINGS: dict[str, dict[str, Any]] = {
    "teacher": {"teacher": {"layers": 2}, "view": {"frames": 2, "size": 32}, "grid": 4},
    "classification": {"clip": {"frames": 2, "size": 32}, "test": {"clips": 2, "crops": 1}},
    "question_answering": {"answers": list(ANSWERS), "max_question_length": 8},
    "detection": {"recipe": {"clip": {"frames": 2, "size": 32, "short_side": 32, "stride": 1}}},
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return make_tables(tmp_path_factory.mktemp("media"), ("train", "test", "test"))


@pytest.fixture(scope="module")
def paths(tables: Tables) -> list[str]:
    clips = tables.videos[tables.videos["media"] == "video"]
    return [str(tables.media_root / path) for path in clips["path"]]


def predictor(tmp_path: Path, tables: Tables, kind: str) -> Predictor:
    folder = write_folder(kind, tmp_path / kind, tables)
    return load_predictor(kind, folder, SETTINGS.get(kind, {}), "fp32")


def test_stage_2_embeds_videos_and_texts(tmp_path: Path, tables: Tables, paths: list[str]) -> None:
    model = predictor(tmp_path, tables, "stage2")
    known = umt.load(tmp_path / "stage2", "fp32")
    assert model.predict(paths)["embedding"].tolist() == known.embed_videos(paths).all().tolist(), "a list is of videos"
    texts = pd.DataFrame({"text": ["a disc", "a star"]}, index=[7, 3])
    found = model.predict(texts)
    assert found.index.tolist() == [7, 3]
    assert found["embedding"].tolist() == known.embed_texts(["a disc", "a star"]).tolist()
    mixed = model.predict(pd.DataFrame({"video": [paths[0], None], "text": [None, "a star"]}))
    expected = [known.embed_videos(paths[:1]).all()[0].tolist(), known.embed_texts(["a star"])[0].tolist()]
    assert mixed["embedding"].tolist() == expected


def test_pairs_get_the_score_that_the_evaluation_ranks_by(tmp_path: Path, tables: Tables, paths: list[str]) -> None:
    model = predictor(tmp_path, tables, "stage2")
    pairs = pd.DataFrame({"video": [paths[2], paths[0], paths[2]], "text": ["a disc", "a star", "star moving up"]})
    found = model.predict(pairs)
    network, tokenizer = load_video_text(tmp_path / "stage2")
    encoder = VideoTextEncoder("x", network.eval(), tokenizer, keep_tokens=True)
    clips = tables.videos[tables.videos["media"] == "video"]["video_id"].tolist()
    read = clip_loader(tables.videos, tables.media_root)
    with torch.inference_mode():
        tokens = torch.cat([encoder.encode(torch.from_numpy(read(clip, encoder.view))[None])["x/tokens"] for clip in clips])
    text, mask, _ = encoder.encode_text(pairs["text"].tolist())
    expected = encoder.pair_scorer(text, mask, tokens)(np.array([1, 0, 2]), np.array([0, 2, 2]))[:, 1]
    np.testing.assert_allclose(found["match"], expected[[1, 0, 2]], rtol=1e-5)
    known = umt.load(tmp_path / "stage2", "fp32")
    cosines = (known.embed_videos(pairs["video"].tolist()).all() * known.embed_texts(pairs["text"].tolist())).sum(dim=1)
    np.testing.assert_array_equal(found["cosine"], cosines)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"caption": ["a disc"]}, "expected columns video, text or both, found caption"),
        ({"video": ["a.mp4", "b.mp4"], "text": ["a disc", None]}, "row 0: .* both, but not in each row"),
        ({"video": [None], "text": [None]}, "row 0: .* neither"),
        ({"video": []}, "at least one row"),
    ],
)
def test_tables_that_mean_nothing_are_refused(tmp_path: Path, tables: Tables, table: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        predictor(tmp_path, tables, "stage2").predict(pd.DataFrame(table))


def test_encoders_embed_videos(tmp_path: Path, tables: Tables, paths: list[str]) -> None:
    found = predictor(tmp_path, tables, "stage1").predict(paths)["embedding"]
    assert np.array(found.tolist()).shape == (3, VISION.dim)
    encoder = VideoEncoder("x", load_vision(tmp_path / "stage1")[0])
    first = load_frames(paths[0], encoder.view)
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(encoder.encode(torch.from_numpy(first)[None])["x"], dim=1)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-6)
    teacher = np.array(predictor(tmp_path, tables, "teacher").predict(pd.DataFrame({"video": paths}))["embedding"].tolist())
    assert teacher.shape == (3, 16)
    np.testing.assert_allclose(np.linalg.norm(teacher, axis=1), 1.0, rtol=1e-5)


def test_classifiers_give_labels_with_probabilities(tmp_path: Path, tables: Tables, paths: list[str]) -> None:
    found = predictor(tmp_path, tables, "classification").predict([*paths, paths[0]])
    for task, classes in (("motion", MOTIONS), ("shape", SHAPES)):
        shares = found[f"{task}_probabilities"]
        assert [list(share) for share in shares] == [list(classes)] * 4
        np.testing.assert_allclose([sum(share.values()) for share in shares], 1.0)
        assert found[task].tolist() == [max(share, key=share.get) for share in shares]
        assert found[f"{task}_probability"].tolist() == [max(share.values()) for share in shares]
    assert found.iloc[0].to_dict() == found.iloc[3].to_dict()


def test_classifiers_say_what_their_test_says(tmp_path: Path, tables: Tables, paths: list[str]) -> None:
    found = predictor(tmp_path, tables, "classification").predict(paths)
    clips = tables.videos[tables.videos["media"] == "video"]
    settings = ClassificationSettings.model_validate(SETTINGS["classification"])
    with Workers(lambda: load_classifier(tmp_path / "classification" / "shape")) as workers:
        said = predict(workers, clips, tables.media_root, settings.clip, settings.test.model_copy(update={"precision": "fp32"}))
    shares = [list(share.values()) for share in found["shape_probabilities"]]
    np.testing.assert_allclose(shares, said.probabilities_SC, rtol=1e-5)


def test_questions_get_an_answer_of_the_list(tmp_path: Path, tables: Tables, paths: list[str]) -> None:
    model = predictor(tmp_path, tables, "question_answering")
    asked = pd.DataFrame(
        {"video": [paths[1], paths[0], paths[1]], "text": ["what goes", "a disc", "star moving"]}, index=[2, 1, 0]
    )
    found = model.predict(asked)
    assert found.index.tolist() == [2, 1, 0]
    assert set(found["answer"]) <= set(ANSWERS)
    alone = model.predict(asked.iloc[[2]])
    assert alone["answer"][0] == found["answer"][0]
    assert alone["log_probability"][0] == pytest.approx(found["log_probability"][0], rel=1e-5)
    with pytest.raises(ConfigError, match="expected a column 'text', found video"):
        model.predict(paths)


def test_boxes_get_an_action(tmp_path: Path, tables: Tables, paths: list[str]) -> None:
    model = predictor(tmp_path, tables, "detection")
    box = {"x1": 0.1, "y1": 0.2, "x2": 0.6, "y2": 0.9}
    rows = [{"video": paths[2], "timestamp_s": 0.2, **box}, {"video": paths[0], "timestamp_s": 0.1, **box, "x2": 0.3}]
    found = model.predict(pd.DataFrame([*rows, rows[0]], index=["a", "b", "c"]))
    assert [list(share) for share in found["probabilities"]] == [list(MOTIONS)] * 3
    assert found["probability"].tolist() == [max(share.values()) for share in found["probabilities"]]
    assert found.loc["a"].to_dict() == found.loc["c"].to_dict() != found.loc["b"].to_dict()
    with pytest.raises(ConfigError, match=r"missing: timestamp_s, x1"):
        model.predict(paths)
    with pytest.raises(ConfigError, match=r"row 0, column 'y1': expected a number"):
        model.predict(pd.DataFrame([{**rows[0], "y1": "low"}]))


@pytest.mark.parametrize("kind", ["stage1", "stage2", "classification", "question_answering", "detection"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, tables: Tables, paths: list[str], kind: str) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no film")
    table = {"video": [paths[0], str(broken)]}
    if kind == "question_answering":
        table["text"] = ["a disc", "a disc"]
    if kind == "detection":
        table |= {name: [0.0, 0.0] for name in ("timestamp_s", "x1", "y1")} | {"x2": [1.0, 1.0], "y2": [1.0, 1.0]}  # type: ignore[dict-item]
    with pytest.raises(VideoError, match=str(broken)):
        predictor(tmp_path, tables, kind).predict(pd.DataFrame(table))


def test_what_cannot_be_loaded_is_said(tmp_path: Path, tables: Tables) -> None:
    folder = write_folder("stage1", tmp_path / "stage1", tables)
    with pytest.raises(ConfigError, match="kind 'sixth_task' do not predict: expected one of teacher, stage1"):
        load_predictor("sixth_task", folder, {})
    with pytest.raises(ConfigError, match="settings of a model of kind 'teacher'"):
        load_predictor("teacher", folder, {})
    with pytest.raises(CheckpointError, match="a classifier for each label task"):
        load_predictor("classification", tmp_path / "nowhere", SETTINGS["classification"])
