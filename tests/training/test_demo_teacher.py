"""The training of the demo's teacher: which sentences are true of which frames, and that it learns and is found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from umt_pipeline.demo_world.symbols import KINDS
from umt_pipeline.models.teacher import CLIP_WEIGHTS_FILE, TeacherConfig, load_teacher
from umt_pipeline.training.demo_teacher import DemoTeacherSpec, DrawnFrames, Sentences, contrast, demo_model, truths
from umt_pipeline.training.launch import run
from umt_pipeline.training.task import TrainConfig

SENTENCES = Sentences.make()


def words(row: int) -> str:
    return str(SENTENCES.tokenizer.decode(SENTENCES.ids_RL[row], skip_special_tokens=True))


def test_a_sentence_says_what_it_is_listed_under() -> None:
    anchor = KINDS.index("anchor")
    assert sorted(map(words, range(*SENTENCES.starts[anchor, -1, -1]))) == ["a picture of an anchor", "an anchor"]
    assert "there is a red little anchor" in map(words, range(*SENTENCES.starts[anchor, 0, 0]))
    assert (SENTENCES.ids_RL != SENTENCES.tokenizer.unk_token_id).all()
    longest = (SENTENCES.ids_RL != SENTENCES.tokenizer.pad_token_id).sum(axis=1).max()
    assert longest < SENTENCES.ids_RL.shape[1], "none is cut"


def test_a_frame_has_a_sentence_that_is_true_of_it() -> None:
    batch = DrawnFrames(500, 0).batch(np.arange(500), np.zeros(500, dtype=np.int64))
    shown, said = batch["shown"], batch["said"]
    true, unclear = truths(shown, said)
    assert true.diagonal().all()
    assert not (true & unclear).any()
    assert torch.equal(shown[:, 0], said[:, 0])
    assert (said[shown[:, 2] < 0, 2] < 0).all(), "no word of a size that has none"
    for row in range(0, 500, 50):
        first, end = SENTENCES.starts[tuple(said[row].tolist())]
        assert (SENTENCES.ids_RL[first:end] == batch["ids"][row].numpy()).all(axis=1).any()


def test_truths_by_example() -> None:
    shown = torch.tensor([[1, 0, 0], [1, 0, -1], [1, 2, 1], [3, 0, 0]])
    said = torch.tensor([[1, 0, 0], [1, 0, -1], [1, -1, -1], [3, 0, 0]])
    true, unclear = truths(shown, said)
    assert true.int().tolist() == [[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert unclear.int().tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_where_one_pair_each_is_true_the_loss_is_clips() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 6), torch.arange(6)
    expected = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    nothing = torch.zeros(6, 6, dtype=torch.bool)
    assert contrast(logits, torch.eye(6, dtype=torch.bool), nothing).item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_pair_of_which_nothing_is_known_has_no_say() -> None:
    torch.manual_seed(0)
    logits, true = torch.randn(4, 4), torch.eye(4, dtype=torch.bool)
    unclear = torch.zeros(4, 4, dtype=torch.bool)
    unclear[0, 2] = True
    found = contrast(logits, true, unclear)
    logits[0, 2] = 50.0
    assert contrast(logits, true, unclear).item() == pytest.approx(found.item(), abs=1e-6)


def test_two_steps_give_the_same_folder_twice(tmp_path: Path) -> None:
    train = TrainConfig(steps=2, batch_size=8, lr=1e-3, precision="fp32", device="cpu")
    spec = DemoTeacherSpec(model=demo_model(), train=train, seed=0)
    contents = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        run(spec, tmp_path / f"run_{name}").export(folder)
        contents.append((folder / CLIP_WEIGHTS_FILE).read_bytes())
    assert contents[0] == contents[1]
    assert len(contents[0]) <= 2 * 2**20
    teacher = load_teacher(tmp_path / "a", TeacherConfig(source="demo", layers=2), 4, text=True)
    assert teacher.importance == "class_attention"
    assert teacher.encode_text(["a red anchor"]).shape == (1, 128)
