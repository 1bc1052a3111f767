"""What a pre-training batch holds, and that both objectives learn from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from studies.claims.bank import ClipBank
from studies.claims.encoders import EncoderSize
from studies.claims.inputs import InputConfig, uniform
from studies.claims.pretraining import (
    BankViews,
    PixelStudent,
    PretrainingConfig,
    PretrainingTask,
    hidden_indices,
    patch_normalised,
)
from tests.studies.tiny import make_bank
from umt_pipeline.masking import MaskConfig
from umt_pipeline.training.loop import train
from umt_pipeline.training.task import TrainConfig

SIZE = EncoderSize(dim=16, depth=2, heads=2)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> ClipBank:
    return make_bank(tmp_path_factory.mktemp("bank"))


def read(bank: ClipBank, config: PretrainingConfig, passes: int = 0) -> dict[str, Any]:
    views = BankViews(bank, "train", config, seed=1)
    return dict(views.batch(np.array([2, 0]), np.array([passes, passes])))


def test_targets_are_the_teachers_tokens_at_the_visible_places_of_the_frames_that_are_read(bank: ClipBank) -> None:
    config = PretrainingConfig(layers=2, mask=MaskConfig(ratio=0.5))
    batch = read(bank, config)
    clip = bank.clips(["train"])[2]
    assert batch["clip"][0] == clip
    draws = uniform(1, np.array([clip]), np.array([0]), 0, 4)
    rows = bank.starts_I[clip] + config.clip.training_frames(bank.lengths_I[[clip]], draws)[0]
    assert (batch["frames"][0] == bank.frames_FSSC[rows]).all()
    visible = batch["visible"][0]
    assert len(visible) == 4 * 8
    for place, target_KC in zip(visible.tolist(), batch["targets"][0], strict=True):
        assert torch.equal(target_KC, torch.from_numpy(bank.tokens_FKNC[rows[place // 16], :, place % 16]))


def test_one_layer_is_the_last_one(bank: ClipBank) -> None:
    one, two = (read(bank, PretrainingConfig(layers=layers)) for layers in (1, 2))
    assert torch.equal(one["visible"], two["visible"])
    assert torch.equal(one["targets"], two["targets"][:, :, 1:])


def test_a_tubelets_target_is_the_mean_over_its_frames(bank: ClipBank) -> None:
    config = PretrainingConfig(clip=InputConfig(frames=4, tubelet=2), mask=MaskConfig(kind="none", ratio=0.0), layers=1)
    batch = read(bank, config)
    clip = bank.clips(["train"])[2]
    rows = bank.starts_I[clip] + config.clip.training_frames(
        bank.lengths_I[[clip]], uniform(1, np.array([clip]), np.array([0]), 0, 4)
    )
    tokens_TNC = torch.from_numpy(bank.tokens_FKNC[rows[0], -1]).float()
    mean_NC = torch.nn.functional.normalize((tokens_TNC[2] + tokens_TNC[3]) / 2, dim=-1)
    assert torch.allclose(batch["targets"][0, 16:, 0], mean_NC, atol=1e-6)


def test_another_pass_is_another_view(bank: ClipBank) -> None:
    assert not torch.equal(read(bank, PretrainingConfig())["visible"], read(bank, PretrainingConfig(), 1)["visible"])


def test_hidden_places_are_the_rest() -> None:
    visible = torch.tensor([[0, 3], [1, 2]])
    assert hidden_indices(visible, 5).tolist() == [[1, 2, 4], [0, 3, 4]]


def test_pixel_targets_are_normalised_patch_by_patch() -> None:
    target = patch_normalised(torch.randint(0, 256, (2, 3, 48), dtype=torch.uint8))
    assert torch.allclose(target.mean(dim=-1), torch.zeros(2, 3), atol=1e-5)
    assert torch.allclose(target.std(dim=-1), torch.ones(2, 3), atol=1e-2)
    assert not patch_normalised(torch.zeros(1, 1, 48, dtype=torch.uint8)).any(), "a flat patch has no deviation"


@pytest.mark.parametrize("objective", ["alignment", "pixels"])
@pytest.mark.parametrize("attention", ["joint", "frame"])
def test_both_objectives_are_learnt(bank: ClipBank, tmp_path: Path, objective: str, attention: str) -> None:
    torch.manual_seed(0)
    config = PretrainingConfig.model_validate({"objective": objective, "attention": attention})
    task = PretrainingTask(bank, "train", SIZE, config, seed=0)
    loop = TrainConfig(steps=30, batch_size=4, lr=5e-3, log_every=1, device="cpu")
    losses = [row["loss"] for row in train(task, loop, seed=0, run_dir=tmp_path).history]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_the_decoder_predicts_hidden_patches_only(bank: ClipBank) -> None:
    task = PretrainingTask(bank, "train", SIZE, PretrainingConfig(objective="pixels"), seed=0)
    model = task.model
    assert isinstance(model, PixelStudent)
    visible = torch.tensor([[0, 17, 35, 50]])
    predicted = model(torch.zeros(1, 4, 192), visible, hidden_indices(visible, 64))
    assert predicted.shape == (1, 60, 192)
