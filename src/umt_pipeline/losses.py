"""Loss functions of both training stages: pure functions of tensors, without a host synchronisation.

Shapes: B clips of this process, G clips of all processes (world size x B), E embedding width, L text length, S
vocabulary size, K aligned layers, V visible tokens, C teacher width, N ids of a sample, M = 3B matching pairs (see
:func:`matching_loss`).

Which samples are *alike*, so that the video of each is right for the text of the other, is told by int64 ids: samples with
an id in common are. The published losses know the ids of media alone, [B]. With a second column of :func:`text_keys`, [B, 2],
samples with the same text are alike, too: in a corpus where captions repeat, they would be drawn as each other's wrong pairs,
the likelier the better the model knows them, and teach it that what is true is wrong.

Every loss is computed in float32, whatever the autocast state. A count that can be zero (pairs, masked tokens) gives a
loss of zero, never NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

IGNORED_LABEL = -100


def alignment_loss(student_KBVC: Tensor, teacher_KBVC: Tensor) -> Tensor:
    """Return the mean of ``2 - 2 cos`` over layers, clips and tokens (UMT section 3.2).

    Args:
        student_KBVC: unit vectors.
        teacher_KBVC: unit vectors of the same patches.

    Raises:
        ValueError: the shapes differ (broadcasting would hide a wrong pairing).
    """
    if student_KBVC.shape != teacher_KBVC.shape:
        raise ValueError(f"student {tuple(student_KBVC.shape)} and teacher {tuple(teacher_KBVC.shape)} shapes differ")
    cosine_KBV = (student_KBVC.float() * teacher_KBVC.float()).sum(-1)
    return (2.0 - 2.0 * cosine_KBV).mean()


class _AllGather(torch.autograd.Function):
    """Concatenate equal-shaped tensors of all processes; the backward pass sums each part's gradient over processes.

    The published code returns only the local slice of the local gradient, which shrinks the contrastive gradient by the
    world size.
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        ctx.rows = local.shape[0]
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.rows
        return total[start : start + ctx.rows]


class _ScaleGradient(torch.autograd.Function):
    """The identity; the backward pass multiplies the gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * ctx.factor, None


def all_gather(local: Tensor) -> Tensor:
    """Concatenate ``local`` of all processes along axis 0, differentiable; the identity outside a process group.

    Every process must give the same shape.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return local
    gathered: Tensor = _AllGather.apply(local)
    return gathered


# Of SplitMix64 (Steele et al., 2014), as signed numbers.
_GAMMA, _MIXERS = -0x61C8864680B583EB, ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1))


