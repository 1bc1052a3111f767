"""Pooling: how a clip's tokens become one vector, and what fusion layers read of both.

Shapes: B clips, V visible tokens per clip, D width, H heads, d width of a head, M askers per clip.

Stage 1 trains the encoder to answer like a frame model, so its tokens tell what is seen and forget where and when: their
mean cannot tell motions apart. The alignment heads read tokens together with their positions; the attention pool does the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umt_pipeline.models.vit import NORM_EPS


class AttentionPool(nn.Module):
    """The mean over all tokens, plus what learned queries, one per head, read from tokens with their positions.

    Args:
        dim: D, a multiple of ``heads``.
        heads: H; each can attend to other tokens, for example those of another moment.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.query_H1d = nn.Parameter(torch.randn(heads, 1, dim // heads))
        self.key_value = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens_BVD: Tensor, positions_BVD: Tensor) -> Tensor:
        """Return [B, D].

        Args:
            tokens_BVD: the encoder's tokens.
            positions_BVD: their position vectors.
        """
        key_BHVd, value_BHVd = self._keys_and_values(tokens_BVD, positions_BVD)
        query_BH1d = self.query_H1d.to(key_BHVd.dtype).expand(len(tokens_BVD), -1, -1, -1)
        read_BHd = F.scaled_dot_product_attention(query_BH1d, key_BHVd, value_BHVd).squeeze(2)
        return tokens_BVD.mean(dim=1) + self.proj(read_BHd.flatten(1))

    def read_for(self, asked_BMD: Tensor, tokens_BVD: Tensor, positions_BVD: Tensor) -> Tensor:
        """Return what each of M askers reads from a clip, [B, M, D]: the pool's queries, moved by what is asked.

        Args:
            asked_BMD: added to the queries, head by head; zeros read what :meth:`forward` adds to the mean.
            tokens_BVD: the encoder's tokens.
            positions_BVD: their position vectors.
        """
        key_BHVd, value_BHVd = self._keys_and_values(tokens_BVD, positions_BVD)
        asked_BHMd = asked_BMD.unflatten(-1, (len(self.query_H1d), -1)).transpose(1, 2)
        query_BHMd = (self.query_H1d + asked_BHMd).to(key_BHVd.dtype)
        read_BHMd = F.scaled_dot_product_attention(query_BHMd, key_BHVd, value_BHVd)
        return self.proj(read_BHMd.transpose(1, 2).flatten(2))

    def _keys_and_values(self, tokens_BVD: Tensor, positions_BVD: Tensor) -> tuple[Tensor, Tensor]:
        B, V, D = tokens_BVD.shape
        heads = len(self.query_H1d)
        key_value_BV2D = self.key_value(self.norm(tokens_BVD + positions_BVD))
        key_BHVd, value_BHVd = key_value_BV2D.reshape(B, V, 2, heads, D // heads).permute(2, 0, 3, 1, 4).unbind(0)
        return key_BHVd, value_BHVd


def pool_and_norm(
    tokens_BVD: Tensor, norm: nn.LayerNorm, attention_pool: AttentionPool | None, positions_BVD: Tensor | None
) -> Tensor:
    """Return one pooled and normed vector [B, D] of each row's tokens.

    Args:
        tokens_BVD: the encoder's tokens.
        norm: follows the pool.
        attention_pool: None: the tokens' mean, as published.
        positions_BVD: their position vectors, which the attention pool reads; None without one.
    """
    if attention_pool is None:
        return norm(tokens_BVD.mean(dim=1))
    assert positions_BVD is not None
    return norm(attention_pool(tokens_BVD, positions_BVD))


def fusion_input(tokens_BVD: Tensor, positions_BVD: Tensor | None, pooled_BD: Tensor | None) -> Tensor:
    """Return what fusion layers read of a clip [B, V, D]: its tokens, with what else each of them is to tell added.

    Args:
        tokens_BVD: the encoder's tokens.
        positions_BVD: their position vectors, with ``fuse_positions``.
        pooled_BD: the clip's vector from :func:`pool_and_norm`, with ``fuse_pooled``.
    """
    if positions_BVD is not None:
        tokens_BVD = tokens_BVD + positions_BVD
    return tokens_BVD if pooled_BD is None else tokens_BVD + pooled_BD.unsqueeze(1)
