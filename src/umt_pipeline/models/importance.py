"""How much each patch matters to an image tower: one row of attention, computed without the rest of the matrix.

Shapes: F frames, J tokens (X prefix tokens, the class token first, then N patches), W tower width, H heads, d width of a
head, Q latent queries of an attention pool.

Masks are drawn from it, so it is computed in float32 inside of autocast too: it costs a hundredth of the tower.

Source: UMT section 3.2 draws the mask from the last block's class-token attention, averaged over heads. Towers without a
class token give the weights of their attention pool, towers without either the norms of their last tokens.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.layers import Attention, AttentionPoolLatent, AttentionRope, apply_rot_embed_cat
from timm.models.eva import EvaAttention
from torch import Tensor, cat, nn

from umt_pipeline.compute.precision import full_precision
from umt_pipeline.models.packed_attention import PackedAttention

# Kinds of attention whose weights `class_attention` knows how to read; a subclass may compute something else.
_KNOWN = (nn.MultiheadAttention, PackedAttention, Attention, EvaAttention, AttentionRope)


def can_read(attn: nn.Module) -> bool:
    """Return whether :func:`class_attention` computes what this attention module computes."""
    return (type(attn) in _KNOWN or _is_open_clips(attn)) and getattr(attn, "logit_scale", None) is None


def class_attention(attn: Any, tokens_FJW: Tensor, rope: Tensor | None, prefix: int) -> Tensor:
    """Return the class token's attention to the patches, averaged over heads: float32 [F, N], summing to at most 1.

    Only this one query is computed. The whole matrix would cost as much as the block's own attention, and taking
    it from the block would forbid the fused kernel.

    Args:
        attn: an attention module that :func:`can_read` accepts.
        tokens_FJW: its input.
        rope: rotary position embedding of the patches, where the tower has one.
        prefix: X.
    """
    with full_precision(tokens_FJW.device):
        return _class_attention(attn, tokens_FJW.float(), rope, prefix)


def _class_attention(attn: Any, tokens_FJW: Tensor, rope: Tensor | None, prefix: int) -> Tensor:
    frames, heads = len(tokens_FJW), attn.num_heads
    weight_q, bias_q, weight_k, bias_k = _query_and_key(attn)
    # The class token comes first and is not rotated: rotary positions are those of patches.
    q_FH1d = F.linear(tokens_FJW[:, 0], weight_q, bias_q).reshape(frames, heads, 1, -1)
    head_dim = q_FH1d.shape[-1]
    k_FHJd = F.linear(tokens_FJW, weight_k, bias_k).unflatten(-1, (-1, head_dim)).transpose(1, 2)
    norm_q, norm_k = _head_norms(attn)
    q_FH1d, k_FHJd = norm_q(q_FH1d), norm_k(k_FHJd)
    if rope is not None:
        rotated = apply_rot_embed_cat(k_FHJd[:, :, prefix:], rope, half=attn.rotate_half)
        k_FHJd = cat((k_FHJd[:, :, :prefix], rotated), dim=2)
    if k_FHJd.shape[1] != heads:
        k_FHJd = k_FHJd.repeat_interleave(heads // k_FHJd.shape[1], dim=1)
    weights_FH1J = ((q_FH1d @ k_FHJd.transpose(-2, -1)).float() * head_dim**-0.5).softmax(dim=-1)
    return weights_FH1J[:, :, 0, prefix:].mean(dim=1)


def pool_attention(pool: AttentionPoolLatent, tokens_FJW: Tensor, prefix: int) -> Tensor:
    """Return the attention of a pool's learnt queries to the patches, averaged over heads and queries: float32 [F, N].

    Args:
        pool: the attention pool.
        tokens_FJW: its input, after the tower's final norm.
        prefix: X, among the tokens that the pool reads.
    """
    with full_precision(tokens_FJW.device):
        return _pool_attention(pool, tokens_FJW.float(), prefix)


def _pool_attention(pool: AttentionPoolLatent, tokens_FJW: Tensor, prefix: int) -> Tensor:
    width = pool.num_heads * pool.head_dim
    bias_k = None if pool.kv.bias is None else pool.kv.bias[:width]
    q_HQd = pool.q(pool.latent[0]).unflatten(-1, (pool.num_heads, pool.head_dim)).transpose(0, 1)
    k_FHJd = F.linear(tokens_FJW, pool.kv.weight[:width], bias_k).unflatten(-1, (-1, pool.head_dim)).transpose(1, 2)
    q_HQd, k_FHJd = pool.q_norm(q_HQd), pool.k_norm(k_FHJd)
    weights_FHQJ = ((q_HQd @ k_FHJd.transpose(-2, -1)).float() * pool.head_dim**-0.5).softmax(dim=-1)
    return weights_FHQJ[..., prefix:].mean(dim=(1, 2))


def token_norm(tokens_FNW: Tensor) -> Tensor:
    """Return each patch's share of the sum of all patches' norms: float32 [F, N].

    Args:
        tokens_FNW: raw outputs of the last block, before the final norm would make their norms alike.
    """
    return F.normalize(tokens_FNW.float().norm(dim=-1), p=1.0, dim=-1)


def _query_and_key(attn: Any) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """Return weights and biases of the query and the key projection."""
    fused = isinstance(attn, nn.MultiheadAttention) or _is_open_clips(attn)
    if not fused and attn.qkv is None:
        return attn.q_proj.weight, attn.q_proj.bias, attn.k_proj.weight, attn.k_proj.bias
    weight, bias = (attn.in_proj_weight, attn.in_proj_bias) if fused else (attn.qkv.weight, attn.qkv.bias)
    size = len(weight) // 3
    bias_q, bias_k = (None, None) if bias is None else (bias[:size], bias[size : 2 * size])
    if isinstance(attn, EvaAttention):
        bias_q, bias_k = attn.q_bias, attn.k_bias
    return weight[:size], bias_q, weight[size : 2 * size], bias_k


def _head_norms(attn: Any) -> tuple[nn.Module, nn.Module]:
    """Return the norms of queries and keys, which most towers do not have."""
    if isinstance(attn, nn.MultiheadAttention):
        return nn.Identity(), nn.Identity()
    return (attn.ln_q, attn.ln_k) if _is_open_clips(attn) else (attn.q_norm, attn.k_norm)


def _is_open_clips(attn: nn.Module) -> bool:
    # By name: whoever has no model of open_clip's need not have open_clip.
    return (type(attn).__module__, type(attn).__qualname__) == ("open_clip.transformer", "Attention")
