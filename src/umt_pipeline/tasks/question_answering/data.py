"""What the model and its control are trained and tested on, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import read_text_list, staged_file
from umt_pipeline.data.mapped import table_sha256, write_table
from umt_pipeline.evaluation.workers import require_devices
from umt_pipeline.models.folders import SKIPPED_FILE, load_config
from umt_pipeline.models.tokenizer import load_tokenizer
from umt_pipeline.models.video_text import KIND, TOKENIZER_FOLDER, VideoTextConfig
from umt_pipeline.schemas import NO_OPTION
from umt_pipeline.tasks.question_answering.answering import make_answer_list
from umt_pipeline.tasks.question_answering.params import QuestionAnsweringParams
from umt_pipeline.tasks.question_answering.training import COLUMNS

CLIP_COLUMNS = ["video_id", "path", "num_frames", "height", "width", "split", "media"]


@dataclass(frozen=True)
class QuestionData:
    """What the models are trained and tested on.

    Attributes:
        train: questions trained on, a row per answer; without rows nothing is trained.
        train_table: the same as a file.
        clips: mapped table of all videos.
        videos: the videos of all splits.
        tests: open questions with an answer, by split; empty where nothing is trained.
        choices: multiple-choice questions, by split; splits without are left out.
        answers: the list to choose from.
        starts: stage-2 models, by name: ``stage2`` and, if it is there and wanted, ``control``.
        no_control: why there is no ``control``.
        media: folder of the video files.
    """

    train: pd.DataFrame
    train_table: Path
    clips: Path
    videos: pd.DataFrame
    tests: Mapping[str, pd.DataFrame]
    choices: Mapping[str, pd.DataFrame]
    answers: tuple[str, ...]
    starts: Mapping[str, Path]
    no_control: str | None
    media: Path


def gather_questions(params: QuestionAnsweringParams, tables: Mapping[str, Any], workspace: Path) -> QuestionData:
    """Check everything that training and test need.

    Args:
        params: splits, list of answers.
        tables: ``questions`` (without open ones nothing is trained, without choices nothing is chosen), ``videos``,
            ``raw_media``, ``stage2_model`` (what training starts from, and what chooses captions), ``stage2_control_model``
            (the same from scratch, or a folder that says why there is none).
        workspace: folder for unfinished work.

    Raises:
        ConfigError: open questions of only one of training and test; ``answers`` is no list of texts; or the test wants more
            CUDA devices than there are.
        EvaluationError: an answer is twice in the list, or too long for the model.
        CheckpointError: a model to start from is not complete.
    """
    require_devices(params.test.nproc, "question_answering.test.nproc")
    questions, videos = tables["questions"], tables["videos"]
    clips = videos.loc[videos["media"] == "video", CLIP_COLUMNS].reset_index(drop=True)
    split_of = questions["video_id"].map(dict(zip(clips["video_id"], clips["split"], strict=True)))
    free, answered = is_open(questions), _answered(questions)
    training = questions[answered & (split_of == params.train_split)]
    tests = {split: questions[answered & (split_of == split)].reset_index(drop=True) for split in params.test_splits}
    _check_splits(params, training, tests)
    choices = {split: questions[~free & (split_of == split)].reset_index(drop=True) for split in params.test_splits}
    rows = _rows(training)
    starts = {"stage2": tables["stage2_model"]}
    no_control = None if params.control else "question_answering.control is false"
    if params.control and (tables["stage2_control_model"] / SKIPPED_FILE).is_file():
        no_control = "stage 2 from scratch was not trained"
    elif params.control:
        starts["control"] = tables["stage2_control_model"]
    answers: tuple[str, ...] = ()
    if len(rows):
        answers = _answers(params, rows)
        for start in starts.values():
            config = VideoTextConfig.model_validate(load_config(start, KIND)[0])
            make_answer_list(load_tokenizer(start / TOKENIZER_FOLDER), answers, config.text.max_positions)
    train_table = workspace / "tables" / f"questions-{table_sha256(rows)[:16]}.parquet"
    with staged_file(train_table) as staged:
        rows.to_parquet(staged, index=False)
    return QuestionData(
        train=rows,
        train_table=train_table,
        clips=write_table(workspace, "question_clips", clips),
        videos=clips,
        tests=tests if len(rows) else {},
        choices={split: table for split, table in choices.items() if len(table)},
        answers=answers,
        starts=starts,
        no_control=no_control,
        media=tables["raw_media"],
    )


def training_answers(params: QuestionAnsweringParams, questions: pd.DataFrame, videos: pd.DataFrame) -> tuple[str, ...]:
    """Return the answers that the trained model chooses from, in their order: as training and test have it.

    Args:
        params: of the task.
        questions: clean table of questions.
        videos: clean table of videos.

    Raises:
        ConfigError: ``params.answers`` is no list of texts.
    """
    clips = videos[videos["media"] == "video"]
    split_of = questions["video_id"].map(dict(zip(clips["video_id"], clips["split"], strict=True)))
    return _answers(params, _rows(questions[_answered(questions) & (split_of == params.train_split)]))


def is_open(questions: pd.DataFrame) -> pd.Series:
    """Tell for each question whether its answer is free, rather than one of its options."""
    return questions["correct"] == NO_OPTION


def _answered(questions: pd.DataFrame) -> pd.Series:
    return is_open(questions) & (questions["answers"].map(len).astype(int) > 0)


def _rows(questions: pd.DataFrame) -> pd.DataFrame:
    """Return a row per answer."""
    exploded = questions.explode("answers").rename(columns={"answers": "answer"})
    return exploded[list(COLUMNS)].reset_index(drop=True).astype(str)


def _check_splits(params: QuestionAnsweringParams, training: pd.DataFrame, tests: Mapping[str, pd.DataFrame]) -> None:
    counts = {params.train_split: len(training), **{split: len(table) for split, table in tests.items()}}
    if any(counts.values()) and not all(counts.values()):
        found = ", ".join(f"{split} {count}" for split, count in counts.items())
        raise ConfigError(
            f"question answering: expected open questions with an answer in train_split and in each of test_splits, or in "
            f"none of them, found: {found}. Change question_answering.train_split or test_splits, or add questions"
        )


def _answers(params: QuestionAnsweringParams, rows: pd.DataFrame) -> tuple[str, ...]:
    if params.answers is None:
        # The most frequent first: of answers with the same first token these become candidates.
        counts = rows["answer"].value_counts(sort=False)
        return tuple(sorted(counts.index, key=lambda answer: (-counts[answer], answer)))
    return read_text_list(Path(params.answers), "question_answering.answers")
