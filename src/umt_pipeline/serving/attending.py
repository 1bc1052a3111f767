"""Where a model looks in a clip: a weight of each frame and of each patch.

Shapes: T frames, S side of a frame in pixels, h w patches along its height and width, V = T * h * w tokens, D width, L text
length, H heads, d width of a head, E embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.evaluation.encoders import ClipEncoder, TeacherEncoder, VideoEncoder, VideoTextEncoder
from umt_pipeline.evaluation.workers import default_device
from umt_pipeline.models.pooling import AttentionPool
from umt_pipeline.models.teacher import Teacher
from umt_pipeline.models.tokenizer import encode_batch
from umt_pipeline.models.video_text import VideoTextModel
from umt_pipeline.models.vit import VideoViT, all_patches
from umt_pipeline.serving.inputs import Clip, Span, Video, require_texts, timed_clip
from umt_pipeline.video.pixels import normalise_frames

# What weights may be read from, in words.
MEANINGS = {
    "cross_attention": "attention of the text's words to the patches, averaged over words, heads and fusion layers",
    "attention_pool": "attention of the pool that makes the embedding, averaged over its heads",
    "token_norm": "length of the patches' last tokens before the final norm",
    "class_attention": "attention of the image tower's class token in each frame, averaged over heads",
    "pool_attention": "attention of the image tower's pool in each frame, averaged over heads and queries",
    "frame_cosines": "softmax of the frames' cosines with the text, within a frame the tower's own importance of patches",
}


@dataclass(frozen=True)
class Attention:
    """Where a model looked.

    Attributes:
        source: what the weights were read from, a key of :data:`MEANINGS`.
        frames: what it was shown, uint8 [T, S, S, 3].
        seconds: when each frame is shown, float64 [T]; NaN for frames without a file.
        frame_weights: float32 [T], sum 1: that of its patches.
        patch_weights: float32 [T, h, w], sum 1.
    """

    source: str
    frames: np.ndarray
    seconds: np.ndarray
    frame_weights: np.ndarray
    patch_weights: np.ndarray


def attention_of(encoder: ClipEncoder, video: Video, text: str | None = None, span: Span | None = None) -> Attention:
    """Return where a model looks in a video, or for what a text says.

    It computes in float32, whatever the model runs in.

    Args:
        encoder: of a video-text model, a bare video encoder, or an image tower.
        video: in any form.
        text: None: where it looks anyway.
        span: first and last second of the part that it is shown; None: all of it.

    Raises:
        ConfigError: there is a text, and the model reads none, or the text is blank.
        VideoError: the video cannot be read.
    """
    if text is not None:
        require_texts([text], "text")
    clip = timed_clip(video, encoder.view, span)
    frames_1TSSC = torch.from_numpy(np.ascontiguousarray(clip.frames)).unsqueeze(0).to(default_device())
    with torch.inference_mode():
        if isinstance(encoder, VideoTextEncoder):
            source, weight_V = _video_text(encoder, frames_1TSSC, text)
        elif isinstance(encoder, TeacherEncoder):
            source, weight_V = _teacher(encoder, frames_1TSSC, text)
        elif isinstance(encoder, VideoEncoder) and text is None:
            source, weight_V = "token_norm", _norms(encoder.vision, frames_1TSSC)
        else:
            raise ConfigError("attention: this model reads no text: leave the text out")
    return _shared(source, clip, weight_V)


def _shared(source: str, clip: Clip, weight_V: Tensor) -> Attention:
    frames = len(clip.frames)
    grid = int((weight_V.numel() // frames) ** 0.5)
    weights = (weight_V / weight_V.sum()).reshape(frames, grid, grid).float().cpu().numpy()
    return Attention(source, clip.frames, clip.seconds, weights.sum(axis=(1, 2)), weights)


def _video_text(encoder: VideoTextEncoder, frames_1TSSC: Tensor, text: str | None) -> tuple[str, Tensor]:
    model = encoder.model
    patches, visible = all_patches(frames_1TSSC, model.config.vision)
    if text is None:
        if model.attention_pool is None:
            return "token_norm", _norms(model.vision, frames_1TSSC)
        tokens_1VD = model.vision(patches, visible)
        return "attention_pool", _pool_weights(model.attention_pool, tokens_1VD, model.vision.positions(visible))
    tokens_1VD = model.vision(patches, visible)
    ids_1L, mask_1L = _tokens(encoder, text, frames_1TSSC.device)
    text_1LD = model.text.encode(ids_1L, mask_1L)
    return "cross_attention", _cross_weights(model, text_1LD, mask_1L, model.fusion_tokens(tokens_1VD, visible))


def _tokens(encoder: VideoTextEncoder, text: str, device: torch.device) -> tuple[Tensor, Tensor]:
    length, clean = encoder.text_length(None), encoder.model.config.clean_captions
    ids_1L, mask_1L = encode_batch(encoder.tokenizer, [text], length, clean=clean, pad_to=1)
    return ids_1L.to(device), mask_1L.to(device)


def _cross_weights(model: VideoTextModel, text_1LD: Tensor, mask_1L: Tensor, video_1VD: Tensor) -> Tensor:
    """Return how much the fusion layers' words attend to each token of a clip, [V]."""
    layers: list[Any] = list(model.text.layers)[model.config.text.fusion_layer :]
    inner = [layer.crossattention.self for layer in layers]
    with _outputs([part for layer in inner for part in (layer.query, layer.key)]) as kept:
        model.text.fuse(text_1LD, mask_1L, video_1VD)
    # Without [CLS] and [SEP], which stand for no word; a text of which nothing is left has only them.
    word_L = mask_1L[0].clone()
    word_L[[0, int(word_L.sum()) - 1]] = False
    word_L = word_L if word_L.any() else mask_1L[0]
    weights_V = torch.zeros(video_1VD.shape[1], device=video_1VD.device)
    for layer in inner:
        query_HLd, key_HVd = (
            kept[part][0].unflatten(-1, (model.config.text.heads, -1)).transpose(0, 1) for part in (layer.query, layer.key)
        )
        weights_V += _softmax(query_HLd[:, word_L], key_HVd).mean(dim=(0, 1))
    return weights_V