def text_keys(ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Return a key of each text, int64 [B]: the same for the same tokens, however long the padding.

    A sum of 64-bit hashes of (token, place), made on the device: processes then gather one number a text, and not tokens, which
    each pads to another length. Two different texts of 4,096 have the same key once in 10^12 batches.

    Args:
        ids_BL: token ids, int64.
        mask_BL: True at tokens.
    """
    mixed_BL = ids_BL * _GAMMA + torch.arange(ids_BL.shape[1], device=ids_BL.device)
    for shift, factor in _MIXERS:
        # Without the sign, which a shift of signed numbers would spread.
        mixed_BL = (mixed_BL ^ ((mixed_BL >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return (mixed_BL * mask_BL).sum(dim=1)


def alike(ids_BN: Tensor, all_ids_GN: Tensor) -> Tensor:
    """Return which samples have an id in common, bool [B, G]; ids [B] are one of each."""
    ids_BN, all_ids_GN = ids_BN.reshape(len(ids_BN), -1), all_ids_GN.reshape(len(all_ids_GN), -1)
    return (ids_BN[:, None, :, None] == all_ids_GN[None, :, None, :]).flatten(2).any(dim=2)


def shared_targets(ids_BN: Tensor, all_ids_GN: Tensor) -> Tensor:
    """Return the contrastive targets [B, G]: each row uniform over the samples that are alike."""
    alike_BG = alike(ids_BN, all_ids_GN).float()
    return alike_BG / alike_BG.sum(dim=1, keepdim=True)


def video_text_contrastive(
    video_BE: Tensor,
    text_BE: Tensor,
    temperature: Tensor | float,
    ids_BN: Tensor,
    gather: Callable[[Tensor], Tensor] | None = None,
    *,
    parity: bool = False,
) -> Tensor:
    """Return the symmetric video-text contrastive loss.

    Each process scores its own rows against the columns of all processes. Averaging the processes' gradients, as DDP
    does, gives exactly the gradient of the one-process loss of the whole batch; the mean of the returned values is that
    loss.

    Args:
        video_BE: unit vectors.
        text_BE: unit vectors; row i describes the video of row i.
        temperature: divisor of the cosines; its gradient is exact too.
        ids_BN: int64 [B] or [B, N]; rows that are alike are positives of each other.
        gather: how to concatenate over processes, :func:`all_gather` by default. Processes must hold equal B.
        parity: divide the gradient of both embeddings, not that of the temperature, by the number of processes, as the
            published code does without saying so: on its 16 (UMT-B) and 32 (UMT-L) GPUs this loss had a weight of 1/16 and
            1/32 beside the others. A weight of that size gives the same on any number of processes.
    """
    gather = gather or all_gather
    with torch.autocast(video_BE.device.type, enabled=False):
        video_BE, text_BE = video_BE.float(), text_BE.float()
        if parity and dist.is_available() and dist.is_initialized():
            share = 1.0 / dist.get_world_size()
            video_BE, text_BE = _ScaleGradient.apply(video_BE, share), _ScaleGradient.apply(text_BE, share)
        videos_GE, texts_GE = gather(video_BE), gather(text_BE)
        targets_BG = shared_targets(ids_BN, gather(ids_BN))
        video_loss = F.cross_entropy(video_BE @ texts_GE.T / temperature, targets_BG)
        text_loss = F.cross_entropy(text_BE @ videos_GE.T / temperature, targets_BG)
        return 0.5 * (video_loss + text_loss)


class HardNegatives(NamedTuple):
    """One wrong video for each text and one wrong text for each video, as row numbers of the batch.

    ``valid_B`` is False where the whole batch is alike, so that no negative exists; the indices there are meaningless and
    :func:`matching_loss` leaves these rows out.
    """

    video_B: Tensor
    text_B: Tensor
    valid_B: Tensor


def pair_logits(video_BE: Tensor, text_BE: Tensor, temperature: Tensor) -> Tensor:
    """Return the cosines [B, B] of videos (rows) and texts divided by the temperature, without gradient.

    In float32, whatever the autocast state: at a temperature of 0.01 half precision would move logits by a half.
    """
    with torch.no_grad(), torch.autocast(video_BE.device.type, enabled=False):
        return video_BE.float() @ text_BE.float().T / temperature.float()


def negative_logits(similarity_BB: Tensor, ids_BN: Tensor) -> Tensor:
    """Return logits [B, B], float32, that are -inf where two samples are alike.

    Masking before the softmax keeps the weights normalised however peaked the similarities are.
    """
    return similarity_BB.detach().float().masked_fill(alike(ids_BN, ids_BN), -torch.inf)


def hard_negatives(similarity_BB: Tensor, ids_BN: Tensor, generator: torch.Generator) -> HardNegatives:
    """Draw hard negatives with probability softmax(similarity) over samples that are not alike (ALBEF section 3.2).

    Gumbel-max on the device: unlike a multinomial it needs no host synchronisation and cannot fail on a peaked row.

    Args:
        similarity_BB: rows videos, columns texts, already divided by the temperature; no gradient flows.
        ids_BN: int64 [B] or [B, N]; of samples that are alike none is the other's negative.
        generator: owned by the caller, on the device of ``similarity_BB``.
    """
    logits_BB = negative_logits(similarity_BB, ids_BN)
    uniform_2BB = torch.rand((2, *logits_BB.shape), generator=generator, device=logits_BB.device)
    gumbel_2BB = -(-uniform_2BB.clamp_min(torch.finfo(torch.float32).tiny).log()).log()
    # Samples are alike both ways, so the mask is its own transpose.
    video_B, text_B = (torch.stack((logits_BB.T, logits_BB)) + gumbel_2BB).argmax(dim=2).unbind(0)
    return HardNegatives(video_B, text_B, logits_BB.isfinite().any(dim=1))


def matching_loss(logits_M2: Tensor, valid_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the video-text matching loss and the share of rows left out.

    Args:
        logits_M2: M = 3B pairs in the order: B right pairs, B texts with a wrong video, B videos with a wrong text.
            Class 1 means "match".
        valid_B: rows that have a negative. A row without one is left out whole: its right pair alone would teach the
            head to answer "match" always.

    Returns:
        Mean cross entropy over the pairs of valid rows (0 if there are none), and the share of rows left out, a tensor.
    """
    pairs = logits_M2.shape[0]
    batch = pairs // 3
    labels_M = (torch.arange(pairs, device=logits_M2.device) < batch).long()
    losses_M = F.cross_entropy(logits_M2.float(), labels_M, reduction="none")
    if valid_B is None:
        return losses_M.mean(), torch.zeros((), device=logits_M2.device)
    valid_M = valid_B.repeat(3)
    loss = torch.where(valid_M, losses_M, 0.0).sum() / valid_M.sum().clamp_min(1)
    return loss, 1.0 - valid_B.float().mean()


class MaskedTokens(NamedTuple):
    """Corrupted token ids [B, L] and the labels [B, L]: the original id where a token was chosen, else -100."""

    ids_BL: Tensor
    labels_BL: Tensor


def mask_tokens(
    ids_BL: Tensor,
    *,
    vocab_size: int,
    mask_id: int,
    kept_ids: tuple[int, ...],
    generator: torch.Generator,
    probability: float = 0.5,
) -> MaskedTokens:
    """Choose tokens to predict; of these 80 % become [MASK], 10 % a uniformly random id, 10 % stay (BERT section 3.1).

    Args:
        ids_BL: token ids, int64.
        vocab_size: random ids are drawn from [0, vocab_size).
        mask_id: id of [MASK].
        kept_ids: ids that are never chosen, by the recipe [PAD] and [CLS].
        generator: owned by the caller, on the device of ``ids_BL``.
        probability: share of the choosable tokens that is chosen; 0.5 in the UMT recipe.
    """
    chance_2BL = torch.rand((2, *ids_BL.shape), generator=generator, device=ids_BL.device)
    random_BL = torch.randint(vocab_size, ids_BL.shape, generator=generator, device=ids_BL.device, dtype=ids_BL.dtype)
    chosen_BL = chance_2BL[0] < probability
    for kept in kept_ids:
        chosen_BL &= ids_BL != kept
    action_BL = chance_2BL[1]
    changed_BL = torch.where(action_BL < 0.8, mask_id, torch.where(action_BL < 0.9, random_BL, ids_BL))
    return MaskedTokens(torch.where(chosen_BL, changed_BL, ids_BL), torch.where(chosen_BL, ids_BL, IGNORED_LABEL))


def masked_language_loss(logits_BLS: Tensor, labels_BL: Tensor) -> Tensor:
    """Return the mean cross entropy over the tokens whose label is not -100; 0 if there are none."""
    total = F.cross_entropy(
        logits_BLS.float().flatten(0, 1), labels_BL.flatten(), ignore_index=IGNORED_LABEL, reduction="sum"
    )
    return total / (labels_BL != IGNORED_LABEL).sum().clamp_min(1)
