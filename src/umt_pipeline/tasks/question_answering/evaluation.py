"""The models on the questions of the test splits: answers ranked, captions chosen, baselines beside both."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from umt_pipeline.evaluation.encoders import clip_loader
from umt_pipeline.evaluation.evidence import CORRECT, evidence_rows, joined
from umt_pipeline.evaluation.metrics import accuracy, best_candidates
from umt_pipeline.evaluation.records import Protocol, Record, rows_sha256
from umt_pipeline.evaluation.workers import Workers, work_precision
from umt_pipeline.models.folders import weights_sha256
from umt_pipeline.models.video_text import load_video_text
from umt_pipeline.tasks.question_answering.answering import AnswerList, answering_result, choice_accuracy, make_answer_list
from umt_pipeline.tasks.question_answering.data import QuestionData
from umt_pipeline.tasks.question_answering.model import load_question_answering
from umt_pipeline.tasks.question_answering.params import QuestionAnsweringParams
from umt_pipeline.tasks.question_answering.testing import (
    accuracy_by_type,
    answer_questions,
    chance,
    choose_options,
    majority_answers,
    question_types,
    true_answers,
)
from umt_pipeline.tasks.task import Tested

PREDICTION_COLUMNS = (
    "kind", "split", "model", "question_id", "video_id", "question", "answer", "predicted", "right", "failure"
)  # fmt: skip
MAJORITY = "majority"


@dataclass(frozen=True)
class _Predictions:
    """What is true and predicted, and whether that is right, by question; and why clips could not be read."""

    truth: Mapping[str, str]
    predicted: Mapping[str, str]
    right: Mapping[str, bool]
    failures: Mapping[str, str]


class _Results:
    """What the tests have found so far."""

    def __init__(self, params: QuestionAnsweringParams, seed: int, data: QuestionData) -> None:
        self.params, self.seed, self.data = params, seed, data
        tested = {video_id for table in (*data.tests.values(), *data.choices.values()) for video_id in table["video_id"]}
        # It goes to other processes with every share: without the training clips.
        self.load = clip_loader(data.videos[data.videos["video_id"].isin(tested)], data.media)
        self.records: list[Record] = []
        self.tables: list[pd.DataFrame] = []
        self.evidence: list[pd.DataFrame] = []
        self.test: dict[str, dict[str, float]] = {}
        self.per_type: dict[str, dict[str, dict[str, float]]] = {}
        self.choice: dict[str, dict[str, float]] = {}

    def record(self, task: str, value: float, questions: pd.DataFrame, **protocol: Any) -> None:
        """Add a record of an accuracy."""
        kind, split, model = task.split("/")
        rows = _annotations(questions, () if kind == "multiple_choice" else self.data.answers)
        if kind == "question_answering":
            rows += [{str(name): value for name, value in row.items()} for row in self.data.train.to_dict("records")]
        known = {"seed": self.seed, "split": split, "model": model}
        settings = {"questions": len(questions), **protocol.pop("settings")}
        self.records.append(
            Record(
                task=task,
                values={"accuracy": value},
                protocol=Protocol(
                    annotation_sha256=rows_sha256(rows),
                    clips=questions["video_id"].nunique(),
                    queries=len(questions),
                    settings=settings,
                    **known,
                    **protocol,
                ),
            )
        )

    def table(self, kind: str, split: str, model: str, questions: pd.DataFrame, found: _Predictions) -> None:
        """Add the predictions of one model for one split, and the evidence that they are."""
        ids = questions["question_id"]
        values = {
            "kind": kind, "split": split, "model": model, "question_id": ids, "video_id": questions["video_id"],
            "question": questions["question"], "answer": ids.map(found.truth), "predicted": ids.map(found.predicted).fillna(""),
            "right": ids.map(found.right).fillna(False).astype(bool),
            "failure": questions["video_id"].map(found.failures).fillna(""),
        }  # fmt: skip
        table = pd.DataFrame(values, columns=list(PREDICTION_COLUMNS))
        self.tables.append(table)
        said = table["predicted"].to_numpy(object)
        answers = np.where(ids.isin(list(found.predicted)), said, np.full(len(said), None, dtype=object))
        task = f"{'multiple_choice' if kind == 'choice' else 'question_answering'}/{split}/{model}"
        rows = evidence_rows(task, CORRECT, ids, table["video_id"], table["right"], answers, table["answer"])
        self.evidence.append(rows)


def evaluate_models(params: QuestionAnsweringParams, seed: int, data: QuestionData, models: Mapping[str, Path]) -> Tested:
    """Test the fine-tuned models on open questions, and the stage-2 models, as they are, on choices.

    Args:
        params: candidates, scores, batches.
        seed: of the run, for the records.
        data: from :func:`gather_questions`.
        models: folders of the fine-tuned models, by name.

    Returns:
        Metrics, records with their protocols, and a row for each question and model.

    Raises:
        EvaluationError: scores from which no honest number can be computed, or a process ended.
    """
    results = _Results(params, seed, data)
    answers: dict[str, Any] = {"listed": len(data.answers), "not_in_list": {}}
    for split, questions in data.tests.items():
        truth = true_answers(questions)
        answers["not_in_list"][split] = sum(answer not in data.answers for answer in truth.values())
        _majority(results, split, questions, truth)
    for name, folder in models.items():
        answers[name] = _answer(results, name, folder)
    for split, questions in data.choices.items():
        results.choice[split] = {"chance": chance(questions)}
    for name, folder in data.starts.items() if data.choices else ():
        _choose(results, name, folder)
    metrics = {"test": results.test, "per_type": results.per_type, "choice": results.choice, "answers": answers}
    empty = pd.DataFrame(columns=list(PREDICTION_COLUMNS))
    tables = pd.concat(results.tables, ignore_index=True) if results.tables else empty
    return Tested(metrics, results.records, tables, joined(results.evidence))


def _majority(results: _Results, split: str, questions: pd.DataFrame, truth: Mapping[str, str]) -> None:
    predicted = majority_answers(results.data.train, questions)
    _count(results, split, MAJORITY, questions, truth, predicted, {})
    right = np.array([predicted[name] == answer for name, answer in truth.items()])
    results.test.setdefault(split, {})[MAJORITY] = value = accuracy(right, np.ones_like(right))
    # It encodes no clip.
    results.record(
        f"question_answering/{split}/{MAJORITY}", value, questions, frames=0, views=0, resolution=0,
        checkpoint_sha256=None, settings={"answers": len(results.data.answers)},
    )  # fmt: skip


def _answer(results: _Results, name: str, folder: Path) -> dict[str, Any]:
    """Answer the open questions of all splits with one model; return what is to be known about its list of answers."""
    params, data = results.params, results.data
    with Workers(functools.partial(load_question_answering, folder), params.test.nproc) as workers:
        model, tokenizer = workers.here
        answers = make_answer_list(tokenizer, data.answers, model.config.text.max_positions, parity=params.test.parity)
        for split, questions in data.tests.items():
            title = f"question_answering/{split}/{name}"
            truth = true_answers(questions)
            found = answer_questions(
                workers, questions, answers, results.load, params.fine_tuning.max_question_length, params.test, title
            )
            result = answering_result(truth, found.question_ids, found.scores, answers)
            _count(results, split, name, questions, truth, result.predicted, found.failures)
            results.test.setdefault(split, {})[name] = result.accuracy
            results.record(
                title, result.accuracy, questions, failures=tuple(found.failures), k=min(params.test.k, len(answers.texts)),
                frames=model.config.vision.frames, resolution=model.config.vision.image_size,
                checkpoint_sha256=weights_sha256(folder), precision=work_precision(params.test),
                settings={
                    "answers": len(answers.texts), "answers_cut": len(answers.cut), "parity": str(params.test.parity),
                    "max_question_length": params.fine_tuning.max_question_length,
                    "truth_not_in_list": len(result.not_in_list), "truth_tied": len(result.tied),
                },
            )  # fmt: skip
    return _about(answers, tokenizer.unk_token_id)


def _choose(results: _Results, name: str, folder: Path) -> None:
    params = results.params
    with Workers(functools.partial(load_video_text, folder), params.test.nproc) as workers:
        model, _ = workers.here
        for split, questions in results.data.choices.items():
            title = f"multiple_choice/{split}/{name}"
            found = choose_options(workers, questions, results.load, params.choice, params.test, title)
            by_id = questions.set_index("question_id")
            read = by_id.loc[list(found.question_ids)]
            truth_Q = read["correct"].to_numpy(dtype=np.int64)
            value = choice_accuracy(found.scores, truth_Q, failures=len(questions) - len(read))
            results.choice[split][name] = value
            truth_QO = np.arange(found.scores.shape[1]) == truth_Q[:, None]
            predicted_Q = best_candidates(found.scores, truth_QO)
            options = dict(zip(questions["question_id"], questions["options"], strict=True))
            true = {key: options[key][index] for key, index in zip(by_id.index, by_id["correct"], strict=True)}
            predicted = {key: options[key][index] for key, index in zip(read.index, predicted_Q.tolist(), strict=True)}
            right = dict(zip(read.index, (predicted_Q == truth_Q).tolist(), strict=True))
            results.table("choice", split, name, questions, _Predictions(true, predicted, right, found.failures))
            results.record(
                title, value, questions, failures=tuple(found.failures), pool=params.choice.pool,
                frames=model.config.vision.frames, resolution=model.config.vision.image_size,
                checkpoint_sha256=weights_sha256(folder), precision=work_precision(params.test),
                settings={"match_share": params.choice.match_share, "chance": chance(questions)},
            )  # fmt: skip


def _count(
    results: _Results, split: str, name: str, questions: pd.DataFrame, truth: Mapping[str, str],
    predicted: Mapping[str, str], failures: Mapping[str, str],
) -> None:  # fmt: skip
    types = question_types(questions, results.params.test.types)
    for kind, value in accuracy_by_type(truth, predicted, types).items():
        results.per_type.setdefault(split, {}).setdefault(kind, {})[name] = value
    right = {key: predicted.get(key) == answer for key, answer in truth.items()}
    results.table("open", split, name, questions, _Predictions(truth, predicted, right, failures))


def _about(answers: AnswerList, unknown: int) -> dict[str, Any]:
    """Count what keeps answers of a list apart from others: same tokens, and words that the tokenizer does not know."""
    with_unknown = (answers.tokens.ids == unknown).any(dim=1)
    return {
        "same_tokens_as_another": len(answers.texts) - len(set(answers.group_N.tolist())),
        "with_unknown_words": int(with_unknown.sum()),
    }


def _annotations(questions: pd.DataFrame, answers: tuple[str, ...]) -> list[dict[str, Any]]:
    rows = [
        {str(name): list(value) if name in ("answers", "options") else value for name, value in row.items()}
        for row in questions.to_dict("records")
    ]
    return [*rows, *({"answer": answer} for answer in answers)]
