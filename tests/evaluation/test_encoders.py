from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.evaluation.tiny import VISION, encode_clips, make_folders, make_tables
from umt_pipeline.core.errors import VideoError
from umt_pipeline.evaluation.encoders import (
    ClipEncoder,
    VideoEncoder,
    VideoTextEncoder,
    clip_loader,
    view_of,
)
from umt_pipeline.evaluation.loading import Models, load_models
from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.evaluation.tables import Tables
from umt_pipeline.models.vit import VideoViT
from umt_pipeline.video.pixels import normalise_patches, patchify
from umt_pipeline.video.views import ViewConfig


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return make_tables(tmp_path_factory.mktemp("media"), ("train",) * 3 + ("test",) * 3)


@pytest.fixture(scope="module")
def models(tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> Models:
    return load_models(make_folders(tmp_path_factory.mktemp("models"), tables), seed=0, precision="fp32")


def noise(video_id: str, view: ViewConfig) -> np.ndarray:
    rng = np.random.default_rng(int(video_id))
    return rng.integers(0, 256, (view.frames, view.size, view.size, 3), dtype=np.uint8)


def test_each_clip_is_decoded_once_for_all_encoders_and_batches_do_not_matter(models: Models, tmp_path: Path) -> None:
    decoded: list[str] = []

    def load(video_id: str, view: ViewConfig) -> np.ndarray:
        decoded.append(video_id)
        return noise(video_id, view)

    ids = [str(number) for number in range(7)]
    everyone: list[ClipEncoder] = [models.teacher, models.untrained, models.stage1, models.stage2]
    some = encode_clips(tmp_path, ids, everyone, load, batch_size=3, threads=2)
    assert sorted(decoded) == ids
    alone = encode_clips(tmp_path, ids, everyone, load, batch_size=1, threads=1)
    assert some.video_ids == alone.video_ids == tuple(ids)
    assert set(some.arrays) == {
        "teacher_cls", "teacher_patch", "untrained", "stage1", "stage2", "stage2/embedding",
    }  # fmt: skip
    for name, feature in some.arrays.items():
        torch.testing.assert_close(feature.all(), alone.arrays[name].all(), rtol=1e-4, atol=1e-5)


def test_features_are_what_they_say(models: Models) -> None:
    frames = torch.from_numpy(np.stack([noise("0", models.stage1.view), noise("1", models.stage1.view)]))
    patches = normalise_patches(patchify(frames, VISION.patch_size))
    with torch.inference_mode():
        tokens = models.stage1.vision(patches, torch.arange(patches.shape[1]).expand(2, -1))
        features = models.stage1.encode(frames) | models.teacher.encode(frames)
        one = models.teacher.encode(frames[:, :1])
        two = models.teacher.encode(frames[:, 1:])
    torch.testing.assert_close(features["stage1"], tokens.mean(1))
    for name in ("teacher_cls", "teacher_patch"):
        torch.testing.assert_close(features[name], (one[name] + two[name]) / 2)
    torch.testing.assert_close(one["teacher_cls"].norm(dim=-1), torch.ones(2))


def test_features_in_bf16_are_others_and_close(models: Models) -> None:
    frames = torch.from_numpy(np.stack([noise("0", models.stage1.view), noise("1", models.stage1.view)]))
    for encoder in (models.teacher, models.stage1, models.stage2):
        rounded = replace(encoder, precision="bf16")
        assert rounded.identity == {**encoder.identity, "precision": "bf16"}
        with torch.inference_mode():
            exact, found = encoder.encode(frames), rounded.encode(frames)
        for name, feature in found.items():
            assert feature.dtype == torch.float32
            assert not torch.equal(feature, exact[name])
            assert torch.cosine_similarity(feature, exact[name]).min() > 0.999
    texts = ["a disc 0 goes left", "star"]
    exact_BE, found_BE = (replace(models.stage2, precision=used).encode_text(texts)[2] for used in ("fp32", "bf16"))
    torch.testing.assert_close(found_BE, exact_BE, rtol=0.0, atol=0.02)


def test_encoders_of_other_clip_sizes_get_their_own_view(tmp_path: Path) -> None:
    small = VideoEncoder("small", VideoViT(VISION.model_copy(update={"frames": 1, "image_size": 16})))
    large = VideoEncoder("large", VideoViT(VISION))
    features = encode_clips(tmp_path, ["0", "1"], [small, large], noise, batch_size=2, threads=1)
    assert features.arrays["small"].shape == features.arrays["large"].shape == (2, VISION.dim)


def test_a_clip_that_fails_is_listed_and_not_replaced(tables: Tables, models: Models, tmp_path: Path) -> None:
    root = tmp_path / "media"
    root.mkdir()
    for path in tables.videos["path"]:
        (root / path).write_bytes((tables.media_root / path).read_bytes())
    (root / "clip1.mp4").write_bytes(b"no video")
    (root / "clip2.mp4").unlink()
    ids = [f"clip{number}" for number in range(6)]
    load = clip_loader(tables.videos, root)
    features = encode_clips(tmp_path / "features", ids, [models.stage1], load, batch_size=2, threads=2)
    assert features.video_ids == ("clip0", "clip3", "clip4", "clip5")
    assert set(features.failures) == {"clip1", "clip2"}
    assert features.arrays["stage1"].shape == (4, VISION.dim)
    places, rows = features.select(["clip5", "clip1", "clip0", "unknown"])
    assert (places.tolist(), rows.tolist()) == ([0, 2], [3, 0])


def test_all_clips_fail(models: Models, tmp_path: Path) -> None:
    def load(video_id: str, view: ViewConfig) -> np.ndarray:
        raise VideoError("missing_file", video_id)

    features = encode_clips(tmp_path, ["0", "1"], [models.stage1], load, batch_size=2)
    assert (features.video_ids, dict(features.arrays), len(features.failures)) == ((), {}, 2)
    assert encode_clips(tmp_path, [], [models.stage1], load, batch_size=2).video_ids == ()


def test_broken_weights_are_an_error(tmp_path: Path) -> None:
    vision = VideoViT(VISION)
    with torch.no_grad():
        vision.norm.weight[0] = torch.nan
    with pytest.raises(EvaluationError, match="'stage1' gave NaN or infinity for clip '0'"):
        encode_clips(tmp_path, ["0"], [VideoEncoder("stage1", vision)], noise, batch_size=2)


def test_pair_scores_are_the_matching_heads(models: Models, tmp_path: Path) -> None:
    model = VideoTextEncoder("stage2", models.stage2.model, models.stage2.tokenizer, keep_tokens=True)
    texts = ["a disc 0 goes left", "star", "disc moving up"]
    text, mask, embedding = model.encode_text(texts, batch_size=2)
    assert mask.sum(1).max() == mask.shape[1] == text.shape[1]
    torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(3))
    video = encode_clips(tmp_path, ["0", "1", "2"], [model], noise, batch_size=2).arrays["stage2/tokens"]
    assert video.dtype == torch.float16
    text_g, clip_g = np.array([0, 2, 1, 1, 2]), np.array([0, 0, 1, 2, 2])
    scores = model.pair_scorer(text, mask, video, pairs_per_pass=2)(text_g, clip_g)
    with torch.inference_mode():
        whole = model.model.match_logits(text[text_g], mask[text_g], video[clip_g].float())
        one_text, one_mask, _ = model.encode_text(texts[1:2])
        alone = model.model.match_logits(one_text, one_mask, video[1:2].float())[0]
    np.testing.assert_allclose(scores, whole, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(scores[2], alone, rtol=1e-4)
    assert model.pair_scorer(text, mask, video)(text_g[:0], clip_g[:0]).shape == (0, 2)


def test_texts_are_cut_where_the_evaluation_says(models: Models) -> None:
    model, text = models.stage2, ["a disc 0 goes left and a star 1 goes up"]
    own, _, embedding = model.encode_text(text)
    short, mask, other = model.encode_text(text, 5)
    assert (own.shape[1], short.shape[1], mask.sum().item()) == (12, 5, 5)
    assert not torch.allclose(embedding, other)
    assert torch.equal(model.encode_text(["a disc"], 12)[2], model.encode_text(["a disc"])[2])
    with pytest.raises(EvaluationError, match="text_length is 13, but the model 'stage2' has 12 positions"):
        model.encode_text(text, 13)


def test_pooled_by_frame_as_published(models: Models) -> None:
    frames = torch.from_numpy(np.stack([noise("0", models.stage2.view), noise("1", models.stage2.view)]))
    model = models.stage2.model
    with torch.inference_mode():
        by_frame = dataclasses.replace(models.stage2, pool="frame").encode(frames)
        by_clip = models.stage2.encode(frames)
        patches = normalise_patches(patchify(frames, VISION.patch_size))
        tokens = model.vision(patches, torch.arange(patches.shape[1]).expand(2, -1))
        each = torch.stack([model.project_video(model.pool_norm(part.mean(1))) for part in tokens.chunk(2, dim=1)], dim=1)
        whole = model.project_video(model.pool_norm(tokens.mean(1)))
    torch.testing.assert_close(by_frame["stage2/embedding"], each.mean(1))
    torch.testing.assert_close(by_clip["stage2/embedding"], whole)
    torch.testing.assert_close(by_frame["stage2"], by_clip["stage2"])  # what probes read stays the same


def test_views_come_from_the_model(models: Models) -> None:
    assert models.teacher.view == models.stage2.view == view_of(VISION) == ViewConfig(frames=2, size=32)
