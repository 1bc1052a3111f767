"""Fine-tuning for questions about clips: the likelihood of the true answer (UMT section 4.2).

Shapes: B questions, T frames, S side of the view in pixels, L question length, K answers to each question, A answer
length, Q questions of the table.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError, TableError
from umt_pipeline.core.files import sha256_file, sha256_folder
from umt_pipeline.data.mapped import MappedTable
from umt_pipeline.data.replacement import read_or_replace, unreadable_share
from umt_pipeline.data.samples import Batch, Sample, SampleDataset, stack_samples
from umt_pipeline.features.provider import DecodedClips
from umt_pipeline.models.flops import encoder_macs, training_flops
from umt_pipeline.models.folders import load_weights, model_kind, weights_sha256
from umt_pipeline.models.tokenizer import clean_caption, encode_batch, load_tokenizer
from umt_pipeline.models.video_text import TOKENIZER_FOLDER, load_video_text
from umt_pipeline.models.vit import VideoViT, every_patch
from umt_pipeline.tasks.question_answering.flops import answering_macs
from umt_pipeline.tasks.question_answering.model import (
    KIND,
    Answers,
    QuestionAnsweringModel,
    encode_answers,
    load_question_answering,
    save_question_answering,
)
from umt_pipeline.training.spec import RunSpec
from umt_pipeline.training.task import LossParts, Task, TrainConfig
from umt_pipeline.video.pixels import normalise_patches, patchify
from umt_pipeline.video.views import ViewConfig

if TYPE_CHECKING:
    # Imported where a tokenizer is made or read: it takes a second.
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

COLUMNS = ("question_id", "video_id", "question", "answer")


class QuestionAnsweringRecipe(Config):
    """Fine-tuning but for its loop.

    Attributes:
        view: frames of a clip (12 in the published recipe), their side and crops.
        max_question_length: longest question in tokens; longer ones are cut, and the history's ``full_questions`` says how
            many may have been.
        max_answer_length: longest answer in tokens, [CLS] and [SEP] included; longer ones are left out and reported.
        drop_path: largest stochastic depth of the video encoder.
        freeze_video: leave the video encoder as it is, which saves its way back; in the published recipe it is trained.
    """

    view: ViewConfig
    max_question_length: int = Field(25, ge=3)
    max_answer_length: int = Field(5, ge=3)
    drop_path: float = Field(0.0, ge=0.0, lt=1.0)
    freeze_video: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.freeze_video and self.drop_path:
            raise ValueError(f"drop_path {self.drop_path} disturbs a frozen video encoder: make it 0 or freeze_video false")
        return self


class QuestionAnsweringTraining(QuestionAnsweringRecipe):
    """Fine-tuning with its loop."""

    train: TrainConfig

    def recipe(self) -> QuestionAnsweringRecipe:
        """Return all but the loop."""
        return QuestionAnsweringRecipe.model_validate(self.model_dump(exclude={"train"}))


@dataclass(frozen=True)
class LeftOut:
    """What of a question table is not trained on.

    Args:
        long_answers: different answers that are longer than ``max_answer_length``, with their length in tokens.
        rows: rows of the table with such an answer.
        questions: questions that have no other answer.
        blank: questions that are empty once cleaned.
    """

    long_answers: dict[str, int]
    rows: int
    questions: int
    blank: int


class Questions:
    """The questions about some clips, and their answers as token ids.

    The tokenizer is loaded again wherever the questions are read, so that they are tokenised beside the training.

    Args:
        table: columns ``COLUMNS``; several rows of one question are its answers, and an answer weighs as much as its share of
            them.
        clip_ids: whose questions.
        tokenizer: folder of the tokenizer.
        max_question_length: L.
        max_answer_length: longest answer in tokens.

    Raises:
        TableError: a column is missing, a cell is empty, or a question_id stands for two questions.
        ConfigError: no question is left.

    Attributes:
        left_out: what is not trained on; also logged.
        question_ids: those that are left, in the table's order.
        clips: the clip of each.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        clip_ids: Sequence[str],
        tokenizer: Path,
        max_question_length: int,
        max_answer_length: int,
    ) -> None:
        own = _checked(table)
        own = own[own["video_id"].isin(set(clip_ids))]
        blank = own["question"].map(lambda text: not clean_caption(text)).astype(bool)
        kept = own[~blank]
        texts = kept["answer"].drop_duplicates().tolist()
        tokens = encode_answers(load_tokenizer(tokenizer), texts) if texts else None
        lengths = dict(zip(texts, tokens.mask.sum(dim=1).tolist(), strict=True)) if tokens is not None else {}
        long = {text: length for text, length in lengths.items() if length > max_answer_length}
        short = kept[~kept["answer"].isin(list(long))]
        self.left_out = LeftOut(
            long_answers=long,
            rows=len(kept) - len(short),
            questions=kept["question_id"].nunique() - short["question_id"].nunique(),
            blank=own.loc[blank, "question_id"].nunique(),
        )
        _report(self.left_out, max_answer_length)
        if short.empty or tokens is None:
            raise ConfigError(
                f"question answering: none of the {own['question_id'].nunique()} questions about the {len(clip_ids)} clips can "
                "be trained on; check the table's video_id, and max_answer_length"
            )
        self._tokenizer_folder = tokenizer
        self._tokenizer: PreTrainedTokenizerFast | None = None
        self._length = max_question_length
        self._answers = Answers(tokens.ids[:, :max_answer_length], tokens.mask[:, :max_answer_length])
        first = short.drop_duplicates("question_id")
        self.question_ids: tuple[str, ...] = tuple(first["question_id"])
        self.clips: tuple[str, ...] = tuple(first["video_id"])
        self._texts: tuple[str, ...] = tuple(first["question"])
        self._index_QK, self._weight_QK = _answer_table(short, {text: index for index, text in enumerate(texts)})

    def read(self, indices: np.ndarray) -> Batch:
        """Return some questions as tensors: ids [B, L], mask [B, L], answers [B, K, A], answer_mask [B, K, A], weights [B, K].

        Answers that a question does not have weigh nothing.
        """
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self._tokenizer_folder)
        ids_BL, mask_BL = encode_batch(self._tokenizer, [self._texts[index] for index in indices], self._length)
        index_BK = torch.from_numpy(self._index_QK[indices])
        return {
            "ids": ids_BL,
            "mask": mask_BL,
            "answers": self._answers.ids[index_BK],
            "answer_mask": self._answers.mask[index_BK],
            "weights": torch.from_numpy(self._weight_QK[indices]),
            "question": [self.question_ids[index] for index in indices],
        }

    def __getstate__(self) -> dict[str, Any]:
        """The tokenizer does not travel to worker processes."""
        return {**self.__dict__, "_tokenizer": None}


