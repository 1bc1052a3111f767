"""Self-attention of an open_clip tower under autocast, without the copies that torch's module makes.

Shapes: F frames, J tokens, W width, H heads, d width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umt_pipeline.models.attention import attend


class PackedAttention(nn.MultiheadAttention):
    """torch's multi-head attention; plain self-attention under autocast takes a shorter way.

    torch's own way transposes a batch-first input, after which autocast's matrix product copies the projection's weight for
    every token: on a CPU a ViT-B/16 in bf16 was slower than in fp32. Outside autocast nothing changes, to the bit.
    """

    @classmethod
    def take_over(cls, attn: nn.Module) -> None:
        """Make a loaded ``nn.MultiheadAttention`` one of these in place; its weights and hooks stay."""
        if type(attn) is nn.MultiheadAttention and attn.batch_first and attn._qkv_same_embed_dim and attn.bias_k is None:
            attn.__class__ = cls

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        needed = {name for name, given in kwargs.items() if given is not None and given is not False}
        plain = query is key and key is value and not args and not needed and "need_weights" in kwargs
        drops = self.training and self.dropout > 0
        if not plain or drops or not torch.is_autocast_enabled(query.device.type):
            return super().forward(query, key, value, *args, **kwargs)
        qkv_FJ3Hd = F.linear(query, self.in_proj_weight, self.in_proj_bias).unflatten(-1, (3, self.num_heads, -1))
        q_FHJd, k_FHJd, v_FHJd = qkv_FJ3Hd.permute(2, 0, 3, 1, 4).unbind(0)
        return self.out_proj(attend(q_FHJd, k_FHJd, v_FHJd).transpose(1, 2).flatten(2)), None
