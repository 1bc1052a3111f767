"""Which patches the student sees: semantic (attention), random, tube and no masking, by Gumbel top-k.

Shapes: B clips, T frames, N patches per frame, V visible patches per clip (n per frame). Positions are integers in
[0, T * N), in (t, h, w) raster order, sorted. The masks do not depend on the teacher's presence, only the kind ``attention``
needs its attention rows.

Source: UMT section 3.2 ("semantic masking"); drawing without replacement with probabilities proportional to weights
equals taking the k largest of log-weight plus Gumbel noise.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from umt_pipeline.core.config import Config

# Scores are below 100 in size, so float32 rounds them by at most 8e-6.
_SCORE_ROUNDING = 1e-5

MaskKind = Literal["attention", "random", "tube", "none"]
# What a teacher's weights of the patches are: the last block's class-token attention, the attention of the pool that makes
# its image embedding, or, where it has neither, the norms of its last tokens.
Importance = Literal["class_attention", "pool_attention", "token_norm"]


class MaskConfig(Config):
    """How visible patches are chosen: the kind, and the share of each frame's patches that is hidden."""

    kind: MaskKind = "attention"
    ratio: float = 0.8


def visible_count(num_patches: int, ratio: float) -> int:
    """Return the visible patches per frame as the published code counts them: N - int(N * ratio)."""
    if not 0.0 <= ratio < 1.0:
        raise ValueError(f"mask ratio must be in [0, 1), found {ratio}")
    return num_patches - int(num_patches * ratio)


def draw_visible(config: MaskConfig, noise_BTN: Tensor, attention_BTN: Tensor | None = None) -> Tensor:
    """Draw the visible positions of a batch of clips.

    Args:
        config: kind of mask and hidden share. ``random`` draws per frame, like ``attention`` with equal weights.
        noise_BTN: independent uniform noise in [0, 1), [B, T, N]; it decides everything that is random here, so equal
            noise gives equal masks on every device.
        attention_BTN: weights of the patches, [B, T, N], not negative, need not sum to one. Only for ``attention``. They
            are of the kind (see :data:`Importance`) that the teacher has.

    Returns:
        Sorted positions [B, V] (int64), the same number in each frame.

    Raises:
        ValueError: attention masking without attention rows.
    """
    B, T, N = noise_BTN.shape
    device = noise_BTN.device
    offsets_T1 = torch.arange(T, device=device).mul(N).unsqueeze(1)
    if config.kind == "none":
        return torch.arange(T * N, device=device).expand(B, T * N)
    keep = visible_count(N, config.ratio)
    kept_BTn = _scores(config, noise_BTN, attention_BTN).topk(keep, dim=-1).indices.sort(dim=-1).values
    return (kept_BTn + offsets_T1).reshape(B, T * keep)


def is_drawn(config: MaskConfig, visible_BV: Tensor, noise_BTN: Tensor, attention_BTN: Tensor | None = None) -> Tensor:
    """Tell which of these masks :func:`draw_visible` may have drawn, bool [B].

    Logarithms differ in the last bit between devices, so two patches whose scores are equal but for rounding may change
    patches: this is no other mask.

    Args:
        config: kind of mask and hidden share.
        visible_BV: the masks, as :func:`draw_visible` returns them.
        noise_BTN: as there.
        attention_BTN: as there.
    """
    B, T, N = noise_BTN.shape
    if config.kind == "none":
        return (visible_BV == draw_visible(config, noise_BTN)).all(dim=-1)
    scores_BTN = _scores(config, noise_BTN, attention_BTN)
    shown_BTN = torch.zeros(B, T * N, dtype=torch.bool, device=noise_BTN.device).scatter_(1, visible_BV, True).reshape(B, T, N)
    infinity = torch.inf
    worst_shown_BT = scores_BTN.masked_fill(~shown_BTN, infinity).amin(dim=-1)
    best_hidden_BT = scores_BTN.masked_fill(shown_BTN, -infinity).amax(dim=-1)
    counted_BT = shown_BTN.sum(dim=-1) == visible_count(N, config.ratio)
    return (counted_BT & (worst_shown_BT >= best_hidden_BT - _SCORE_ROUNDING)).all(dim=-1)


def _scores(config: MaskConfig, noise_BTN: Tensor, attention_BTN: Tensor | None) -> Tensor:
    """Return scores [B, T, N], of which the largest are drawn."""
    # Uniform -> Gumbel. The clamps keep noise 0 and 1 finite.
    tiny = torch.finfo(torch.float32).tiny
    exponential_BTN = -torch.log(noise_BTN.float().clamp(min=tiny, max=1.0 - 2.0**-24))
    scores_BTN = -torch.log(exponential_BTN)
    match config.kind:
        case "attention":
            if attention_BTN is None:
                raise ValueError("mask.kind 'attention' needs the teacher's attention rows, none were given")
            # A weight of zero is drawn last, not never: there may be fewer positive weights than visible patches.
            return scores_BTN + torch.log(attention_BTN.float().clamp(min=tiny))
        case "tube":
            return scores_BTN[:, :1].expand_as(scores_BTN)
        case "random":
            return scores_BTN
        case kind:
            raise ValueError(f"mask.kind {kind!r} draws no patches by scores")
