"""Weights of frames and patches: those that the model itself computes with, and where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import umt_pipeline as umt
from tests.evaluation.tiny import VISION, make_tables
from tests.serving.folders import write_clip, write_folder
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.evaluation.encoders import VideoTextEncoder
from umt_pipeline.evaluation.tables import Tables
from umt_pipeline.models.pooling import AttentionPool
from umt_pipeline.models.tokenizer import encode_batch
from umt_pipeline.models.video_text import VideoTextModel, load_video_text, save_video_text
from umt_pipeline.models.vit import all_patches
from umt_pipeline.serving.attending import MEANINGS, Attention


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return make_tables(tmp_path_factory.mktemp("media"), ("train", "test"))


@pytest.fixture(scope="module")
def path(tables: Tables) -> Path:
    return tables.media_root / "clip1.mp4"


def check(found: Attention, source: str, frames: int = VISION.frames) -> None:
    assert found.source == source
    assert source in MEANINGS
    grid = found.patch_weights.shape[1]
    assert found.frames.shape == (frames, VISION.image_size, VISION.image_size, 3)
    assert found.patch_weights.shape == (frames, grid, grid)
    assert (found.patch_weights >= 0).all()
    assert found.patch_weights.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(found.frame_weights, found.patch_weights.sum(axis=(1, 2)), rtol=1e-5)
    assert len(found.seconds) == frames


def test_words_attend_as_the_fusion_layers_compute(
    tmp_path: Path, tables: Tables, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = umt.load(write_folder("stage2", tmp_path / "model", tables), "fp32")
    found = model.attention(path, "a star goes up")
    check(found, "cross_attention")
    np.testing.assert_allclose(found.seconds, [0.0, 0.3], atol=1e-6)
    # What torch's own attention was given and gave, in the one fusion layer of this model.
    assert model.embedder is not None
    encoder = model.embedder.encoder
    assert isinstance(encoder, VideoTextEncoder)
    given: list[tuple[torch.Tensor, torch.Tensor]] = []
    plain = F.scaled_dot_product_attention

    def watched(query: torch.Tensor, key: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        given.append((query, key))
        return plain(query, key, *rest, **more)

    network = encoder.model
    patches, visible = all_patches(torch.from_numpy(found.frames)[None], VISION)
    ids, mask = encode_batch(encoder.tokenizer, ["a star goes up"], 12, pad_to=1)
    with torch.inference_mode():
        text = network.text.encode(ids, mask)
        video = network.encode_video(patches, visible)[0]
        monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
        network.text.fuse(text, mask, video)
    query, key = given[-1]
    weights = (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(-1)[0, :, 1:-1].mean(dim=(0, 1))
    np.testing.assert_allclose(found.patch_weights.ravel(), weights / weights.sum(), rtol=1e-4)


def test_without_a_text_the_pool_says_where_it_looks(tmp_path: Path, tables: Tables, path: Path) -> None:
    folder = write_folder("stage2", tmp_path / "mean", tables)
    check(umt.load(folder, "fp32").attention(path), "token_norm")
    network, tokenizer = load_video_text(folder)
    pooled = VideoTextModel(network.config.model_copy(update={"pool": "attention"})).eval()
    (tmp_path / "pooled").mkdir()
    save_video_text(tmp_path / "pooled", pooled, tokenizer)
    found = umt.load(tmp_path / "pooled", "fp32").attention(path)
    check(found, "attention_pool")
    # The pool's output is its weights times its values: with one-hot values the weights themselves can be read.
    assert isinstance(pooled.attention_pool, AttentionPool)
    patches, visible = all_patches(torch.from_numpy(found.frames)[None], VISION)
    with torch.inference_mode():
        tokens = pooled.vision(patches, visible)
        pool = pooled.attention_pool
        keys, _ = pool.key_value(pool.norm(tokens + pooled.vision.positions(visible))).chunk(2, dim=-1)
        keys = keys[0].unflatten(-1, (2, 8)).transpose(0, 1)
        ones = torch.eye(tokens.shape[1]).expand(2, -1, -1)
        weights = F.scaled_dot_product_attention(pool.query_H1d, keys, ones)[:, 0].mean(dim=0)
    np.testing.assert_allclose(found.patch_weights.ravel(), weights, rtol=1e-4)


def test_a_student_says_it_by_its_tokens(tmp_path: Path, tables: Tables, path: Path) -> None:
    model = umt.load(write_folder("stage1", tmp_path / "stage1", tables), "fp32")
    check(model.attention(path), "token_norm")
    with pytest.raises(ConfigError, match="this model reads no text"):
        model.attention(path, "a disc")
    with pytest.raises(ConfigError, match="text 0: expected a text with something to read"):
        model.attention(path, " ")


def test_a_clip_says_which_frames_fit_a_text(tmp_path: Path, path: Path) -> None:
    model = umt.load(f"open_clip:local-dir:{write_clip(tmp_path / 'clip')}", "fp32", frames=2)
    check(model.attention(path), "class_attention")
    found = model.attention(path, "a disc", span=(0.0, 0.3))
    check(found, "frame_cosines")
    assert found.seconds.max() < 0.3
    cosines = [
        (model.embed_videos(np.stack([frame[None]])).all() @ model.embed_texts(["a disc"]).T).item() for frame in found.frames
    ]
    assert model.embedder is not None
    temperature = model.embedder.encoder.temperature  # type: ignore[attr-defined]
    expected = (torch.tensor(cosines) / temperature).softmax(dim=0)
    np.testing.assert_allclose(found.frame_weights, expected, rtol=1e-3)
