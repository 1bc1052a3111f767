"""The teacher that comes with the package: whole, small, and it knows what it is there for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.core.files import sha256_file
from umt_pipeline.demo_world import teacher as demo_teacher
from umt_pipeline.demo_world.frames import draw_frames
from umt_pipeline.demo_world.symbols import KINDS
from umt_pipeline.models.teacher import CLIP_WEIGHTS_FILE, TeacherConfig, load_teacher
from umt_pipeline.models.teacher_sources import fetch_teacher
from umt_pipeline.video.pixels import normalise_frames

# Of frames that it was not trained on, by its text tower; chance is 1.6 %. Its card has the numbers of more of them.
KNOWS = 0.8


def test_its_weights_are_those_of_the_card_and_small() -> None:
    weights = demo_teacher.FOLDER / CLIP_WEIGHTS_FILE
    assert sha256_file(weights) == demo_teacher.SHA256
    assert weights.stat().st_size <= 2 * 2**20
    assert demo_teacher.SHA256 in (demo_teacher.FOLDER / "README.md").read_text(encoding="utf-8")


def test_it_tells_kinds_apart_that_it_was_never_told_of_in_a_corpus(tmp_path: Path) -> None:
    fetch_teacher(demo_teacher.SOURCE, tmp_path)
    teacher = load_teacher(tmp_path, TeacherConfig(source=demo_teacher.SOURCE, layers=2), 4, text=True)
    frames = draw_frames(np.arange(600), 1_000_003, 48)
    output = teacher(normalise_frames(torch.from_numpy(frames.pixels_BSS3)))
    texts_KE = teacher.encode_text([f"a {kind}" for kind in KINDS])
    patches_BE = F.normalize(teacher.project(output.layers_KFNW[-1:])[0].mean(dim=1), dim=-1)
    for images_BE in (teacher.embed_image(output), patches_BE):
        guess_B = (images_BE @ texts_KE.T).argmax(dim=1).numpy()
        assert (guess_B == frames.kind_B).mean() > KNOWS


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_teacher, "SHA256", "0" * 64)
    with pytest.raises(CheckpointError, match=r"expected weights of SHA-256 0{64}, found"):
        fetch_teacher(demo_teacher.SOURCE, tmp_path)
    monkeypatch.setattr(demo_teacher, "FOLDER", tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="found nothing"):
        fetch_teacher(demo_teacher.SOURCE, tmp_path)
