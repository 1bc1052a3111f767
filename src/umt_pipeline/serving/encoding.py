"""What encoders give of many videos: decoded ahead in threads, encoded in batches, failures kept beside the rest.

Shapes: n videos, R different ones, B videos of a batch, E embedding width, P pairs of a video and a text, V tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from umt_pipeline.core.processes import cores
from umt_pipeline.core.progress import progress
from umt_pipeline.evaluation.decoding import decoded
from umt_pipeline.evaluation.encoders import VideoTextEncoder
from umt_pipeline.evaluation.workers import default_device
from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.serving.files import require_all
from umt_pipeline.serving.inputs import Video, clip_of, name_of
from umt_pipeline.video.views import ViewConfig

# Videos of a batch: enough for a GPU, and of 16 frames of 224 pixels 38 MB.
BATCH = 16


@dataclass(frozen=True)
class Embeddings:
    """Unit vectors of videos, whose products with those of other videos and of texts are cosines.

    Attributes:
        vectors: float32 [n, E] on the CPU; a row of NaN where the video could not be read.
        failures: number of a video, from 0, to why it could not be read.
    """

    vectors: Tensor
    failures: Mapping[int, str]

    def all(self) -> Tensor:
        """Return the vectors of all videos [n, E].

        Raises:
            VideoError: some could not be read; they are named.
        """
        require_all({f"video {number}": reason for number, reason in self.failures.items()})
        return self.vectors


def embed(embedder: Embedder, videos: Sequence[Video]) -> Embeddings:
    """Embed videos: of each, frames evenly spaced over all of it, the square in the middle."""
    vector_of: dict[int, Tensor] = {}
    failures: dict[int, str] = {}
    for numbers, frames_BTHWC, failed in read_batches(videos, embedder.view, "embedding"):
        failures |= failed
        if numbers:
            vector_of |= dict(zip(numbers, embedder.encode_clips(frames_BTHWC), strict=True))
    vectors_nE = torch.full((len(videos), embedder.dim), torch.nan)
    for number, vector_E in vector_of.items():
        vectors_nE[number] = vector_E
    return Embeddings(vectors_nE, failures)


@torch.inference_mode()
def match_pairs(encoder: VideoTextEncoder, videos: Sequence[Video], texts: Sequence[str]) -> Tensor:
    """Return how well each video and its text belong together, float32 [P]: the matching head's logit of a match.

    Each video is decoded and encoded once, however many texts stand beside it.

    Args:
        encoder: a stage-2 model.
        videos: P videos.
        texts: P texts; text i stands beside video i.

    Raises:
        ValueError: there are not as many texts as videos.
        VideoError: a video cannot be read.
    """
    if len(videos) != len(texts):
        raise ValueError(f"expected a text beside each video, found {len(videos)} videos and {len(texts)} texts")
    different, row_P = _different(videos)
    encoder = replace(encoder, keep_tokens=True)
    tokens_PLD, mask_PL, _ = encoder.encode_text(texts)
    scores_P = np.full(len(texts), np.nan, dtype=np.float32)
    for rows, frames_BTHWC, failed in read_batches(different, encoder.view, "matching"):
        require_all({name_of(different[row]): reason for row, reason in failed.items()})
        tokens_BVD = encoder.encode(frames_BTHWC.to(default_device()))[f"{encoder.name}/tokens"]
        pairs = np.flatnonzero(np.isin(row_P, rows))
        # Pairs of one clip stand together: the scorer reads few clips at a time.
        pairs = pairs[np.argsort(row_P[pairs], kind="stable")]
        score = encoder.pair_scorer(tokens_PLD, mask_PL, tokens_BVD)
        scores_P[pairs] = score(pairs, np.searchsorted(rows, row_P[pairs]))[:, 1]
    return torch.from_numpy(scores_P)


def read_batches(videos: Sequence[Video], view: ViewConfig, title: str) -> Iterator[tuple[list[int], Tensor, dict[int, str]]]:
    """Read videos in the form that a model wants, two batches ahead of whoever takes them.

    Args:
        videos: in any of their forms.
        view: number and size of frames.
        title: for the progress bar.

    Yields:
        The numbers of some videos, from 0 and ascending, their frames, uint8 [B, T, S, S, 3] (empty if there are none), and
        why others could not be read.
    """
    done = 0
    with progress(title, len(videos), "video") as show:
        for read, failed in decoded(range(len(videos)), lambda number: clip_of(videos[number], view), BATCH, cores()):
            frames = np.stack(list(read.values())) if read else np.empty((0, view.frames, view.size, view.size, 3), np.uint8)
            yield list(read), torch.from_numpy(frames), failed
            done += len(read) + len(failed)
            show(done)


def _different(videos: Sequence[Video]) -> tuple[list[Video], np.ndarray]:
    """Return each video once, and the row in them of each given one: files of one path are one video."""
    kept = list(videos)  # what a tensor of clips gives is another object each time
    keys = [str(video) if isinstance(video, str | Path) else id(video) for video in kept]
    first = dict(zip(reversed(keys), reversed(kept), strict=True))
    rows = {key: row for row, key in enumerate(dict.fromkeys(keys))}
    return [first[key] for key in rows], np.array([rows[key] for key in keys], dtype=np.int64)
