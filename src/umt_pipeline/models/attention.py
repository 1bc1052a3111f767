"""The attention kernel of student and teacher.

Shapes: V tokens, d width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to so many tokens plain attention is faster than flash in bf16 on a CPU; see `attend`.
SHORT = 640


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention [..., V, d] with the kernel that trains fastest on the device.

    That is torch's own choice but for sequences up to ``SHORT`` in bf16 on a CPU, if a gradient is wanted. There the flash
    kernel's backward pass is slow and torch's plain kernel computes in fp32: it is two matrix products and a softmax, all in
    bf16. CPU time of forward and backward pass against flash, one core with AVX512-BF16, torch 2.14.1, head width 64, median of
    nine alternations: 64 tokens 0.18, 128 tokens 0.24, 196 tokens 0.34, 320 tokens 0.41, 640 tokens 0.64; head width 32, 16
    tokens 0.13. Longer sequences would also need memory for their whole matrix. Forward alone flash is the faster one, as in
    fp32, and it takes its softmax in float32.
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad and query.shape[-2] <= SHORT:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        return scores.softmax(dim=-1) @ value
    return F.scaled_dot_product_attention(query, key, value)