def _pool_weights(pool: AttentionPool, tokens_1VD: Tensor, positions_1VD: Tensor) -> Tensor:
    """Return how much the pool's queries attend to each token, [V]."""
    heads = len(pool.query_H1d)
    key_VD, _ = pool.key_value(pool.norm(tokens_1VD + positions_1VD))[0].chunk(2, dim=-1)
    return _softmax(pool.query_H1d, key_VD.unflatten(-1, (heads, -1)).transpose(0, 1)).mean(dim=(0, 1))


def _softmax(query_HLd: Tensor, key_HVd: Tensor) -> Tensor:
    """Return attention weights [H, L, V], which torch's own kernel does not hand out."""
    return (query_HLd @ key_HVd.transpose(-2, -1) * query_HLd.shape[-1] ** -0.5).softmax(dim=-1)


def _norms(vision: VideoViT, frames_1TSSC: Tensor) -> Tensor:
    """Return each token's share of the sum of all tokens' norms, [V]."""
    given: list[Tensor] = []
    hook = vision.norm.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    try:
        vision(*all_patches(frames_1TSSC, vision.config))
    finally:
        hook.remove()
    # Imported where it is needed: timm brings torchvision and torch's compiler, which take two seconds.
    from umt_pipeline.models.importance import token_norm

    return token_norm(given[0].reshape(1, -1, vision.config.dim))[0]


def _teacher(encoder: TeacherEncoder, frames_1TSSC: Tensor, text: str | None) -> tuple[str, Tensor]:
    teacher: Teacher = encoder.teacher
    output = teacher(normalise_frames(frames_1TSSC[0]))
    importance_TN = output.importance_FN
    if text is None:
        return teacher.importance, importance_TN.flatten()
    text_1E = teacher.encode_text([text])  # refuses what has no text tower
    share_T1 = (teacher.embed_image(output) @ text_1E.T / encoder.temperature).softmax(dim=0)
    return "frame_cosines", (share_T1 * importance_TN / importance_TN.sum(dim=1, keepdim=True)).flatten()


@contextmanager
def _outputs(modules: list[nn.Module]) -> Iterator[Mapping[nn.Module, Tensor]]:
    """Keep what modules return while the block runs."""
    kept: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _: object, output: Tensor) -> None:
        kept[module] = output

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()
