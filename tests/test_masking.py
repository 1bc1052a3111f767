"""Masks: the number, the order and the probabilities of visible patches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from umt_pipeline.masking import MaskConfig, MaskKind, draw_visible, is_drawn, visible_count


@pytest.mark.parametrize(("patches", "ratio", "expected"), [(196, 0.8, 40), (196, 0.5, 98), (16, 0.8, 4), (36, 0.0, 36)])
def test_visible_patches_are_counted_as_published(patches: int, ratio: float, expected: int) -> None:
    assert visible_count(patches, ratio) == expected


def test_a_ratio_that_hides_all_is_refused() -> None:
    with pytest.raises(ValueError, match="mask ratio"):
        visible_count(196, 1.0)


@given(
    kind=st.sampled_from(["attention", "random", "tube", "none"]),
    clips=st.integers(1, 3),
    frames=st.integers(1, 4),
    patches=st.integers(1, 30),
    ratio=st.floats(0.0, 0.95),
    seed=st.integers(0, 2**16),
)
def test_every_frame_shows_the_same_number_of_sorted_places(
    kind: MaskKind, clips: int, frames: int, patches: int, ratio: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand((clips, frames, patches), generator=generator)
    attention = torch.rand((clips, frames, patches), generator=generator) * (noise > 0.3)
    visible = draw_visible(MaskConfig(kind=kind, ratio=ratio), noise, attention)
    per_frame = patches if kind == "none" else visible_count(patches, ratio)
    assert visible.shape == (clips, frames * per_frame)
    assert (visible.diff(dim=1) > 0).all()
    assert is_drawn(MaskConfig(kind=kind, ratio=ratio), visible, noise, attention).all()
    assert torch.equal(visible // patches, torch.arange(frames).repeat_interleave(per_frame).expand(clips, -1))


@pytest.mark.parametrize("kind", ["attention", "random", "tube"])
def test_another_mask_is_told_apart(kind: MaskKind) -> None:
    generator = torch.Generator().manual_seed(0)
    noise, attention = torch.rand((3, 2, 16), generator=generator), torch.rand((3, 2, 16), generator=generator)
    config = MaskConfig(kind=kind)
    visible = draw_visible(config, noise, attention)
    # The second clip: one place moved to a hidden patch of its frame; the third: of the other frame.
    moved = visible.clone()
    moved[1, 0] = min(set(range(16)) - set(visible[1].tolist()))
    moved[2, 0] = 16 + min(set(range(16)) - {place - 16 for place in visible[2].tolist()})
    assert is_drawn(config, moved.sort(dim=1).values, noise, attention).tolist() == [True, False, False]
    # Rounding of the other device does not matter.
    assert is_drawn(config, visible, noise * (1 + 1e-7), attention).all()


def test_tube_masks_repeat_in_every_frame_and_others_do_not() -> None:
    noise = torch.rand((2, 4, 49), generator=torch.Generator().manual_seed(0))
    tube = (draw_visible(MaskConfig(kind="tube"), noise) % 49).reshape(2, 4, -1)
    assert (tube == tube[:, :1]).all()
    free = (draw_visible(MaskConfig(kind="random"), noise) % 49).reshape(2, 4, -1)
    assert not (free == free[:, :1]).all()


def test_inclusion_follows_sequential_sampling_without_replacement() -> None:
    # Exact inclusion probabilities of drawing 2 of 4 one after the other, each draw proportional to the remaining weights.
    weights = torch.tensor([0.5, 0.3, 0.15, 0.05])
    exact = weights.clone()
    for first in range(4):
        rest = weights.clone()
        rest[first] = 0.0
        exact += weights[first] * rest / rest.sum()
    draws = 200_000
    noise = torch.rand((draws, 1, 4), generator=torch.Generator().manual_seed(0))
    visible = draw_visible(MaskConfig(kind="attention", ratio=0.5), noise, weights.expand(draws, 1, 4))
    found = torch.bincount(visible.flatten(), minlength=4) / draws
    # Four standard errors of a proportion.
    assert ((found - exact).abs() < 4 * (exact * (1 - exact) / draws).sqrt()).all()


def test_zero_weights_are_drawn_last() -> None:
    noise = torch.rand((64, 1, 10), generator=torch.Generator().manual_seed(0))
    attention = torch.tensor([1.0, 0, 2.0, 0, 0, 0, 0, 0, 0, 3.0]).expand(64, 1, 10)
    visible = draw_visible(MaskConfig(kind="attention", ratio=0.7), noise, attention)
    assert torch.equal(visible, torch.tensor([0, 2, 9]).expand(64, 3))


def test_attention_masks_need_attention() -> None:
    with pytest.raises(ValueError, match="attention rows"):
        draw_visible(MaskConfig(kind="attention"), torch.rand(1, 2, 9))
