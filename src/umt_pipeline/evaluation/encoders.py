"""What turns clips into features and texts into queries; :mod:`umt_pipeline.evaluation.feature_cache` keeps what they give.

A clip whose file cannot be read is a failure with its reason, never replaced by another clip.

Shapes: B clips of a batch, S clips with features, T frames, H W pixels, V tokens, F = B * T, N patches per frame, D width,
C target width, E embedding width, U texts, L text length, G pairs of a text and a clip.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from umt_pipeline.compute.names import Precision
from umt_pipeline.compute.precision import autocast
from umt_pipeline.core.progress import progress
from umt_pipeline.evaluation.decoding import decoded
from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.evaluation.params import PoolRule
from umt_pipeline.models.teacher import Teacher
from umt_pipeline.models.tokenizer import encode_batch
from umt_pipeline.models.video_text import VideoTextModel
from umt_pipeline.models.vit import VideoViT, ViTConfig, all_patches
from umt_pipeline.video.pixels import normalise_frames
from umt_pipeline.video.views import ViewConfig, eval_view, load_view

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerFast

# Frames of one view of one clip: uint8 [T, H, W, 3]. Raises VideoError.
ClipLoader = Callable[[str, ViewConfig], np.ndarray]

# Pairs of a text and a clip that the matching head scores at once. Work is divided at multiples of it.
PAIRS_PER_PASS = 128


class Rows(Protocol):
    """Something whose rows can be had as a tensor: a tensor, or an array in a file."""

    def __getitem__(self, rows: Any, /) -> Tensor:
        """Return some rows."""
        ...


class ClipEncoder(Protocol):
    """Turns a batch of clips into named features."""

    @property
    def view(self) -> ViewConfig:
        """The number and size of frames that it reads."""
        ...

    @property
    def precision(self) -> Precision:
        """What the model runs in."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """Its name, and what else its features depend on besides clips and code, as JSON values."""
        ...

    def encode(self, frames_BTHWC: Tensor) -> dict[str, Tensor]:
        """Return features [B, ...] of uint8 frames."""
        ...


@dataclass(frozen=True, eq=False)
class TeacherEncoder:
    """Frame features of the frozen teacher, averaged over the frames of a clip.

    ``teacher_cls`` is the mean of the tower's own unit-length image embeddings (of its class token, for a CLIP);
    ``teacher_patch`` the mean of the last aligned layer's targets, the very tokens that the student learns.

    Args:
        teacher: the teacher.
        view: the frames that it sees.
        keep_tokens: also return each frame's embedding, which the attentive probe reads.
        precision: what the model runs in; part of the identity.
    """

    teacher: Teacher
    view: ViewConfig
    keep_tokens: bool = False
    precision: Precision = "fp32"

    @property
    def identity(self) -> dict[str, Any]:
        """Weights, settings and view."""
        facts = {"config": self.teacher.config.model_dump(mode="json"), "grid": self.teacher.grid}
        return _identity("teacher", self.teacher, self.view, tokens=self.keep_tokens, precision=self.precision, **facts)

    def encode(self, frames_BTHWC: Tensor) -> dict[str, Tensor]:
        """Return ``teacher_cls`` [B, E], ``teacher_patch`` [B, C] and, if kept, ``teacher_cls/tokens`` [B, T, E]."""
        B, T = frames_BTHWC.shape[:2]
        with autocast(self.precision, frames_BTHWC.device):
            output = self.teacher(normalise_frames(frames_BTHWC.flatten(0, 1)))
            patch_FNC = self.teacher.project(output.layers_KFNW[-1:])[0]
            frames_BTE = self.teacher.embed_image(output).unflatten(0, (B, T))
        features = {
            "teacher_cls": frames_BTE.mean(dim=1),
            "teacher_patch": patch_FNC.unflatten(0, (B, T)).mean(dim=(1, 2)),
        }
        return features | ({"teacher_cls/tokens": frames_BTE} if self.keep_tokens else {})

    @property
    def temperature(self) -> float:
        """The divisor of cosines that the tower learnt; only one with a text tower has it."""
        return float(self.teacher.text_model.logit_scale.exp().reciprocal())  # type: ignore[union-attr, operator]

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors [U, E]."""
        with autocast(self.precision, self.teacher.scale_311.device):
            return self.teacher.encode_text(list(texts)).cpu().numpy()


