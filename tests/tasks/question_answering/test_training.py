"""Fine-tuning for questions: what is read, what is left out, the published loss, and a run that learns."""

from __future__ import annotations

import logging
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.features.tiny import make_corpus
from umt_pipeline.core.errors import ConfigError, TableError
from umt_pipeline.data.mapped import MappedTable, write_mapped
from umt_pipeline.features.provider import DecodedClips
from umt_pipeline.models.folders import load_config
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.tokenizer import encode_batch, save_tokenizer, train_wordpiece
from umt_pipeline.models.video_text import VideoTextConfig, VideoTextModel, save_video_text
from umt_pipeline.models.vit import ViTConfig, position_table
from umt_pipeline.tasks.question_answering.model import (
    Answers,
    QuestionAnsweringModel,
    encode_answers,
    load_question_answering,
    save_question_answering,
)
from umt_pipeline.tasks.question_answering.training import (
    COLUMNS,
    LeftOut,
    QuestionAnsweringSpec,
    QuestionAnsweringTask,
    QuestionAnsweringTraining,
    QuestionDataset,
    Questions,
)
from umt_pipeline.training.launch import run
from umt_pipeline.training.task import TrainConfig
from umt_pipeline.video.pixels import normalise_patches, patchify
from umt_pipeline.video.views import ViewConfig

