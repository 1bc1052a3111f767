"""The bank holds every frame, and what the teacher says about the training frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from studies.claims.bank import ClipBank, bank_key, build_bank, choose_clips, unit_mean
from tests.features.tiny import make_teacher
from tests.studies.tiny import PATCH, SIZE, make_bank, tables
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.features.targets import run_teacher


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> ClipBank:
    return make_bank(tmp_path_factory.mktemp("bank"))


def test_frames_lie_one_clip_after_the_other(bank: ClipBank) -> None:
    assert bank.frames_FSSC.shape == (int(bank.lengths_I.sum()), SIZE, SIZE, 3)
    assert (bank.starts_I[1:] == np.cumsum(bank.lengths_I)[:-1]).all()
    assert set(bank.splits_I) == {"train", "validation", "test"}
    assert bank.classes == (2, 2)


def test_the_teacher_saw_the_training_frames_and_no_others(bank: ClipBank, tmp_path: Path) -> None:
    clip = int(bank.clips(["train"])[1])
    rows = slice(bank.starts_I[clip], bank.starts_I[clip] + bank.lengths_I[clip])
    teacher = make_teacher(tmp_path)
    answer = run_teacher(teacher, torch.from_numpy(bank.frames_FSSC[rows].copy()).unsqueeze(0))
    tokens_FKNC = teacher.project(answer.layers_KFNW).transpose(0, 1)
    assert torch.allclose(torch.from_numpy(bank.tokens_FKNC[rows]).float(), tokens_FKNC, atol=1e-3)
    assert np.allclose(bank.attention_FN[rows], answer.attention_BTN[0].numpy(), atol=1e-3)
    held_out = int(bank.clips(["test"])[0])
    assert not bank.tokens_FKNC[bank.starts_I[held_out] : bank.starts_I[held_out] + bank.lengths_I[held_out]].any()


def test_a_bank_that_is_there_is_not_built_again(bank: ClipBank, tmp_path: Path) -> None:
    videos, labels = tables(tmp_path)
    clips = choose_clips(videos, labels, ["shape", "motion"], ["train", "test"], "train", 4)
    again = build_bank(bank.folder, clips, tmp_path / "nowhere", make_teacher(tmp_path / "teacher"), SIZE, PATCH)
    assert again.video_ids == bank.video_ids


def test_the_key_tells_of_everything_that_is_in_a_bank(tmp_path: Path) -> None:
    videos, labels = tables(tmp_path)
    clips = choose_clips(videos, labels, ["shape", "motion"], ["train", "test"], "train", 4)
    fewer = choose_clips(videos, labels, ["shape"], ["train", "test"], "train", 4)
    keys = {
        bank_key(clips, SIZE, PATCH, 2, "a"),
        bank_key(fewer, SIZE, PATCH, 2, "a"),
        bank_key(clips, 64, PATCH, 2, "a"),
        bank_key(clips, SIZE, 16, 2, "a"),
        bank_key(clips, SIZE, PATCH, 1, "a"),
        bank_key(clips, SIZE, PATCH, 2, "b"),
    }
    assert len(keys) == 6


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    videos, labels = tables(tmp_path)
    with pytest.raises(ConfigError, match="no video in split 'dev', only in"):
        choose_clips(videos, labels, ["shape"], ["train", "dev"], "train", 4)
    with pytest.raises(ConfigError, match="at least 99 frames, found 7 shorter ones"):
        choose_clips(videos, labels, ["shape"], ["train", "test", "validation"], "train", 99)
    with pytest.raises(ConfigError, match="have no label of task 'texture'"):
        choose_clips(videos, labels, ["texture"], ["train"], "train", 4)
    odd = labels.copy()
    test_video = videos.loc[videos["split"] == "test", "video_id"].iloc[-1]
    odd.loc[(odd["video_id"] == test_video) & (odd["task"] == "shape"), "label"] = "moon"
    with pytest.raises(ConfigError, match="no video of split 'train' has label 'moon'"):
        choose_clips(videos, odd, ["shape"], ["train", "test"], "train", 4)


def test_the_mean_of_unit_vectors_has_unit_length() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(2, 5, 8), dim=-1)
    assert torch.allclose(unit_mean(vectors, dim=0).norm(dim=-1), torch.ones(5))
