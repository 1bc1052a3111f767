"""The attention of frozen towers: torch's but for rounding in fp32, and as good as torch's under autocast."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from umt_pipeline.models.packed_attention import PackedAttention


def make_pair() -> tuple[nn.MultiheadAttention, nn.MultiheadAttention]:
    torch.manual_seed(0)
    torchs, ours = (nn.MultiheadAttention(32, 4, batch_first=True).eval() for _ in range(2))
    ours.load_state_dict(torchs.state_dict())
    PackedAttention.take_over(ours)
    assert isinstance(ours, PackedAttention)
    return torchs, ours


@torch.no_grad()
def test_in_fp32_it_differs_from_torchs_by_rounding_alone() -> None:
    torchs, ours = make_pair()
    x = torch.randn(3, 7, 32)
    expected = torchs(x, x, x, need_weights=False)[0]
    torch.testing.assert_close(ours(x, x, x, need_weights=False)[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("asked", [{}, {"need_weights": True}, {"need_weights": False, "attn_mask": torch.zeros(7, 7)}])
@torch.no_grad()
def test_under_autocast_it_is_as_close_to_fp32_as_torchs(asked: dict[str, object]) -> None:
    torchs, ours = make_pair()
    x = torch.randn(3, 7, 32)
    exact = torchs(x, x, x, need_weights=False)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found, weights = ours(x, x, x, **{"need_weights": False, **asked})
        torchs_error = (torchs(x, x, x, need_weights=False)[0] - exact).abs().max()
    assert (found - exact).abs().max() <= 1.5 * torchs_error + 1e-3
    assert (weights is None) == (not asked.get("need_weights"))


def gradient(module: nn.MultiheadAttention) -> torch.Tensor:
    torch.manual_seed(1)
    x = torch.randn(3, 7, 32)
    with torch.autocast("cpu", torch.bfloat16):
        module(x, x, x, need_weights=False)[0].square().sum().backward()
    assert module.in_proj_weight.grad is not None
    return module.in_proj_weight.grad


def test_training_takes_the_short_way_too_unless_attention_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    torchs, ours = (module.train() for module in make_pair())
    expected = gradient(torchs)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("torch's own way")

    monkeypatch.setattr(nn.MultiheadAttention, "forward", never)
    torch.testing.assert_close(gradient(ours), expected, rtol=0.02, atol=0.02)
    ours.dropout = 0.5
    with pytest.raises(AssertionError, match="torch's own way"):
        gradient(ours)


def test_other_modules_stay_what_they_are() -> None:
    for module in (nn.Linear(2, 2), nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 2, kdim=4, batch_first=True)):
        before = type(module)
        PackedAttention.take_over(module)
        assert type(module) is before
