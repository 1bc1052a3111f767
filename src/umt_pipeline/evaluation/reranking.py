"""The matching head's scores of many pairs, divided among the processes of an evaluation.

Pairs are cut where the matching head's runs end, so that every run is the same whoever does it. A process gets neighbours in
the order of clips: it reads its own part of the tokens, a run's at a time, and hands back one number per pair.

Shapes: U texts, L text length, D width, S clips with features, V tokens, G pairs of a text and a clip.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from torch import Tensor

from umt_pipeline.evaluation.encoders import PAIRS_PER_PASS, Rows, VideoTextEncoder
from umt_pipeline.evaluation.retrieval import PairScorer
from umt_pipeline.evaluation.stored_arrays import store_arrays
from umt_pipeline.evaluation.workers import Workers

T = TypeVar("T")


@dataclass(frozen=True)
class _Share(Generic[T]):
    find: Callable[[T], VideoTextEncoder]
    text_ULD: Rows
    mask_UL: Rows
    video_SVD: Rows
    text_G: np.ndarray
    row_G: np.ndarray


def pair_scorer(
    workers: Workers[T],
    find: Callable[[T], VideoTextEncoder],
    folder: Path,
    text_ULD: Tensor,
    mask_UL: Tensor,
    video_SVD: Rows,
) -> PairScorer:
    """Return a function from text and clip indices [G], sorted by clip, to match logits [G]; all workers share its work.

    Args:
        workers: hold the models.
        find: picks the model among what is loaded. It is sent to the processes, so it is no lambda.
        folder: where the texts' tokens are put for the workers to read.
        text_ULD: tokens from :meth:`VideoTextEncoder.encode_text`.
        mask_UL: their mask.
        video_SVD: tokens of the clips.
    """
    texts = store_arrays(folder / "texts.safetensors", {"tokens": text_ULD.cpu(), "mask": mask_UL.cpu()})

    def score(text_G: np.ndarray, row_G: np.ndarray) -> np.ndarray:
        runs = -(-len(text_G) // PAIRS_PER_PASS)
        edges = [runs * number // workers.count * PAIRS_PER_PASS for number in range(workers.count + 1)]
        parts = [slice(start, stop) for start, stop in itertools.pairwise(edges) if stop > start]
        stored = (texts["tokens"], texts["mask"], video_SVD)
        shares = [_Share(find, *stored, text_G[part], row_G[part]) for part in parts]
        scores_G = np.zeros(len(text_G), dtype=np.float32)
        for index, scores in workers.map(_score, shares):
            scores_G[parts[index]] = scores
        return scores_G

    return score


def _score(loaded: T, share: _Share[T]) -> np.ndarray:
    scorer = share.find(loaded).pair_scorer(share.text_ULD, share.mask_UL, share.video_SVD)
    return scorer(share.text_G, share.row_G)
