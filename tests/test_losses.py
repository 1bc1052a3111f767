"""Losses: their formulas, their edge cases, and exact gradients over several processes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from umt_pipeline.losses import (
    IGNORED_LABEL,
    HardNegatives,
    alignment_loss,
    alike,
    hard_negatives,
    mask_tokens,
    masked_language_loss,
    matching_loss,
    negative_logits,
    pair_logits,
    shared_targets,
    text_keys,
    video_text_contrastive,
)

PAD, CLS, SEP, MASK, VOCAB = 0, 2, 3, 4, 50
media_ids = st.lists(st.integers(0, 4), min_size=1, max_size=9).map(torch.tensor)
quick = settings(max_examples=40, deadline=None, derandomize=True)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=generator(seed)), dim=-1)


def test_alignment_loss_is_the_mean_squared_distance_of_unit_vectors() -> None:
    student, teacher = unit(2, 3, 4, 8), unit(2, 3, 4, 8, seed=1)
    torch.testing.assert_close(alignment_loss(student, teacher), (student - teacher).square().sum(-1).mean())
    torch.testing.assert_close(alignment_loss(student, student), torch.tensor(0.0), atol=1e-6, rtol=0.0)


def test_alignment_loss_refuses_to_broadcast() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        alignment_loss(unit(2, 3, 4, 8), unit(1, 3, 4, 8))


@quick
@given(media_ids)
def test_targets_are_uniform_over_the_samples_of_one_medium(ids: Tensor) -> None:
    targets = shared_targets(ids, ids)
    torch.testing.assert_close(targets.sum(1), torch.ones(len(ids)))
    torch.testing.assert_close(targets, targets.T)
    for row, own in zip(targets, ids, strict=True):
        assert set(row[ids != own].tolist()) <= {0.0}
        torch.testing.assert_close(row[ids == own], torch.full(((ids == own).sum(),), 1.0 / (ids == own).sum()))


tokens = st.lists(st.integers(0, 30521), min_size=1, max_size=6)


@quick
@given(st.lists(tokens, min_size=2, max_size=8), st.integers(0, 9))
def test_texts_have_the_same_key_exactly_where_their_tokens_are_the_same(texts: list[list[int]], padding: int) -> None:
    length = max(map(len, texts))
    ids = torch.tensor([text + [0] * (length - len(text)) for text in texts])
    mask = torch.tensor([[place < len(text) for place in range(length)] for text in texts])
    keys = text_keys(ids, mask)
    equal = torch.tensor([[one == other for other in texts] for one in texts])
    assert torch.equal(keys[:, None] == keys[None], equal)
    # What stands under the padding, and how much of it there is, changes nothing.
    padded = torch.cat((torch.where(mask, ids, 7), torch.full((len(texts), padding), 9)), dim=1)
    assert torch.equal(text_keys(padded, F.pad(mask, (0, padding))), keys)


def test_the_order_of_the_words_is_part_of_the_key() -> None:
    ids = torch.tensor([[5, 6, 7], [7, 6, 5], [5, 5, 5], [6, 6, 3]])
    assert len(text_keys(ids, torch.ones(4, 3, dtype=torch.bool)).unique()) == 4


def test_samples_are_alike_by_their_medium_or_by_their_text() -> None:
    media, texts = torch.tensor([0, 0, 1, 2]), torch.tensor([10, 11, 11, 12])
    both = torch.stack((media, texts), dim=1)
    expected = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
    assert torch.equal(alike(both, both), expected)
    assert torch.equal(alike(both[:2], both), expected[:2])
    torch.testing.assert_close(shared_targets(both, both), expected / expected.sum(1, keepdim=True))
    assert torch.equal(alike(media, media), media[:, None] == media[None])


@quick
@given(media_ids, st.integers(0, 99))
def test_negatives_never_have_the_same_text(texts: Tensor, seed: int) -> None:
    # Each row a medium of its own: only the text tells that a pair is true.
    ids = torch.stack((torch.arange(len(texts)) + 100, texts), dim=1)
    similarity = torch.randn(len(texts), len(texts), generator=generator(seed))
    negatives = hard_negatives(similarity, ids, generator(seed))
    valid = negatives.valid_B
    assert valid.all() if len(texts.unique()) > 1 else not valid.any()
    assert (texts[negatives.video_B] != texts)[valid].all()
    assert (texts[negatives.text_B] != texts)[valid].all()


def test_contrastive_loss_of_distinct_media_is_symmetric_infonce() -> None:
    video, text, rows = unit(5, 8), unit(5, 8, seed=1), torch.arange(5)
    similarity = video @ text.T / 0.1
    expected = 0.5 * (F.cross_entropy(similarity, rows) + F.cross_entropy(similarity.T, rows))
    torch.testing.assert_close(video_text_contrastive(video, text, 0.1, rows), expected)


@quick
@given(media_ids, st.integers(0, 99), st.sampled_from([0.5, 0.07, 0.001]))
def test_negatives_never_show_the_same_medium(ids: Tensor, seed: int, temperature: float) -> None:
    # At 0.001 the similarities are so peaked that the reference's multinomial raises.
    similarity = unit(len(ids), 6, seed=seed) @ unit(len(ids), 6, seed=seed + 1).T / temperature
    negatives = hard_negatives(similarity, ids, generator(seed))
    valid = negatives.valid_B
    assert valid.all() if len(ids.unique()) > 1 else not valid.any()
    assert (ids[negatives.video_B] != ids)[valid].all()
    assert (ids[negatives.text_B] != ids)[valid].all()


def test_negatives_are_drawn_by_their_weights() -> None:
    ids = torch.tensor([0, 0, 1, 2, 3])
    similarity = torch.randn(5, 5, generator=generator())
    source = generator(1)
    draws = [hard_negatives(similarity, ids, source) for _ in range(4000)]
    for rows, drawn in ((similarity.T, [d.video_B for d in draws]), (similarity, [d.text_B for d in draws])):
        frequency = F.one_hot(torch.stack(drawn), 5).float().mean(0)
        torch.testing.assert_close(frequency, negative_logits(rows, ids).softmax(dim=1), atol=0.03, rtol=0.0)


def test_logits_that_draw_negatives_are_float32_under_autocast_too() -> None:
    video, text = (F.normalize(torch.randn(8, 16, generator=generator(seed)), dim=-1) for seed in (1, 2))
    exact = pair_logits(video, text, torch.tensor(0.01))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pair_logits(video, text, torch.tensor(0.01)), exact)


def test_negatives_repeat_with_the_generator_and_leave_global_randomness_alone() -> None:
    similarity, ids = torch.randn(6, 6, generator=generator()), torch.arange(6)
    before = torch.get_rng_state()
    first, second = hard_negatives(similarity, ids, generator(3)), hard_negatives(similarity, ids, generator(3))
    assert torch.equal(first.video_B, second.video_B)
    assert torch.equal(first.text_B, second.text_B)
    assert torch.equal(before, torch.get_rng_state())


def test_matching_loss_labels_the_first_third_as_matches() -> None:
    right, wrong = torch.tensor([[-20.0, 20.0]]), torch.tensor([[20.0, -20.0]])
    logits = torch.cat((right.repeat(4, 1), wrong.repeat(8, 1)))
    loss, skipped = matching_loss(logits, torch.ones(4, dtype=torch.bool))
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert skipped.item() == 0


@pytest.mark.parametrize("batch", [1, 3])
def test_matching_loss_of_a_batch_that_shows_one_medium_is_zero_and_counted(batch: int) -> None:
    negatives = hard_negatives(torch.randn(batch, batch), torch.zeros(batch, dtype=torch.int64), generator())
    logits = torch.randn(3 * batch, 2, requires_grad=True)
    loss, skipped = matching_loss(logits, negatives.valid_B)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()
    assert skipped.item() == 1.0


def test_matching_loss_leaves_out_whole_rows() -> None:
    logits = torch.randn(9, 2, generator=generator())
    negatives = HardNegatives(torch.zeros(3).long(), torch.zeros(3).long(), torch.tensor([True, False, True]))
    kept = torch.tensor([0, 2, 3, 5, 6, 8])
    loss, skipped = matching_loss(logits, negatives.valid_B)
    torch.testing.assert_close(loss, matching_loss(logits[kept])[0])
    assert skipped.item() == pytest.approx(1 / 3)


def masked(ids: Tensor, seed: int = 0, probability: float = 0.5) -> tuple[Tensor, Tensor]:
    return mask_tokens(
        ids, vocab_size=VOCAB, mask_id=MASK, kept_ids=(PAD, CLS), generator=generator(seed), probability=probability
    )


@quick
@given(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12), st.integers(0, 99))
def test_masking_never_touches_pad_and_cls_and_labels_what_it_chose(tokens: list[int], seed: int) -> None:
    ids = torch.tensor([tokens])
    changed, labels = masked(ids, seed)
    chosen = labels != IGNORED_LABEL
    assert not (chosen & ((ids == PAD) | (ids == CLS))).any()
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(changed[~chosen], ids[~chosen])
    assert ((changed >= 0) & (changed < VOCAB)).all()


def test_masking_shares() -> None:
    ids = torch.randint(5, VOCAB, (400, 100), generator=generator(1))
    changed, labels = masked(ids)
    chosen = labels != IGNORED_LABEL
    random = (changed != MASK) & (changed != ids) & chosen
    assert chosen.float().mean().item() == pytest.approx(0.5, abs=0.01)
    # A random id is [MASK] or the old one in 2 of VOCAB cases.
    assert ((changed == MASK) & chosen).sum().item() / chosen.sum().item() == pytest.approx(0.8 + 0.1 / VOCAB, abs=0.01)
    assert random.sum().item() / chosen.sum().item() == pytest.approx(0.1 * (1 - 2 / VOCAB), abs=0.01)


def test_masked_language_loss_is_the_mean_over_chosen_tokens() -> None:
    logits, labels = torch.randn(2, 4, VOCAB, generator=generator()), torch.full((2, 4), IGNORED_LABEL)
    labels[0, 1], labels[1, 3] = 7, 9
    expected = F.cross_entropy(torch.stack((logits[0, 1], logits[1, 3])), torch.tensor([7, 9]))
    torch.testing.assert_close(masked_language_loss(logits, labels), expected)


def test_masked_language_loss_without_a_chosen_token_is_zero_with_zero_gradient() -> None:
    logits = torch.randn(1, 3, VOCAB, requires_grad=True)
    loss = masked_language_loss(logits, masked(torch.tensor([[CLS, PAD, PAD]]), probability=1.0)[1])
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


# --- several processes ---

ROWS, INPUT, EMBED = 12, 6, 4
# Positives cross the borders between the processes, by medium and by text.
MEDIA = torch.tensor([0, 1, 2, 1, 3, 0, 4, 4, 2, 5, 6, 1])
IDS = torch.stack((MEDIA, torch.tensor([10, 11, 12, 13, 14, 15, 16, 17, 18, 10, 11, 19])), dim=1)


def contrastive_step(rows: slice, parity: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of some rows of the batch, and the gradients of two projections and the temperature."""
    data = torch.randn(2, ROWS, INPUT, generator=generator(5))
    weights = torch.randn(2, INPUT, EMBED, generator=generator(6)).requires_grad_()
    temperature = torch.tensor(0.2, requires_grad=True)
    video, text = (F.normalize(x[rows] @ w, dim=-1) for x, w in zip(data, weights, strict=True))
    loss = video_text_contrastive(video, text, temperature, IDS[rows], parity=parity)
    loss.backward()
    assert weights.grad is not None
    assert temperature.grad is not None
    return loss.detach(), {"weights": weights.grad, "temperature": temperature.grad}


