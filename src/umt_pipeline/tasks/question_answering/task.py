"""Question answering as a downstream task: stage-2 models fine-tuned to answer, and as they are to choose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from umt_pipeline.evaluation.encoders import frame_loader
from umt_pipeline.reports.page import Page
from umt_pipeline.tasks.question_answering.data import QuestionData, gather_questions
from umt_pipeline.tasks.question_answering.evaluation import evaluate_models
from umt_pipeline.tasks.question_answering.page import question_page
from umt_pipeline.tasks.question_answering.params import QuestionAnsweringParams
from umt_pipeline.tasks.question_answering.training import QuestionAnsweringSpec
from umt_pipeline.tasks.task import DownstreamTask, Plan, Runs, Shown, Skipped, Tested


class QuestionAnswering(DownstreamTask[QuestionAnsweringParams, QuestionData]):
    """Fine-tuning for questions about clips."""

    name = "question_answering"
    params = QuestionAnsweringParams
    tables = ("videos", "questions", "raw_media", "stage2_model", "stage2_control_model")
    headline: ClassVar = {"qa": "question_answering/*/{model}/accuracy"}

    def model_name(self, params: QuestionAnsweringParams) -> str:
        return "stage2"

    def gather(self, params: QuestionAnsweringParams, tables: Mapping[str, Any], workspace: Path) -> QuestionData:
        return gather_questions(params, tables, workspace)

    def runs(self, params: QuestionAnsweringParams, seed: int, data: QuestionData) -> Plan:
        def runs(start: str) -> Runs:
            if start not in data.starts:
                return Skipped(str(data.no_control))
            if data.train.empty:
                return Skipped("the project has no open question to train on")
            spec = QuestionAnsweringSpec(
                start=data.starts[start],
                questions=data.train_table,
                clips=data.clips,
                media_root=data.media,
                tuning=params.fine_tuning.recipe(),
                split=params.train_split,
                train=params.fine_tuning.train,
                seed=seed,
            )
            return {"": spec}

        return Plan(runs("stage2"), runs("control"))

    def test(
        self, params: QuestionAnsweringParams, seed: int, data: QuestionData, models: Mapping[str, Path], workspace: Path
    ) -> Tested:
        return evaluate_models(params, seed, data, models)

    def page(self, shown: Shown[QuestionAnsweringParams, QuestionData]) -> Page:
        """Show numbers, curves, and examples with frames and everybody's answer."""
        data, params = shown.data, shown.params
        frames = frame_loader(data.videos, data.media, params.fine_tuning.view)
        return question_page(shown, params.test.types, _notes(data, shown.metrics), frames)


def _notes(data: QuestionData, metrics: Mapping[str, Any]) -> list[str]:
    """Say what was left out."""
    notes = []
    if data.no_control is not None:
        notes.append(f"There is no control: {data.no_control}.")
    for split, count in metrics["answers"]["not_in_list"].items():
        if count:
            notes.append(f"The true answer to {count:,} open questions of {split} is not in the list: they count as wrong.")
    return notes


TASK = QuestionAnswering()