@dataclass(frozen=True, eq=False)
class VideoEncoder:
    """A video encoder alone, all patches visible: the mean over all tokens after the final norm.

    Args:
        name: name of its features.
        vision: the encoder.
        keep_tokens: also return all tokens, which the attentive probe reads.
        precision: what the model runs in; part of the identity.
    """

    name: str
    vision: VideoViT
    keep_tokens: bool = False
    precision: Precision = "fp32"

    @property
    def view(self) -> ViewConfig:
        """The clip size that the encoder was built for."""
        return view_of(self.vision.config)

    @property
    def identity(self) -> dict[str, Any]:
        """Weights, sizes and view."""
        config = self.vision.config.model_dump(mode="json")
        return _identity(self.name, self.vision, self.view, tokens=self.keep_tokens, precision=self.precision, config=config)

    def encode(self, frames_BTHWC: Tensor) -> dict[str, Tensor]:
        """Return ``{name}`` [B, D] and, if kept, ``{name}/tokens`` [B, V, D]."""
        with autocast(self.precision, frames_BTHWC.device):
            tokens_BVD = self.vision(*all_patches(frames_BTHWC, self.vision.config))
        return {self.name: tokens_BVD.mean(dim=1)} | ({f"{self.name}/tokens": tokens_BVD} if self.keep_tokens else {})


