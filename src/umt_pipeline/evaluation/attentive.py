"""The attentive probe: a learned query that reads all frozen tokens by cross-attention, and a linear classifier.

What the mean of tokens loses (small things, single moments) this probe can still find, so it says more of an encoder whose
tokens were never pooled in training. V-JEPA and InternVideo2 report their frozen encoders this way. Tokens come without
positions, unless the encoder itself puts them in: a probe on the teacher's frames cannot know their order.

Several learning rates are trained at once, as one batched model; the best on the validation clips is reported on test.

Shapes: R clips of the stored tokens, S samples of a split, B of a batch, V tokens, D width, M learning rates, H heads, d width
of a head, K = H * d, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umt_pipeline.evaluation.params import AttentiveConfig
from umt_pipeline.evaluation.probes import Labelled, ProbeResult, choose_and_report, seen_classes
from umt_pipeline.evaluation.stored_arrays import StoredArray

_WARMUP = 0.1  # share of the steps; the rest is a half cosine down to zero


@dataclass(frozen=True)
class ClipTokens:
    """Tokens of clips.

    Args:
        tokens_RVD: in half precision; in files, so that only what is read takes memory.
        rows_S: the rows of the S clips that are meant.
    """

    tokens_RVD: Tensor | StoredArray
    rows_S: np.ndarray

    def batch(self, samples_B: np.ndarray, device: torch.device) -> Tensor:
        """Return the tokens [B, V, D] of some of the clips, in full precision."""
        return self.tokens_RVD[self.rows_S[samples_B]].to(device).float()


def attentive_probe(
    train: Labelled[ClipTokens],
    validation: Labelled[ClipTokens],
    test: Labelled[ClipTokens],
    config: AttentiveConfig,
    seed: int,
    device: torch.device,
) -> ProbeResult:
    """Train the probe with every learning rate, choose one on the validation clips, report it on the test clips.

    Args:
        train: what the probes are trained on.
        validation: what the learning rate is chosen on.
        test: reported on, once.
        config: learning rates and budget.
        seed: of the initial weights and the order of the clips; the same for every learning rate.
        device: where to train.

    Raises:
        NoDataError: fewer than two classes in training, or no test clip.
    """
    classes, target_S = seen_classes(train, test)
    rates = sorted(set(config.lr))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probes = _Probes(len(rates), train.inputs.tokens_RVD.shape[-1], config.heads, len(classes)).to(device)
    _fit(probes, train, torch.from_numpy(target_S), rates, config, seed, device)

    @torch.inference_mode()
    def predict(part: Labelled[ClipTokens]) -> list[np.ndarray]:
        batches = [np.arange(len(part.labels))[start : start + 256] for start in range(0, len(part.labels), 256)]
        found = [probes(part.inputs.batch(samples_B, device)).argmax(dim=-1).cpu() for samples_B in batches]
        chosen_SM = torch.cat(found) if found else torch.zeros(0, len(rates), dtype=torch.int64)
        return [classes[chosen_S.numpy()] for chosen_S in chosen_SM.unbind(dim=1)]

    return choose_and_report(predict, rates, len(classes), validation, test)


class _Probes(nn.Module):
    """M probes of one size and the same initial weights, as one model.

    A query that does not depend on the clip can be multiplied with the key projection beforehand: their product, a vector of
    width D per head, is what is learnt here. The same functions, for a small share of the arithmetic.
    """

    def __init__(self, probes: int, dim: int, heads: int, classes: int) -> None:
        super().__init__()
        width = max(1, dim // heads)
        first = (
            0.02 * torch.randn(heads, dim),
            torch.randn(heads, dim, width) / math.sqrt(dim),
            0.02 * torch.randn(heads * width, classes),
            torch.zeros(classes),
        )
        # A parameter per probe and not one for all: each has its own learning rate.
        self.query_M, self.value_M, self.weight_M, self.bias_M = (
            nn.ParameterList(nn.Parameter(tensor.clone()) for _ in range(probes)) for tensor in first
        )

    def groups(self, rates: list[float]) -> list[dict]:
        """Return the optimiser's groups, one per probe."""
        sets = zip(self.query_M, self.value_M, self.weight_M, self.bias_M, strict=True)
        return [{"params": list(parameters), "lr": rate} for parameters, rate in zip(sets, rates, strict=True)]

    def forward(self, tokens_BVD: Tensor) -> Tensor:
        """Return logits [B, M, C]."""
        query_MHD, value_MHDd, weight_MKC, bias_MC = (
            torch.stack(list(part)) for part in (self.query_M, self.value_M, self.weight_M, self.bias_M)
        )
        M, H, D = query_MHD.shape
        tokens_BVD = F.layer_norm(tokens_BVD, (D,))
        scores_BVX = tokens_BVD @ query_MHD.reshape(M * H, D).T / math.sqrt(D)
        read_BMHD = (scores_BVX.softmax(dim=1).transpose(1, 2) @ tokens_BVD).unflatten(1, (M, H))
        values_BMK = torch.einsum("bmhd,mhde->bmhe", read_BMHD, value_MHDd).flatten(2)
        return torch.einsum("bmk,mkc->bmc", values_BMK, weight_MKC) + bias_MC


def _fit(
    probes: _Probes,
    train: Labelled[ClipTokens],
    target_S: Tensor,
    rates: list[float],
    config: AttentiveConfig,
    seed: int,
    device: torch.device,
) -> None:
    optimiser = torch.optim.AdamW(probes.groups(rates), weight_decay=config.weight_decay)
    steps = config.epochs * math.ceil(len(target_S) / config.batch_size)
    warmup = max(1, round(_WARMUP * steps))

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(1, steps - warmup))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, share)
    rng = np.random.default_rng(seed)
    for _ in range(config.epochs):
        order_S = rng.permutation(len(target_S))
        for start in range(0, len(order_S), config.batch_size):
            samples_B = order_S[start : start + config.batch_size]
            logits_BMC = probes(train.inputs.batch(samples_B, device))
            target_B = target_S[torch.from_numpy(samples_B)].to(device)
            # A sum over the probes of each one's mean: no probe's gradient depends on another's.
            loss = F.cross_entropy(logits_BMC.transpose(1, 2), target_B[:, None].expand(-1, len(rates)), reduction="sum")
            optimiser.zero_grad()
            (loss / len(samples_B)).backward()
            optimiser.step()
            schedule.step()
