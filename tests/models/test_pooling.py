"""Attention pooling: against the definition of attention, and what the mean cannot do."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from umt_pipeline.models.pooling import AttentionPool

B, V, D, H = 3, 10, 16, 4


def make_pool() -> AttentionPool:
    torch.manual_seed(0)
    return AttentionPool(D, H)


def test_it_is_the_mean_plus_what_each_heads_query_reads() -> None:
    pool, tokens, positions = make_pool(), torch.randn(B, V, D), torch.randn(B, V, D)
    key, value = pool.key_value(pool.norm(tokens + positions)).chunk(2, dim=-1)
    read = []
    for head in range(H):
        part = slice(head * D // H, (head + 1) * D // H)
        weights = torch.softmax(key[..., part] @ pool.query_H1d[head, 0] * (D // H) ** -0.5, dim=1)
        read.append(torch.einsum("bv,bvd->bd", weights, value[..., part]))
    expected = tokens.mean(dim=1) + F.linear(torch.cat(read, dim=1), pool.proj.weight, pool.proj.bias)
    torch.testing.assert_close(pool(tokens, positions), expected, atol=1e-5, rtol=1e-5)


def test_order_of_tokens_does_not_matter_but_their_positions_do() -> None:
    pool, tokens, positions = make_pool(), torch.randn(B, V, D), torch.randn(B, V, D)
    order = torch.randperm(V)
    pooled = pool(tokens, positions)
    torch.testing.assert_close(pool(tokens[:, order], positions[:, order]), pooled, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(pool(tokens[:, order], positions), pooled, atol=1e-3), "the mean alone would be the same"