VIEW = {"frames": 4, "size": 32, "flip": True}
ROWS = [
    ("q0", "clip0", "What is it?", "a disc"),
    ("q1", "clip0", "Where does it go?", "left"),
    ("q1", "clip0", "Where does it go?", "up"),
    ("q1", "clip0", "Where does it go?", "left"),
    ("q2", "clip1", "What is it?", "a red disc goes left"),
    ("q3", "clip1", "what is it", "a star"),
    ("q3", "clip1", "what is it", "a red disc goes left"),
    ("q4", "clip2", "What is it?", "a disc"),
    ("q5", "clip1", "?!", "a disc"),
]
TABLE = pd.DataFrame(ROWS, columns=list(COLUMNS))
TOKENIZER = train_wordpiece([text for row in ROWS for text in row[2:]], 60)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips, the last one of another split; a question table; a stage-2 model of two frames."""
    folder = tmp_path_factory.mktemp("questions")
    write_mapped(folder / "clips.arrow", make_corpus(folder / "media", ["train", "train", "test"]))
    TABLE.to_parquet(folder / "questions.parquet")
    vision = ViTConfig(image_size=32, patch_size=8, frames=2, dim=24, depth=2, heads=2)
    text = TextConfig(
        vocab_size=60, dim=16, layers=3, fusion_layer=2, heads=2, mlp_dim=32, max_positions=16, vision_dim=24, dropout=0.0
    )
    torch.manual_seed(0)
    (folder / "stage2").mkdir()
    save_video_text(folder / "stage2", VideoTextModel(VideoTextConfig(vision=vision, text=text, embed_dim=8)), TOKENIZER)
    return folder


def make_spec(world: Path, **changes: Any) -> QuestionAnsweringSpec:
    tuning = {"view": VIEW, "max_question_length": 8, "max_answer_length": 5, "drop_path": 0.0}
    values = {
        "start": world / "stage2",
        "questions": world / "questions.parquet",
        "clips": world / "clips.arrow",
        "media_root": world / "media",
        "split": "train",
        "dataset_id": "tiny",
        "train": TrainConfig(steps=1, batch_size=2, lr=1e-3, device="cpu"),
        "seed": 0,
    }
    others = {name: changes.pop(name) for name in list(changes) if name in values}
    return QuestionAnsweringSpec.model_validate({**values, **others, "tuning": {**tuning, **changes}})


def questions(world: Path, table: pd.DataFrame = TABLE, longest: int = 5, length: int = 8) -> Questions:
    return Questions(table, ("clip0", "clip1"), world / "stage2" / "tokenizer", length, longest)


def test_answers_weigh_as_often_as_they_are_given(world: Path) -> None:
    found = questions(world)
    assert found.question_ids == ("q0", "q1", "q3"), "q2 has no short answer, q4 another split's clip, q5 no words"
    assert found.clips == ("clip0", "clip0", "clip1")
    batch = found.read(np.array([1, 0, 2]))
    assert batch["question"] == ["q1", "q0", "q3"]
    torch.testing.assert_close(batch["weights"], torch.tensor([[2 / 3, 1 / 3], [1.0, 0.0], [1.0, 0.0]]))
    for row, texts in enumerate((["left", "up"], ["a disc"], ["a star"])):
        for column, text in enumerate(texts):
            ids = batch["answers"][row, column][batch["answer_mask"][row, column]]
            assert TOKENIZER.decode(ids) == f"[CLS] {text} [SEP]"


def test_questions_are_cleaned_and_answers_are_not(world: Path) -> None:
    table = pd.DataFrame([("q", "clip0", "What - is it?", "left?")], columns=list(COLUMNS))
    batch = questions(world, table).read(np.array([0]))
    assert TOKENIZER.decode(batch["ids"][0], skip_special_tokens=True) == "what is it"
    assert TOKENIZER.unk_token_id in batch["answers"], "the question mark of the answer is kept, though no word piece"
    assert batch["ids"].shape == (1, 8)


def test_long_answers_are_left_out_and_said_so(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = questions(world)
    assert found.left_out == LeftOut(long_answers={"a red disc goes left": 7}, rows=2, questions=1, blank=1)
    assert "1 answers are longer than max_answer_length (5 tokens) and left out, with 2 rows and 1 questions" in caplog.text
    assert "'a red disc goes left' (7)" in caplog.text
    assert "1 questions are empty once cleaned" in caplog.text
    caplog.clear()
    more = questions(world, TABLE[TABLE["question_id"] != "q5"], longest=7)
    assert more.question_ids == ("q0", "q1", "q2", "q3")
    assert more.left_out == LeftOut({}, 0, 0, 0)
    assert caplog.text == ""


def test_tables_that_cannot_be_trained_on(world: Path) -> None:
    with pytest.raises(TableError, match="answer not found in"):
        questions(world, TABLE.drop(columns="answer"))
    doubled = TABLE.replace({"question_id": {"q0": "q1"}})
    with pytest.raises(TableError, match="question_id 'q1' stands for different questions or videos, as do 0 others"):
        questions(world, doubled)
    with pytest.raises(TableError, match="1 of 9 rows have an empty cell"):
        questions(world, TABLE.replace({"answer": {"a star": None}}))
    with pytest.raises(ConfigError, match="none of the 4 questions about the 2 clips can be trained on"):
        questions(world, TABLE[TABLE["question_id"] != "q5"].iloc[[0, 1, 4, 5]], longest=2)
    with pytest.raises(ConfigError, match=r"max_question_length is 17, .* the model in .* has 16 positions"):
        make_spec(world, max_question_length=17).build()


def test_samples_are_the_same_in_any_process(world: Path) -> None:
    dataset = make_spec(world).build().dataset()
    batch = dataset.batch(np.array([0, 2]), np.full(2, 3))
    again = pickle.loads(pickle.dumps(dataset)).batch(np.array([0, 2]), np.full(2, 3))
    assert batch["clip"] == ["clip0", "clip1"]
    assert batch["frames"].shape == (2, 4, 32, 32, 3)
    for key in ("frames", "ids", "mask", "answers", "answer_mask", "weights"):
        assert torch.equal(batch[key], again[key]), key
    assert not torch.equal(batch["frames"], dataset.batch(np.array([0, 2]), np.full(2, 4))["frames"]), "a new view"


@torch.no_grad()
def test_the_loss_is_the_published_sum(world: Path) -> None:
    """Over the answers of a question, weight times cross-entropy summed over tokens; divided by the number of questions."""
    task = make_spec(world).build()
    model: Any = task.model.eval()
    batch = task.dataset().batch(np.array([0, 1, 2]), np.full(3, 0))
    found = task.loss(model, batch, torch.Generator())
    answers = [{"a disc": 1.0}, {"left": 2 / 3, "up": 1 / 3}, {"a star": 1.0}]
    total = 0.0
    for row, weights in enumerate(answers):
        patches = normalise_patches(patchify(batch["frames"][row : row + 1], 8))
        alone = model.encode(
            patches, torch.arange(64).unsqueeze(0), *encode_batch(TOKENIZER, [ROWS[[0, 1, 5][row]][2]], 8)
        )
        for text, weight in weights.items():
            ids, _ = encode_answers(TOKENIZER, [text])
            logits = model.decoder.logits(model.decoder(ids.unsqueeze(0), alone)[0, 0])
            losses = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="sum")
            total += weight * float(losses)
    assert float(found.total) == pytest.approx(total / 3, rel=1e-5)
    assert float(found.parts["full_questions"]) == 0.0


def test_full_questions_are_counted(world: Path) -> None:
    task = make_spec(world, max_question_length=5).build()
    # Three and four words, with [CLS] and [SEP] five and six tokens.
    batch = task.dataset().batch(np.array([0, 1]), np.full(2, 0))
    assert float(task.loss(task.model, batch, torch.Generator()).parts["full_questions"]) == 1.0


def test_a_few_steps_learn_the_answers(world: Path) -> None:
    torch.manual_seed(0)
    task = make_spec(world).build()
    batch = task.dataset().batch(np.arange(3), np.full(3, 0))
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-2)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = task.loss(task.model, batch, torch.Generator()).total
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.15 * losses[0]
    # No model gets below the entropy of a question with two answers.
    assert losses[-1] > (math.log(3) - 2 / 3 * math.log(2)) / 3
    assert task.sample_ids(batch) == ["q0", "q1", "q3"]


@pytest.mark.slow
@pytest.mark.usefixtures("no_waits")
def test_the_loop_gives_the_same_losses_whoever_reads(world: Path, tmp_path: Path) -> None:
    """A thread or a worker process, which loads the tokenizer of its own."""

    def losses(workers: int) -> list[float]:
        settings = {"steps": 3, "batch_size": 2, "lr": 1e-3, "log_every": 1, "device": "cpu", "workers": workers}
        spec = make_spec(world, train=TrainConfig.model_validate(settings))
        return [row["loss"] for row in run(spec, tmp_path / str(workers)).result.history]

    assert len(losses(0)) == 3
    assert losses(0) == losses(1)


def test_the_start_is_taken_over_and_positions_are_interpolated(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        task = make_spec(world, drop_path=0.1).build()
    assert "new in the decoder, not from" in caplog.text
    assert "decoder.layers.0.crossattention.self.key.weight" in caplog.text
    model: Any = task.model
    assert (model.config.vision.frames, model.config.vision.drop_path) == (4, 0.1)
    assert torch.equal(model.vision.positions_AD, position_table(24, 2, 4, 4, 4))
    assert task.encoder() is model.vision
    save_question_answering(tmp_path, model, TOKENIZER)
    caplog.clear()
    again: Any = make_spec(world, start=tmp_path).build().model
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items())
    assert torch.equal(again.vision.positions_AD, model.vision.positions_AD)
    assert "new in the decoder" not in caplog.text
    assert load_question_answering(tmp_path)[0].config == model.config


def test_parameters_refuse_what_cannot_be() -> None:
    train = {"epochs": 1, "batch_size": 4, "lr": 1e-4}
    config = QuestionAnsweringTraining.model_validate({"view": VIEW, "train": train})
    assert (config.max_question_length, config.max_answer_length) == (25, 5)
    with pytest.raises(ValueError, match="greater than or equal to 3"):
        QuestionAnsweringTraining.model_validate({"view": VIEW, "train": train, "max_answer_length": 2})


def test_pieces_fit_together_without_a_factory(world: Path) -> None:
    """The library's parts, as a notebook would use them."""
    clips = DecodedClips(MappedTable(world / "clips.arrow"), "train", world / "media", ViewConfig(frames=2, size=32), "tiny")
    save_tokenizer(TOKENIZER, world / "words")
    dataset = QuestionDataset(clips, Questions(TABLE, clips.clip_ids.to_pylist(), world / "words", 8, 5))
    assert len(dataset) == 3, "those of both training clips"
    model = QuestionAnsweringModel.from_video_text(VideoTextModel(_stage2_config(world)))[0]
    batch = dataset.batch(np.array([2]), np.zeros(1, dtype=np.int64))
    loss = QuestionAnsweringTask(model, dataset).loss(model, batch, torch.Generator())
    likelihood = model(
        normalise_patches(patchify(batch["frames"], 8)), torch.arange(32).unsqueeze(0), batch["ids"], batch["mask"],
        Answers(batch["answers"], batch["answer_mask"]),
    )  # fmt: skip
    assert loss.total.item() == pytest.approx(-(likelihood * batch["weights"]).sum().item())


def _stage2_config(world: Path) -> VideoTextConfig:
    return VideoTextConfig.model_validate(load_config(world / "stage2", "umt_video_text")[0])