class QuestionDataset(SampleDataset):
    """Questions with their answers and a view of their clip.

    Args:
        clips: gives ``frames``; one that cannot be read is replaced, with its question, by that of another sample.
        questions: those of its clips.
    """

    def __init__(self, clips: DecodedClips, questions: Questions) -> None:
        self.questions = questions
        self._clips = clips
        self._indices = clips.indices(pa.array(questions.clips))

    def __len__(self) -> int:
        return len(self._indices)

    def batch(self, indices_B: np.ndarray, passes_B: np.ndarray) -> Batch:
        """Frames [B, T, S, S, 3], clip, unreadable, and what :meth:`Questions.read` gives."""
        keys = zip(indices_B.tolist(), passes_B.tolist(), strict=True)
        read = [read_or_replace(self._read, *key, range(len(self)), "questions") for key in keys]
        return {
            **stack_samples([sample for sample, _ in read]),
            **self.questions.read(np.array([index for _, index in read])),
        }

    def _read(self, index: int, number: int) -> Sample:
        return self._clips.read(int(self._indices[index]), number)


class QuestionAnsweringTask(Task):
    """The model and its questions; the loss is minus the log-likelihood of the answers, weighted, per question."""

    def __init__(self, model: QuestionAnsweringModel, dataset: QuestionDataset) -> None:
        self.model: nn.Module = model
        self._encoder = model.vision
        self._config = model.config
        self._dataset = dataset
        self._video_frozen = not any(weight.requires_grad for weight in model.vision.parameters())

    def dataset(self) -> QuestionDataset:
        return self._dataset

    def encoder(self) -> VideoViT:
        return self._encoder

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> LossParts:
        """The sum over answers of weight times the sum over its tokens, divided by B."""
        del generator
        patches_BVP = patchify(batch["frames"], self._encoder.config.patch_size)
        answers, visible_1V = Answers(batch["answers"], batch["answer_mask"]), every_patch(patches_BVP)
        likelihood_BK: Tensor = model(normalise_patches(patches_BVP), visible_1V, batch["ids"], batch["mask"], answers)
        full = batch["mask"].all(dim=1).float().mean()
        parts = {"full_questions": full, **unreadable_share(batch)}
        return LossParts(-(likelihood_BK * batch["weights"]).sum() / len(likelihood_BK), parts)

    def sample_ids(self, batch: Batch) -> Sequence[str]:
        return batch["question"]

    def flops_per_clip(self, batch: Batch) -> float:
        """Per question, with its clip and all its answers; a frozen video encoder has no way back."""
        vision = self._encoder.config
        answers, answer_length = batch["answers"].shape[1:]
        visible = vision.frames * vision.patches_per_frame
        macs = answering_macs(self._config, visible, batch["ids"].shape[1], answers, answer_length)
        frozen = encoder_macs(vision, visible) if self._video_frozen else 0
        return float(training_flops(macs - frozen, frozen))


