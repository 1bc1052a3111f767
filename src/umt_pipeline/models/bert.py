"""BERT's building blocks, under the names that its published checkpoints have, and with the arithmetic of transformers' own.

A layer here is a set of parts; who builds a model of them says in which order they run (:mod:`umt_pipeline.models.text`, the
answer decoder of question answering).

Shapes: B texts, L text length, D width, F hidden width of the feed-forward part, H heads, d width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Segments that a published BERT tells apart; all texts here are of the first one.
SEGMENTS = 2


@dataclass(frozen=True)
class BertSizes:
    """What the parts are made by.

    Args:
        dim: D.
        heads: H, a divisor of D.
        mlp_dim: F.
        dropout: of hidden states and of attention weights.
        eps: of every LayerNorm.
    """

    dim: int
    heads: int
    mlp_dim: int
    dropout: float
    eps: float


class Embeddings(nn.Module):
    """Words, positions and segments, summed and normed. Row 0 of the words is padding and gets no gradient."""

    def __init__(self, sizes: BertSizes, vocab_size: int, max_positions: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, sizes.dim, padding_idx=0)
        self.position_embeddings = nn.Embedding(max_positions, sizes.dim)
        self.token_type_embeddings = nn.Embedding(SEGMENTS, sizes.dim)
        self.LayerNorm = nn.LayerNorm(sizes.dim, eps=sizes.eps)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Return tokens [B, L, D] of ids, int64."""
        positions_1L = torch.arange(ids_BL.shape[1], device=ids_BL.device).unsqueeze(0)
        x_BLD = self.word_embeddings(ids_BL) + self.token_type_embeddings(torch.zeros_like(ids_BL))
        x_BLD = x_BLD + self.position_embeddings(positions_1L)
        return self.dropout(self.LayerNorm(x_BLD))


class Projections(nn.Module):
    """Query, key and value of an attention."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)


class Residual(nn.Module):
    """A linear layer, whose output is added to what came before the part that it ends; post-norm."""

    def __init__(self, width: int, sizes: BertSizes) -> None:
        super().__init__()
        self.dense = nn.Linear(width, sizes.dim)
        self.LayerNorm = nn.LayerNorm(sizes.dim, eps=sizes.eps)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, hidden: Tensor, before_BLD: Tensor) -> Tensor:
        """Return [B, L, D] of hidden states [B, L, width]."""
        return self.LayerNorm(self.dropout(self.dense(hidden)) + before_BLD)


class BertAttention(nn.Module):
    """Multi-head attention with its output layer, of tokens to each other or, by :meth:`cross`, to something else."""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.heads, self.drop = sizes.heads, sizes.dropout
        self.self = Projections(sizes.dim)
        self.output = Residual(sizes.dim, sizes)

    def forward(self, x_BLD: Tensor, mask_B11L: Tensor | None = None, *, causal: bool = False) -> Tensor:
        """Let tokens attend to each other; returns [B, L, D].

        Args:
            x_BLD: tokens.
            mask_B11L: True at tokens that may be attended to; None: all.
            causal: whether a token sees none that comes later; without a mask.
        """
        inner = self.self
        projected = inner.query(x_BLD), inner.key(x_BLD), inner.value(x_BLD)
        return self._mix(x_BLD, projected, mask_B11L, causal and x_BLD.shape[1] > 1)

    def cross(self, x_BLD: Tensor, other_RVZ: Tensor, mask_B11V: Tensor | None = None, rows_B: Tensor | None = None) -> Tensor:
        """Let tokens attend to something else; returns [B, L, D].

        Args:
            x_BLD: tokens.
            other_RVZ: what they attend to, as wide as ``self.key`` and ``self.value`` read.
            mask_B11V: True where it may be attended to; None: everywhere.
            rows_B: the row of ``other_RVZ`` for each row of tokens, int64. Keys and values are projected once per row of
                ``other_RVZ``, so that one may be shared by many at little cost. None: row i is for row i.
        """
        inner = self.self
        query, key, value = inner.query(x_BLD), inner.key(other_RVZ), inner.value(other_RVZ)
        if rows_B is not None:
            key, value = key.index_select(0, rows_B), value.index_select(0, rows_B)
        return self._mix(x_BLD, (query, key, value), mask_B11V, False)

    def _mix(self, x_BLD: Tensor, projected: tuple[Tensor, Tensor, Tensor], mask: Tensor | None, causal: bool) -> Tensor:
        query, key, value = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in projected)
        drop = self.drop if self.training else 0.0
        attended_BHLd = F.scaled_dot_product_attention(query, key, value, mask, drop, causal)
        mixed_BLD: Tensor = self.output(attended_BHLd.transpose(1, 2).flatten(2), x_BLD)
        return mixed_BLD


class Hidden(nn.Module):
    """The wide layer of the feed-forward part."""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.dense = nn.Linear(sizes.dim, sizes.mlp_dim)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Return [B, L, F]."""
        return F.gelu(self.dense(x_BLD))


class BertLayer(nn.Module):
    """Self-attention, cross-attention if there is something to cross to, feed-forward part."""

    def __init__(self, sizes: BertSizes, *, crosses: bool = False) -> None:
        super().__init__()
        self.attention = BertAttention(sizes)
        if crosses:
            self.crossattention = BertAttention(sizes)
        self.intermediate = Hidden(sizes)
        self.output = Residual(sizes.mlp_dim, sizes)

    def feed_forward(self, x_BLD: Tensor) -> Tensor:
        """Return [B, L, D] after the last part."""
        return self.output(self.intermediate(x_BLD), x_BLD)


class LanguageTransform(nn.Module):
    """What stands between hidden states and the vocabulary."""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.dense = nn.Linear(sizes.dim, sizes.dim)
        self.LayerNorm = nn.LayerNorm(sizes.dim, eps=sizes.eps)

    def forward(self, states: Tensor) -> Tensor:
        """Return [..., D]."""
        return self.LayerNorm(F.gelu(self.dense(states)))
