"""Questions about clips: each clip is encoded once, unreadable ones are wrong, and baselines are what plain counting gives."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests.evaluation.tiny import VISION, make_tables, make_video_text
from umt_pipeline.core.errors import VideoError
from umt_pipeline.evaluation.encoders import clip_loader
from umt_pipeline.evaluation.workers import Workers
from umt_pipeline.models.tokenizer import encode_batch
from umt_pipeline.models.video_text import load_video_text
from umt_pipeline.models.vit import all_patches
from umt_pipeline.tasks.question_answering.answering import make_answer_list, rank_answers, score_choices
from umt_pipeline.tasks.question_answering.model import QuestionAnsweringModel
from umt_pipeline.tasks.question_answering.testing import (
    ChoiceConfig,
    QuestionTest,
    accuracy_by_type,
    answer_questions,
    chance,
    choose_options,
    majority_answers,
    question_types,
    true_answers,
)
from umt_pipeline.video.views import ViewConfig

OPEN = pd.DataFrame(
    {
        "question_id": ["a", "b", "c", "d"],
        "video_id": ["clip1", "clip0", "clip1", "clip2"],
        "question": ["what moves", "what goes left", "what is a star", "what"],
        "answers": [["disc"], ["star", "disc", "disc"], ["up"], ["left"]],
    }
)
CONFIG = QuestionTest(k=3, batch_size=2, workers=1)


def test_what_counts_as_true_and_as_a_type() -> None:
    assert true_answers(OPEN) == {"a": "disc", "b": "disc", "c": "up", "d": "left"}
    assert question_types(OPEN, "first_word") == dict.fromkeys("abcd", "what")
    assert question_types(OPEN.assign(question="Who is it?"), "text")["a"] == "who is it"
    truth, types = {"a": "x", "b": "y", "c": "x"}, {"a": "what", "b": "what", "c": "who"}
    assert accuracy_by_type(truth, {"a": "x", "b": "x"}, types) == {"what": 50.0, "who": 0.0}


def test_the_majority_answers_by_the_text_of_the_question() -> None:
    rows = [("What is it?", "disc"), ("what is it", "star"), ("what is it!", "star"), ("where", "up"), ("where", "left")]
    training = pd.DataFrame([*rows, ("when", "left")], columns=["question", "answer"])
    questions = pd.DataFrame({"question_id": ["1", "2", "3"], "question": ["what is it?", "Where", "why"]})
    # Of equals the alphabet's first, both for "where" and for all questions together ("left" and "star").
    assert majority_answers(training, questions) == {"1": "star", "2": "left", "3": "left"}


def test_the_chance_of_a_choice() -> None:
    assert chance(pd.DataFrame({"options": [["x", "y"], ["x", "y", "z", "w"]]})) == pytest.approx(37.5)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("questions")
    tables = make_tables(folder / "media", ("train", "test", "test"))
    (folder / "stage2").mkdir()
    make_video_text(folder / "stage2", tables, seed=5)
    return folder, tables.videos


def test_answers_are_those_of_one_question_at_a_time(world: tuple[Path, pd.DataFrame]) -> None:
    folder, videos = world
    stage2, tokenizer = load_video_text(folder / "stage2")
    torch.manual_seed(0)
    model = QuestionAnsweringModel.from_video_text(stage2)[0].eval()
    answers = make_answer_list(tokenizer, ["disc", "star", "up", "left"], 12)
    load = clip_loader(videos, folder / "media")
    found = answer_questions(Workers(lambda: (model, tokenizer)), OPEN, answers, load, 8, CONFIG, "test")
    assert found.question_ids == ("a", "c", "b", "d"), "clip by clip"
    for index, name in enumerate(found.question_ids):
        row = OPEN.set_index("question_id").loc[name]
        frames = torch.from_numpy(load(row["video_id"], ViewConfig(frames=2, size=32))).unsqueeze(0)
        with torch.no_grad():
            alone = model.encode(*all_patches(frames, VISION), *encode_batch(tokenizer, [row["question"]], 8))
        ranked = rank_answers(model, alone, answers, 3)
        np.testing.assert_allclose(found.scores.score_QK[index], ranked.score_QK[0], atol=1e-5)
        assert found.scores.index_QK[index].tolist() == ranked.index_QK[0].tolist()


def test_choices_are_those_of_one_question_at_a_time_whatever_their_number(world: tuple[Path, pd.DataFrame]) -> None:
    folder, videos = world
    model, tokenizer = load_video_text(folder / "stage2")
    options = [["a disc", "a star", "up"], ["left", "a disc goes up"], ["a", "disc", "star"], ["star", "disc"]]
    table = OPEN.assign(options=options)
    load = clip_loader(videos, folder / "media")
    choice = ChoiceConfig(match_share=0.6, pool="clip")
    found = choose_options(Workers(lambda: (model, tokenizer)), table, load, choice, CONFIG, "test")
    assert sorted(found.question_ids) == ["a", "b", "c", "d"]
    assert found.scores.shape == (4, 3)
    for name, scores_O in zip(found.question_ids, found.scores, strict=True):
        row = table.set_index("question_id").loc[name]
        frames = torch.from_numpy(load(row["video_id"], ViewConfig(frames=2, size=32))).unsqueeze(0)
        ids, mask = encode_batch(tokenizer, [f"{row['question']} {option}" for option in row["options"]], 12)
        alone = score_choices(model, *all_patches(frames, VISION), ids[None], mask[None], "clip", 0.6)[0]
        np.testing.assert_allclose(scores_O[: len(alone)], alone.numpy(), atol=1e-5)
        assert np.isneginf(scores_O[len(alone) :]).all()


def test_questions_about_unreadable_clips_are_left_out_and_named(world: tuple[Path, pd.DataFrame]) -> None:
    folder, videos = world
    stage2, tokenizer = load_video_text(folder / "stage2")
    model = QuestionAnsweringModel.from_video_text(stage2)[0].eval()
    answers = make_answer_list(tokenizer, ["disc", "star"], 12)
    readable = clip_loader(videos, folder / "media")

    def load(video_id: str, view: ViewConfig) -> np.ndarray:
        if video_id == "clip1":
            raise VideoError("truncated", "no frames")
        return readable(video_id, view)

    found = answer_questions(Workers(lambda: (model, tokenizer)), OPEN, answers, load, 8, CONFIG, "test")
    assert found.question_ids == ("b", "d")
    assert list(found.failures) == ["clip1"]
    nothing = answer_questions(Workers(lambda: (model, tokenizer)), OPEN.iloc[[0]], answers, load, 8, CONFIG, "test")
    assert (nothing.question_ids, len(nothing.scores.index_QK)) == ((), 0)


def start_answering(folder: Path) -> tuple[QuestionAnsweringModel, PreTrainedTokenizerFast]:
    stage2, tokenizer = load_video_text(folder)
    torch.manual_seed(0)
    return QuestionAnsweringModel.from_video_text(stage2)[0].eval(), tokenizer


@pytest.mark.slow
def test_processes_share_clips_and_find_the_same(world: tuple[Path, pd.DataFrame]) -> None:
    folder, videos = world
    paths = videos["path"].replace("clip2.mp4", "gone.mp4")
    readable = clip_loader(videos.assign(path=paths), folder / "media")
    config = CONFIG.model_copy(update={"batch_size": 1})

    load = functools.partial(start_answering, folder / "stage2")
    answers = make_answer_list(load()[1], ["disc", "star", "up", "left"], 12)
    arguments = OPEN, answers, readable, 8, config, "test"
    alone = answer_questions(Workers(load), *arguments)
    with Workers(load, 2) as workers:
        shared = answer_questions(workers, *arguments)
    assert (shared.question_ids, shared.failures) == (("a", "c", "b"), alone.failures)
    np.testing.assert_array_equal(shared.scores.index_QK, alone.scores.index_QK)
    np.testing.assert_allclose(shared.scores.score_QK, alone.scores.score_QK, atol=1e-5)

    table = OPEN.assign(options=[["a disc", "up"], ["left", "a disc goes up"], ["a", "disc", "star"], ["star", "disc"]])
    both = functools.partial(load_video_text, folder / "stage2")
    chosen = choose_options(Workers(both), table, readable, ChoiceConfig(), config, "test")
    with Workers(both, 2) as others:
        same = choose_options(others, table, readable, ChoiceConfig(), config, "test")
    assert (same.question_ids, same.failures) == (chosen.question_ids, chosen.failures)
    assert list(same.failures) == ["clip2"]
    np.testing.assert_allclose(same.scores, chosen.scores, atol=1e-5)
