"""Nodes that fine-tune question answering from stage 2 and from its control, and test answers and choices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import read_json, staged_file, write_json
from umt_pipeline.evaluation.records import rows_sha256
from umt_pipeline.evaluation.workers import require_devices
from umt_pipeline.models.folders import SKIPPED_FILE, load_config, load_weights, weights_sha256
from umt_pipeline.models.tokenizer import load_tokenizer
from umt_pipeline.models.video_text import KIND, TOKENIZER_FOLDER, VideoTextConfig
from umt_pipeline.pipelines.question_answering.params import QuestionAnsweringParams
from umt_pipeline.pipelines.question_answering.question_table import is_open
from umt_pipeline.pipelines.runs import fresh_folder, train, write_table
from umt_pipeline.tasks.question_answering.answering import make_answer_list
from umt_pipeline.tasks.question_answering.model import save_question_answering
from umt_pipeline.tasks.question_answering.training import COLUMNS, start_model

TrainedModel = tuple[Path, pd.DataFrame, dict[str, Any]]
FACTORY = "umt_pipeline.tasks.question_answering.training:make_task"
CLIP_COLUMNS = ["video_id", "path", "num_frames", "height", "width", "split", "media"]


@dataclass(frozen=True)
class QuestionData:
    """What the models are trained and tested on.

    Attributes:
        train: columns ``COLUMNS``, a row per answer given to a training question; empty where nothing is trained.
        train_table: the same as a file; with ``clips``.
        key: fingerprint of both.
        clips: mapped table of the videos.
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
    key: str
    clips: Path
    videos: pd.DataFrame
    tests: Mapping[str, pd.DataFrame]
    choices: Mapping[str, pd.DataFrame]
    answers: tuple[str, ...]
    starts: Mapping[str, Path]
    no_control: str | None
    media: Path


def gather_questions(
    params: QuestionAnsweringParams,
    questions: pd.DataFrame,
    videos: pd.DataFrame,
    raw_media: Path,
    stage2_model: Path,
    stage2_control_model: Path,
    workspace: Path,
) -> QuestionData:
    """Check everything that training and test need, before anything is trained.

    Args:
        params: splits, list of answers.
        questions: the clean question table. Without open questions nothing is trained, without choices nothing is chosen.
        videos: the clean video table.
        raw_media: folder of the video files.
        stage2_model: what training starts from, and what chooses captions.
        stage2_control_model: the same from scratch, or a folder that says why there is none.
        workspace: folder for unfinished work.

    Raises:
        ConfigError: open questions of only one of training and test; ``answers`` is no list of texts; or the test wants more
            CUDA devices than there are.
        EvaluationError: an answer is twice in the list, or too long for the model.
        CheckpointError: a model to start from is not complete.
    """
    require_devices(params.test.nproc, "question_answering.test.nproc")
    clips = videos.loc[videos["media"] == "video", CLIP_COLUMNS].reset_index(drop=True)
    split_of = questions["video_id"].map(dict(zip(clips["video_id"], clips["split"], strict=True)))
    free = is_open(questions)
    answered = free & (questions["answers"].map(len).astype(int) > 0)
    training = questions[answered & (split_of == params.train_split)]
    tests = {split: questions[answered & (split_of == split)].reset_index(drop=True) for split in params.test_splits}
    _check_splits(params, training, tests)
    choices = {split: questions[~free & (split_of == split)].reset_index(drop=True) for split in params.test_splits}
    rows = training.explode("answers").rename(columns={"answers": "answer"})[list(COLUMNS)].reset_index(drop=True).astype(str)
    starts, no_control = {"stage2": stage2_model}, None if params.control else "question_answering.control is false"
    if params.control and (stage2_control_model / SKIPPED_FILE).is_file():
        no_control = "stage 2 from scratch was not trained"
    elif params.control:
        starts["control"] = stage2_control_model
    answers: tuple[str, ...] = ()
    if len(rows):
        answers = _answers(params, rows)
        for start in starts.values():
            config = VideoTextConfig.model_validate(load_config(start, KIND)[0])
            make_answer_list(load_tokenizer(start / TOKENIZER_FOLDER), answers, config.text.max_positions)
    clip_table, clips_key = write_table(workspace, "question_clips", clips)
    key = rows_sha256({str(name): value for name, value in row.items()} for row in rows.to_dict("records"))[:16]
    train_table = workspace / "tables" / f"questions-{key}.parquet"
    with staged_file(train_table) as staged:
        rows.to_parquet(staged, index=False)
    return QuestionData(
        train=rows,
        train_table=train_table,
        key=key + clips_key,
        clips=clip_table,
        videos=clips,
        tests=tests if len(rows) else {},
        choices={split: table for split, table in choices.items() if len(table)},
        answers=answers,
        starts=starts,
        no_control=no_control,
        media=raw_media,
    )


