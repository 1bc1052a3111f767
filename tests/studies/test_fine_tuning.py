"""Fine-tuning starts from the pre-trained weights, may use few labels, and is tested without favour."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from studies.claims.bank import ClipBank
from studies.claims.encoders import EncoderSize, TeacherEncoder
from studies.claims.fine_tuning import (
    FineTuningConfig,
    FineTuningTask,
    encoder_weights,
    labelled_clips,
    make_label_model,
    top1_accuracy,
)
from studies.claims.inputs import InputConfig
from studies.claims.pretraining import PretrainingConfig, PretrainingTask
from tests.features.tiny import make_teacher_folder
from tests.studies.tiny import make_bank
from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.training.loop import train
from umt_pipeline.training.task import TrainConfig

SIZE = EncoderSize(dim=16, depth=2, heads=2)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> ClipBank:
    return make_bank(tmp_path_factory.mktemp("bank"))


@pytest.mark.parametrize("objective", ["alignment", "pixels"])
def test_the_encoder_of_either_objective_is_taken_over(bank: ClipBank, tmp_path: Path, objective: str) -> None:
    config = PretrainingConfig.model_validate({"objective": objective, "attention": "frame"})
    before = PretrainingTask(bank, "train", SIZE, config, seed=0).model
    save_file({name: value.contiguous() for name, value in before.state_dict().items()}, tmp_path / "model.safetensors")
    weights = encoder_weights(tmp_path / "model.safetensors")
    model = make_label_model(bank, SIZE, FineTuningConfig(), tmp_path, weights)
    expected = before.encoder.state_dict()  # type: ignore[union-attr, operator]
    assert all(torch.equal(value, expected[name]) for name, value in model.encoder.state_dict().items())


def test_weights_of_other_clips_are_refused(bank: ClipBank, tmp_path: Path) -> None:
    start = make_label_model(bank, SIZE, FineTuningConfig(), tmp_path, None).encoder.state_dict()
    with pytest.raises(CheckpointError, match="pre-trained encoder of the study"):
        make_label_model(bank, SIZE, FineTuningConfig(clip=InputConfig(frames=4, tubelet=2)), tmp_path, start)


def test_the_teacher_itself_can_be_fine_tuned(bank: ClipBank, tmp_path: Path) -> None:
    folder = make_teacher_folder(tmp_path)
    config = FineTuningConfig(teacher=True)
    model = make_label_model(bank, SIZE, config, folder, None)
    assert isinstance(model.encoder, TeacherEncoder)
    loop = TrainConfig(steps=2, batch_size=4, lr=1e-3, device="cpu")
    task = FineTuningTask(model, bank, "train", config, seed=0)
    before = model.encoder.visual.conv1.weight.clone()
    train(task, loop, seed=0, run_dir=tmp_path / "run")
    assert not torch.equal(model.encoder.visual.conv1.weight, before)
    assert not torch.equal(model.encoder.temporal_T1W, torch.zeros_like(model.encoder.temporal_T1W))


def test_labelled_clips_are_a_few_of_each_class_and_fewer_are_among_more() -> None:
    rng = np.random.default_rng(0)
    shapes_I = rng.permutation(np.repeat([0, 1, 2], [30, 9, 2]))
    numbers_IL = np.stack([shapes_I, rng.integers(0, 4, 41)], axis=1)
    bank = cast(ClipBank, SimpleNamespace(numbers_IL=numbers_IL, clips=lambda splits: np.arange(1, 41)))
    counts_of = {few: np.bincount(shapes_I[labelled_clips(bank, "train", few, 7)], minlength=3) for few in (1, 3, 10)}
    available = np.bincount(shapes_I[1:], minlength=3)
    assert all((counts == np.minimum(available, few)).all() for few, counts in counts_of.items())
    one, three, every = (labelled_clips(bank, "train", few, 7) for few in (1, 3, None))
    assert set(one) < set(three) < set(every)
    assert every.tolist() == list(range(1, 41))
    assert three.tolist() == sorted(three)
    assert three.tolist() != labelled_clips(bank, "train", 3, 8).tolist(), "another seed labels others"


def test_accuracy_counts_every_clip_once_and_ties_as_wrong(bank: ClipBank, tmp_path: Path) -> None:
    model = make_label_model(bank, SIZE, FineTuningConfig(), tmp_path, None)
    with torch.no_grad():
        for head in model.heads:
            head.weight.zero_()
            head.bias.zero_()
    assert top1_accuracy(model, bank, ["train", "test"], InputConfig(), 2) == {"shape": 0.0, "motion": 0.0}
    with torch.no_grad():
        model.heads[0].bias[1] = 1.0
    places = bank.clips(["train", "test"])
    share = 100.0 * (bank.numbers_IL[places, 0] == 1).mean()
    assert top1_accuracy(model, bank, ["train", "test"], InputConfig(), 2)["shape"] == pytest.approx(share)


def test_labels_can_be_learnt(bank: ClipBank, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = make_label_model(bank, SIZE, FineTuningConfig(), tmp_path, None)
    task = FineTuningTask(model, bank, "train", FineTuningConfig(), seed=0)
    result = train(task, TrainConfig(steps=60, batch_size=5, lr=3e-3, log_every=60, device="cpu"), seed=0, run_dir=tmp_path)
    assert {"shape", "motion"} < set(result.history[-1])
    assert top1_accuracy(model, bank, ["train"], InputConfig(), 2) == {"shape": 100.0, "motion": 100.0}
