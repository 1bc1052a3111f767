"""Models with weights of 8 bits for CPUs, and what that costs and saves.

Weights of matrix products and word embeddings become int8; activations are quantised as they come, by ONNX Runtime's dynamic
quantisation. No data is needed for it; samples only measure the loss.

Shapes: B clips or texts, E embedding width, C classes.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from umt_pipeline.exchange.runtimes.programs import Runner

SUFFIX = ".int8.onnx"
# Both models run by turns for so many seconds, at least so often: other work on the machine slows both.
SECONDS, FEWEST = 2.0, 3


@dataclass(frozen=True)
class Int8Loss:
    """How far results of the int8 model are from those of the fp32 model.

    Attributes:
        cosine_mean: between the two vectors (or rows of logits) of a clip or text, over all samples.
        cosine_min: the smallest.
        top1_agreement: share of samples whose nearest other sample (or likeliest class) is the same one.
    """

    cosine_mean: float
    cosine_min: float
    top1_agreement: float


@dataclass(frozen=True)
class Speed:
    """Clips or texts per second.

    Attributes:
        fp32_per_s: of the fp32 model.
        int8_per_s: of the int8 model.
        batch: how many are run at once.
    """

    fp32_per_s: float
    int8_per_s: float
    batch: int


def quantise(source: Path, target: Path) -> None:
    """Write the int8 form of an ONNX model."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory(prefix="umt_int8_") as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)  # the exporter has written the shapes down
        level = logging.getLogger().level
        try:
            logging.getLogger().setLevel(logging.ERROR)  # It logs at the root, of things that nobody can act on.
            quantize_dynamic(prepared, target, weight_type=QuantType.QInt8, per_channel=True)
        finally:
            logging.getLogger().setLevel(level)


def loss_of(exact: Tensor, rough: Tensor, *, classes: bool) -> Int8Loss:
    """Compare two results [B, E] or, with ``classes``, [B, C] of the same samples."""
    cosines_B = F.cosine_similarity(exact, rough, dim=1)
    first = (lambda rows_BC: rows_BC.argmax(dim=1)) if classes else _nearest_other
    same_B = first(exact) == first(rough)
    return Int8Loss(float(cosines_B.mean()), float(cosines_B.min()), float(same_B.float().mean()))


def retrieval_agreement(exact: Mapping[str, Tensor], rough: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the shares of texts that find the same clip first, and of clips that find the same text first.

    Args:
        exact: fp32 unit vectors of clips under ``video`` and of texts under ``text``.
        rough: the int8 model's.
    """
    cosines = [vectors["text"] @ vectors["video"].T for vectors in (exact, rough)]
    clips, texts = ([scores.argmax(dim=axis) for scores in cosines] for axis in (1, 0))
    return {
        "top1_agreement_text_to_video": float((clips[0] == clips[1]).float().mean()),
        "top1_agreement_video_to_text": float((texts[0] == texts[1]).float().mean()),
    }


def speeds(exact: Runner, rough: Runner, inputs: tuple[Tensor, ...]) -> Speed:
    """Measure both models on a batch, by turns; the medians count."""
    taken: dict[Runner, list[float]] = {exact: [], rough: []}
    deadline = time.perf_counter() + SECONDS
    while len(taken[rough]) <= FEWEST or time.perf_counter() < deadline:
        for model, seconds in taken.items():
            began = time.perf_counter()
            model(*inputs)
            seconds.append(time.perf_counter() - began)
    rows = len(inputs[0])
    # The first call of each reserves memory.
    fp32, int8 = (rows / statistics.median(seconds[1:]) for seconds in taken.values())
    return Speed(fp32_per_s=fp32, int8_per_s=int8, batch=rows)


def as_rows(loss: Int8Loss, speed: Speed) -> dict[str, Any]:
    """Return both as one JSON object."""
    return asdict(loss) | asdict(speed)


def _nearest_other(vectors_BE: Tensor) -> Tensor:
    cosines_BB = F.normalize(vectors_BE, dim=1) @ F.normalize(vectors_BE, dim=1).T
    return cosines_BB.fill_diagonal_(-torch.inf).argmax(dim=1)