def fine_tune(params: QuestionAnsweringParams, seed: int, question_data: QuestionData, workspace: Path) -> TrainedModel:
    """Fine-tune the stage-2 model on the training questions.

    Args:
        params: clips, lengths and loop.
        seed: of order and dropout, and of weights that start new.
        question_data: from :func:`gather_questions`.
        workspace: folder for unfinished work, in which a killed run is found again.

    Returns:
        The model folder, the history of the run, and its summary. Without questions nothing is trained, and the folder says
        so.

    Raises:
        ConfigError: no question can be trained on, or the lengths do not fit the model.
        TrainingError: training failed.
    """
    return _train("question_answering", "stage2", params, seed, question_data, workspace)


def fine_tune_control(
    params: QuestionAnsweringParams, seed: int, question_data: QuestionData, workspace: Path
) -> TrainedModel:
    """Fine-tune the control of stage 2 with the same budget; see :func:`fine_tune`."""
    return _train("question_answering_control", "control", params, seed, question_data, workspace)


def _train(
    name: str, start: str, params: QuestionAnsweringParams, seed: int, data: QuestionData, workspace: Path
) -> TrainedModel:
    reason = "the project has no open question to train on" if data.train.empty else None
    if start not in data.starts:
        reason = data.no_control
    folder = fresh_folder(workspace, f"{name}_model")
    if reason is not None:
        write_json(folder / SKIPPED_FILE, {"reason": reason})
        return folder, pd.DataFrame({"step": pd.Series(dtype="int64"), "loss": pd.Series(dtype=float)}), {}
    source, tuning = data.starts[start], params.fine_tuning
    sizes = {"max_question_length", "max_answer_length", "drop_path"}
    arguments = {
        "start": str(source),
        "questions": str(data.train_table),
        "clips": str(data.clips),
        "media_root": str(data.media),
        "view": tuning.view.model_dump(mode="json"),
        "dataset_id": "question_answering",
        "split": params.train_split,
        **tuning.model_dump(mode="json", include=sizes),
    }
    start_key = weights_sha256(source)
    finished = train(name, FACTORY, arguments, [data.key, start_key], tuning.train, seed, workspace)
    model = start_model(source, tuning.view.frames, tuning.view.size, tuning.drop_path)
    load_weights(model, finished.weights(), source=str(finished.folder))
    facts = {"steps": finished.steps, "seed": seed, "start_sha256": start_key}
    save_question_answering(folder, model, load_tokenizer(source / TOKENIZER_FOLDER), facts)
    return folder, finished.history, finished.summary()


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
    try:
        listed = read_json(Path(params.answers))
    except (OSError, ValueError) as error:
        raise ConfigError(f"question_answering.answers: expected a JSON list of texts, found: {error}") from error
    if not isinstance(listed, list) or not listed or not all(isinstance(text, str) and text.strip() for text in listed):
        raise ConfigError(f"question_answering.answers: expected a JSON list of texts in {params.answers}, found other things")
    return tuple(listed)
