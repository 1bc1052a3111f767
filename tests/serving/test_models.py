"""A model folder as a notebook uses it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import umt_pipeline as umt
from tests.evaluation.tiny import make_tables, make_video_text
from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.core.files import write_json
from umt_pipeline.evaluation.encoders import VideoTextEncoder, clip_loader
from umt_pipeline.models.folders import CONFIG_FILE
from umt_pipeline.models.video_text import load_video_text


def test_clips_and_texts_are_embedded_as_the_evaluation_does(tmp_path: Path) -> None:
    tables = make_tables(tmp_path / "media", ("train", "test"))
    make_video_text(tmp_path, tables, seed=2)
    model = umt.load(tmp_path)
    clips = tables.videos[tables.videos["media"] == "video"]
    videos = model.embed_videos([tables.media_root / path for path in clips["path"]])
    texts = model.embed_texts(["a disc", "a star that moves"])
    torch.testing.assert_close(torch.cat([videos, texts]).norm(dim=1), torch.ones(4))
    network, tokenizer = load_video_text(tmp_path)
    encoder = VideoTextEncoder("x", network.eval(), tokenizer)
    load = clip_loader(tables.videos, tables.media_root)
    frames = torch.from_numpy(np.stack([load(name, encoder.view) for name in clips["video_id"]]))
    with torch.inference_mode():
        torch.testing.assert_close(videos, encoder.encode(frames)["x/embedding"])


def test_other_models_are_refused(tmp_path: Path) -> None:
    write_json(tmp_path / CONFIG_FILE, {"kind": "umt_student", "model": {}, "extra": {}})
    with pytest.raises(CheckpointError, match=r"kind 'umt_student', expected 'umt_video_text'"):
        umt.load(tmp_path)