class QuestionAnsweringSpec(RunSpec):
    """A run of fine-tuning.

    Attributes:
        start: folder of a stage-2 model, or of a question-answering model to go on with.
        questions: Parquet file of the questions, a row per answer.
        clips: mapped table of the clips, as :class:`umt_pipeline.features.provider.DecodedClips` reads it.
        media_root: folder of the video files.
        tuning: lengths and view; positions are interpolated where the clip size is not the start's.
        split: whose clips.
        dataset_id: part of the key that views are drawn from.
    """

    start: Path
    questions: Path
    clips: Path
    media_root: Path
    tuning: QuestionAnsweringRecipe
    split: str
    dataset_id: str = "question_answering"

    def build(self) -> QuestionAnsweringTask:
        tuning = self.tuning
        model = self._start_model()
        if tuning.freeze_video:
            model.vision.requires_grad_(False)
        longest = model.config.text.max_positions
        if max(tuning.max_question_length, tuning.max_answer_length) > longest:
            raise ConfigError(
                f"max_question_length is {tuning.max_question_length}, max_answer_length {tuning.max_answer_length}: the model "
                f"in {self.start} has {longest} positions, so neither can be more"
            )
        decoded = DecodedClips(MappedTable(self.clips), self.split, self.media_root, tuning.view, self.dataset_id)
        tokenizer, names = self.start / TOKENIZER_FOLDER, decoded.clip_ids.to_pylist()
        table = pd.read_parquet(self.questions)
        known = Questions(table, names, tokenizer, tuning.max_question_length, tuning.max_answer_length)
        return QuestionAnsweringTask(model, QuestionDataset(decoded, known))

    def inputs(self) -> dict[str, str]:
        tables = {"questions": sha256_file(self.questions), "clips": sha256_file(self.clips)}
        return {**tables, "start": weights_sha256(self.start), "tokenizer": sha256_folder(self.start / TOKENIZER_FOLDER)}

    def export(self, weights: Mapping[str, Tensor], folder: Path, facts: Mapping[str, Any]) -> None:
        model = self._start_model()
        load_weights(model, weights, source="trained model")
        tokenizer = load_tokenizer(self.start / TOKENIZER_FOLDER)
        save_question_answering(folder, model, tokenizer, {**facts, "inputs": self.inputs()})

    def _start_model(self) -> QuestionAnsweringModel:
        view = self.tuning.view
        return start_model(self.start, view.frames, view.size, self.tuning.drop_path)


