"""The attention kernels agree."""

from __future__ import annotations

import pytest
import torch

from umt_pipeline.models.attention import SHORT, attend


@pytest.mark.parametrize("length", [16, SHORT, SHORT + 1])
def test_both_attention_kernels_agree_in_bf16(length: int) -> None:
    torch.manual_seed(0)
    exact = [torch.randn(2, 3, length, 32, requires_grad=True) for _ in range(3)]
    rounded = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    expected, found = attend(*exact), attend(*rounded)
    torch.testing.assert_close(found.float(), expected, rtol=0.0, atol=0.03)
    weights = torch.randn(expected.shape)
    (expected * weights).sum().backward()
    (found * weights.bfloat16()).sum().backward()
    torch.testing.assert_close(rounded[1].grad.float(), exact[1].grad, rtol=0.0, atol=0.05)