def run_rank(rank: int, world: int, folder: str) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Return what every process holds after DDP's averaging, exact and with parity."""
    place = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=world, timeout=timedelta(seconds=120))
    share = ROWS // world
    results = []
    try:
        for parity in (False, True):
            loss, grads = contrastive_step(slice(rank * share, (rank + 1) * share), parity)
            for tensor in (loss, *grads.values()):
                dist.all_reduce(tensor)
                tensor /= world
            results.append((loss, grads))
    finally:
        dist.destroy_process_group()
    return results


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_contrastive_gradient_over_processes_is_that_of_one_and_its_share_under_parity(tmp_path: Path, world: int) -> None:
    loss, grads = contrastive_step(slice(None))
    others = [mp.get_context("spawn").Process(target=run_rank, args=(rank, world, str(tmp_path))) for rank in range(1, world)]
    for other in others:
        other.start()
    try:
        exact, parity = run_rank(0, world, str(tmp_path))
    finally:
        for other in others:
            other.join(60)
            other.kill()
    torch.testing.assert_close(exact, (loss, grads), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(parity, (loss, {**grads, "weights": grads["weights"] / world}), atol=1e-6, rtol=1e-5)


def test_parity_changes_nothing_in_one_process() -> None:
    torch.testing.assert_close(contrastive_step(slice(None), parity=True), contrastive_step(slice(None)))
