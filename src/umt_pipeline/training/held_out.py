"""How often a caption finds its clip among held-out ones, asked of a video-text model now and then while it is trained.

It is for the curve of the training alone: what a model is worth is measured when it is finished, on other clips.

Shapes: C clips, T frames, S side in pixels, B clips of a forward pass, Q queries (the first caption of each clip), E embedding
width.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import Field

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import VideoError
from umt_pipeline.core.files import sha256_file
from umt_pipeline.core.processes import cores
from umt_pipeline.data.captions import usable_captions
from umt_pipeline.data.mapped import MappedTable
from umt_pipeline.models.tokenizer import clean_caption, encode_batch
from umt_pipeline.models.video_text import VideoTextModel
from umt_pipeline.models.vit import all_patches
from umt_pipeline.video.views import ViewConfig, counter_hash, eval_view, load_view

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

# So many clips at most, chosen by hash: their frames stay in memory.
MOST_CLIPS = 512
_CLIPS_PER_PASS = 64
_COLUMNS = ["video_id", "path", "num_frames", "height", "width", "sha256"]


def held_out_media(
    videos: pd.DataFrame, captions: pd.DataFrame, split: str, clean: bool, most: int = MOST_CLIPS
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the clips of a split that have a caption, and their captions; both without rows if there are none.

    Args:
        videos: the clean table of videos and images; images are left out.
        captions: the clean caption table.
        split: whose clips.
        clean: whether captions are cleaned, so that one may turn out to be empty.
        most: clips, chosen by a hash of their names.

    Returns:
        Clips: video_id, path, num_frames, height, width, sha256. Captions: ``clip`` (row of the clip) and ``caption``, the
        first one of each clip before its others.
    """
    media = videos[(videos["split"] == split) & (videos["media"] == "video")]
    texts = usable_captions(captions, media["video_id"], clean)
    chosen = sorted(texts["video_id"].unique(), key=lambda video_id: counter_hash("held out", video_id))[:most]
    clips = media[media["video_id"].isin(chosen)].sort_values("video_id", ignore_index=True)
    texts = texts[texts["video_id"].isin(chosen)]
    row_of = {video_id: row for row, video_id in enumerate(clips["video_id"])}
    texts = texts.assign(clip=texts["video_id"].map(row_of).astype("int64"))
    return clips[_COLUMNS], texts[["clip", "caption"]].reset_index(drop=True)


class HeldOut(Config):
    """Held-out clips, and how often they are searched.

    Attributes:
        clips: mapped table, from :func:`held_out_media`.
        captions: likewise.
        media_root: folder of the media.
        every: epochs between two searches; the last one is after the last step.
    """

    clips: Path
    captions: Path
    media_root: Path
    every: float = Field(gt=0)

    def inputs(self) -> dict[str, str]:
        """Return hashes of what the paths lead to; the clips are known by theirs in their table."""
        return {"held-out clips": sha256_file(self.clips), "held-out captions": sha256_file(self.captions)}


class HeldOutSearch:
    """Searches the clips with the dual encoder, every patch seen.

    Args:
        source: clips and captions.
        view: frames of a clip and their side.
        tokenizer: of the model.
        max_length: longest text in tokens.
        clean: whether captions are cleaned.
    """

    def __init__(
        self, source: HeldOut, view: ViewConfig, tokenizer: PreTrainedTokenizerFast, max_length: int, clean: bool
    ) -> None:
        self.every = source.every
        self._clips, self._root = MappedTable(source.clips).table.to_pylist(), source.media_root
        texts = MappedTable(source.captions).table
        self._text_of_clip = texts.column("clip").to_numpy()
        self._texts: list[str] = texts.column("caption").to_pylist()
        self._view, self._tokenizer, self._max_length, self._clean = view, tokenizer, max_length, clean

    def recall(self, model: VideoTextModel) -> float:
        """Return text→video R@1 in percent, as :mod:`umt_pipeline.evaluation.retrieval` counts it.

        A caption is right for every clip that has it, once cleaned, among its own; of equal scores the right one counts as the
        last; a clip that cannot be read is never found.

        Args:
            model: in eval mode; the caller sees to autograd and precision.
        """
        device = next(model.parameters()).device
        # The captions of a clip stand together, its first one first.
        clips, first_Q = np.unique(self._text_of_clip, return_index=True)
        queries = [self._texts[row] for row in first_Q]
        plain = np.array([clean_caption(text) for text in self._texts])
        truth_QC = np.zeros((len(queries), len(clips)), dtype=bool)
        for row, text in enumerate(plain[first_Q]):
            truth_QC[row, self._text_of_clip[plain == text]] = True
        ids_QL, mask_QL = encode_batch(self._tokenizer, queries, self._max_length, clean=self._clean)
        text_QE = model.encode_text(ids_QL.to(device), mask_QL.to(device))[1].float().cpu().numpy()
        readable_C, frames_CTHWC = self._frames
        score_QC = np.full(truth_QC.shape, -np.inf)
        for rows_B, frames_BTHWC in zip(_passes(readable_C), frames_CTHWC.split(_CLIPS_PER_PASS), strict=False):
            patches_BVP, visible_BV = all_patches(frames_BTHWC.to(device), model.config.vision)
            video_BE = model.encode_video(patches_BVP, visible_BV)[1].float().cpu().numpy()
            score_QC[:, rows_B] = text_QE @ video_BE.T
        right_Q = np.where(truth_QC, score_QC, -np.inf).max(axis=1)
        wrong_Q = np.where(truth_QC, -np.inf, score_QC).max(axis=1)
        return 100.0 * float(np.mean(right_Q > wrong_Q))

    @cached_property
    def _frames(self) -> tuple[np.ndarray, torch.Tensor]:
        """The clips that can be read, and their frames, uint8 [C, T, S, S, 3]; decoded once."""
        with ThreadPoolExecutor(cores()) as pool:
            read = list(pool.map(self._read, self._clips))
        readable = np.array([number for number, frames in enumerate(read) if frames is not None], dtype=np.int64)
        empty = np.zeros((0, self._view.frames, self._view.size, self._view.size, 3), dtype=np.uint8)
        frames_CTHWC = np.stack([frames for frames in read if frames is not None]) if len(readable) else empty
        return readable, torch.from_numpy(frames_CTHWC)

    def _read(self, clip: dict[str, Any]) -> np.ndarray | None:
        try:
            view = eval_view(self._view, clip["num_frames"], clip["height"], clip["width"])
            return load_view(self._root / clip["path"], view)
        except VideoError as error:
            logger.warning("held-out clip %s cannot be read, so no caption finds it: %s", clip["video_id"], error)
            return None


def _passes(rows_C: np.ndarray) -> list[np.ndarray]:
    return [rows_C[start : start + _CLIPS_PER_PASS] for start in range(0, len(rows_C), _CLIPS_PER_PASS)]
