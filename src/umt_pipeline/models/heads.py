"""The alignment heads: what lets student tokens be compared with teacher tokens.

Shapes: K aligned layers, B clips, V visible tokens, D student width, C teacher output width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umt_pipeline.models.vit import NORM_EPS


class AlignmentHead(nn.Module):
    """Linear projection, LayerNorm, unit length: the published stage-1 "decoder" of one layer."""

    def __init__(self, dim: int, target_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, target_dim)
        self.norm = nn.LayerNorm(target_dim, eps=NORM_EPS)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, tokens_BVD: Tensor) -> Tensor:
        """Return unit vectors [B, V, C]."""
        return F.normalize(self.norm(self.proj(tokens_BVD)).float(), dim=-1)


class AlignmentHeads(nn.Module):
    """One independent head per aligned layer; slot 0 is the shallowest layer (UMT section 3.2)."""

    def __init__(self, layers: int, dim: int, target_dim: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(AlignmentHead(dim, target_dim) for _ in range(layers))

    def forward(self, layers_KBVD: Tensor, positions_BVD: Tensor) -> Tensor:
        """Project the normed block outputs.

        Args:
            layers_KBVD: block outputs after the encoder's final norm.
            positions_BVD: position vectors of the tokens; the published code adds them once more before projecting.

        Returns:
            Unit vectors [K, B, V, C], float32.
        """
        return torch.stack([head(layer + positions_BVD) for head, layer in zip(self.heads, layers_KBVD, strict=True)])