def start_model(folder: Path, frames: int, image_size: int, drop_path: float) -> QuestionAnsweringModel:
    """Load what fine-tuning starts from, for another clip size.

    Args:
        folder: of a stage-2 or question-answering model. Of a stage-2 model, what starts new is logged.
        frames: of a clip.
        image_size: side of a frame in pixels.
        drop_path: largest stochastic depth of the video encoder.
    """
    if model_kind(folder) == KIND:
        old, _ = load_question_answering(folder)
        vision = old.config.vision.for_clips(frames, image_size, drop_path=drop_path)
        model = QuestionAnsweringModel(old.config.model_copy(update={"vision": vision}))
        load_weights(model, old.state_dict(), source=str(folder))
        return model
    stage2, _ = load_video_text(folder)
    vision = stage2.config.vision.for_clips(frames, image_size, drop_path=drop_path)
    model, report = QuestionAnsweringModel.from_video_text(stage2, vision)
    if report.missing:
        logger.warning("question answering: new in the decoder, not from %s: %s", folder, ", ".join(report.missing))
    return model


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    absent = [name for name in COLUMNS if name not in table]
    if absent:
        raise TableError(f"questions: expected columns {', '.join(COLUMNS)}, {', '.join(absent)} not found in {list(table)}")
    if empty := int(table[list(COLUMNS)].isna().any(axis=1).sum()):
        raise TableError(f"questions: {empty} of {len(table)} rows have an empty cell in {', '.join(COLUMNS)}: delete them")
    own = table[list(COLUMNS)].astype(str)
    distinct = own.drop_duplicates(["question_id", "video_id", "question"])
    doubled = distinct.loc[distinct["question_id"].duplicated(), "question_id"]
    if not doubled.empty:
        raise TableError(
            f"questions: question_id {doubled.iloc[0]!r} stands for different questions or videos, as do "
            f"{doubled.nunique() - 1} others: expected one question about one video for each"
        )
    return own


def _answer_table(rows: pd.DataFrame, index_of: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the answers' indices, int64 [Q, K], and weights, float32 [Q, K], of the questions in order of appearance."""
    counts = rows.groupby(["question_id", "answer"], sort=False).size().rename("count").reset_index()
    code, _ = pd.factorize(counts["question_id"])
    # A stable sort keeps each question's answers in order, so their columns count up from 0.
    order = np.argsort(code, kind="stable")
    code, counts = code[order], counts.iloc[order]
    per_question = np.bincount(code)
    column = np.arange(len(code)) - np.repeat(np.cumsum(per_question) - per_question, per_question)
    index_QK = np.zeros((len(per_question), per_question.max()), dtype=np.int64)
    weight_QK = np.zeros(index_QK.shape, dtype=np.float32)
    index_QK[code, column] = counts["answer"].map(index_of).to_numpy()
    weight_QK[code, column] = counts["count"].to_numpy()
    return index_QK, weight_QK / weight_QK.sum(axis=1, keepdims=True)


def _report(left_out: LeftOut, max_answer_length: int) -> None:
    if left_out.long_answers:
        examples = [f"{text!r} ({length})" for text, length in list(left_out.long_answers.items())[:3]]
        logger.warning(
            "question answering: %d answers are longer than max_answer_length (%d tokens) and left out, with %d rows and %d "
            "questions that have no other answer, such as %s: raise it to train on them",
            len(left_out.long_answers), max_answer_length, left_out.rows, left_out.questions, ", ".join(examples),
        )  # fmt: skip
    if left_out.blank:
        logger.warning("question answering: %d questions are empty once cleaned and left out", left_out.blank)