@dataclass(frozen=True, eq=False)
class VideoTextEncoder:
    """A stage-2 model, all patches visible.

    Args:
        name: name of its features.
        model: the model.
        tokenizer: its tokenizer.
        keep_tokens: also return all tokens, which the matching head and the attentive probe need.
        pool: what its embedding is made of, as ``pool`` of an evaluation's parameters.
        precision: what the model runs in; part of the identity.
    """

    name: str
    model: VideoTextModel
    tokenizer: PreTrainedTokenizerFast
    keep_tokens: bool = False
    pool: PoolRule = "clip"
    precision: Precision = "fp32"

    @property
    def view(self) -> ViewConfig:
        """The clip size that the model was built for."""
        return view_of(self.model.config.vision)

    @property
    def identity(self) -> dict[str, Any]:
        """Weights, sizes, view and pooling."""
        facts = {"config": self.model.config.model_dump(mode="json"), "pool": self.pool}
        return _identity(self.name, self.model, self.view, tokens=self.keep_tokens, precision=self.precision, **facts)

    @property
    def temperature(self) -> float:
        """The divisor of cosines that the model learnt."""
        return float(self.model.temperature.detach())

    def encode(self, frames_BTHWC: Tensor) -> dict[str, Tensor]:
        """Return ``{name}`` [B, D] (pooled), ``{name}/embedding`` [B, E] and, if kept, ``{name}/tokens`` [B, V, D].

        The tokens are those that the matching head reads. The embedding has unit length; pooled by frame it is the mean of
        the frames' unit vectors, whose product with a text's is the mean of the cosines.
        """
        with autocast(self.precision, frames_BTHWC.device):
            patches_BVP, visible_BV = all_patches(frames_BTHWC, self.model.config.vision)
            tokens_BVD, pooled_BD, embedding_BE, _ = self.model.encode_video_aligned(
                patches_BVP, visible_BV, aligned=False, pool=self.pool
            )
            if pooled_BD is None:
                pooled_BD = self.model.pool_tokens(tokens_BVD, visible_BV)
            features = {self.name: pooled_BD, f"{self.name}/embedding": embedding_BE}
            if self.keep_tokens:
                features[f"{self.name}/tokens"] = self.model.fusion_tokens(tokens_BVD, visible_BV, pooled_BD=pooled_BD)
        return features

    def text_length(self, wanted: int | None) -> int:
        """Return how many tokens of a text the model reads: as many as wanted, or None: its own ``max_length``.

        Raises:
            EvaluationError: the model has fewer positions than are wanted.
        """
        positions = self.model.config.text.max_positions
        if wanted is not None and wanted > positions:
            raise EvaluationError(
                f"text_length is {wanted}, but the model {self.name!r} has {positions} positions for tokens: lower it"
            )
        # Positions beyond the tokenizer's own limit were never trained with captions.
        return wanted if wanted is not None else min(self.tokenizer.model_max_length, positions)

    @torch.inference_mode()
    def encode_text(
        self, texts: Sequence[str], wanted: int | None = None, batch_size: int = 256
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens [U, L, D], their mask [U, L] and unit vectors [U, E], L being the longest text's length.

        Args:
            texts: U texts.
            wanted: tokens to read of a text, longer ones are cut; None: as many as in training.
            batch_size: texts per forward pass.
        """
        device = next(self.model.parameters()).device
        length = self.text_length(wanted)
        ids_UL, mask_UL = encode_batch(self.tokenizer, texts, length, clean=self.model.config.clean_captions)
        longest = int(mask_UL.sum(dim=1).max()) if len(mask_UL) else 1
        ids_UL, mask_UL = ids_UL[:, :longest].to(device), mask_UL[:, :longest].to(device)
        with autocast(self.precision, device):
            parts = [
                self.model.encode_text(ids, mask)
                for ids, mask in zip(ids_UL.split(batch_size), mask_UL.split(batch_size), strict=True)
            ]
        tokens, embeddings = zip(*parts, strict=True)
        return torch.cat(tokens), mask_UL, torch.cat(embeddings)

    def pair_scorer(
        self, text_ULD: Rows, mask_UL: Rows, video_SVD: Rows, pairs_per_pass: int = PAIRS_PER_PASS
    ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """Return a function from text and clip indices [G] to the matching head's logits [G, 2]: no match, match.

        Args:
            text_ULD: tokens from :meth:`encode_text`, in memory or in a file.
            mask_UL: their mask.
            video_SVD: ``{name}/tokens`` of the clips. Of these arrays, no more than one run's rows are in memory at a time.
            pairs_per_pass: pairs per run of the fusion layers; pairs come sorted by clip, so a run reads few clips.
        """
        device = next(self.model.parameters()).device

        @torch.inference_mode()
        def score(text_G: np.ndarray, clip_G: np.ndarray) -> np.ndarray:
            scores = []
            with progress(f"matching head, {self.name}", len(text_G), "pair") as show:
                for start in range(0, len(text_G), pairs_per_pass):
                    part = slice(start, start + pairs_per_pass)
                    clips, row_G = np.unique(clip_G[part], return_inverse=True)
                    text_GLD, mask_GL = (array[text_G[part]].to(device) for array in (text_ULD, mask_UL))
                    video_RVD = video_SVD[clips].to(text_GLD)
                    rows_G = torch.from_numpy(row_G).to(device)
                    with autocast(self.precision, device):
                        logits_G2 = self.model.match_logits(text_GLD, mask_GL, video_RVD, rows_G)
                    scores.append(logits_G2.float().cpu())
                    show(min(part.stop, len(text_G)))
            return torch.cat(scores).numpy() if scores else np.zeros((0, 2), dtype=np.float32)

        return score


def _identity(name: str, model: nn.Module, view: ViewConfig, **facts: Any) -> dict[str, Any]:
    # Of the weights as they are, not of their file: an untrained encoder has none.
    sha256 = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        sha256.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha256.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return {"name": name, "weights_sha256": sha256.hexdigest(), "view": view.model_dump(mode="json"), **facts}


def view_of(config: ViTConfig) -> ViewConfig:
    """Return the evaluation view that an encoder was built for."""
    return ViewConfig(frames=config.frames, size=config.image_size)


def clip_loader(videos: pd.DataFrame, media_root: Path) -> ClipLoader:
    """Return a loader of evaluation views (middle frames, centre crop); it can be sent to other processes.

    Args:
        videos: clean table of videos, with video_id, path, num_frames, height and width.
        media_root: the paths in the table are relative to it.
    """
    rows: dict[Any, Any] = videos.set_index("video_id")[["path", "num_frames", "height", "width"]].to_dict("index")
    return functools.partial(_load_row, rows, media_root)


def frame_loader(videos: pd.DataFrame, media_root: Path, view: ViewConfig) -> Callable[[str], np.ndarray]:
    """Return a loader of one evaluation view of each clip, uint8 [T, H, W, 3]; see :func:`clip_loader`."""
    load = clip_loader(videos, media_root)
    return lambda video_id: load(video_id, view)


def _load_row(rows: Mapping[str, Mapping[str, Any]], media_root: Path, video_id: str, view: ViewConfig) -> np.ndarray:
    row = rows[video_id]
    chosen = eval_view(view, int(row["num_frames"]), int(row["height"]), int(row["width"]))
    return load_view(media_root / str(row["path"]), chosen)


def decoded_batches(
    video_ids: Sequence[str], views: Sequence[ViewConfig], load: ClipLoader, batch_size: int, threads: int
) -> Iterator[tuple[list[str], dict[ViewConfig, np.ndarray], dict[str, str]]]:
    """Decode all ``views`` of clips in the given order, two batches ahead, in threads.

    Yields:
        Clips that work, their frames [B, T, H, W, 3] per view, and the reasons of those that failed.
    """

    def read(video_id: str) -> dict[ViewConfig, np.ndarray]:
        return {view: load(video_id, view) for view in views}

    for good, failed in decoded(video_ids, read, batch_size, threads):
        stacked = {view: np.stack([frames[view] for frames in good.values()]) for view in views} if good else {}
        yield list(good), stacked, failed
