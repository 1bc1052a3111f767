"""The stage-2 model: video encoder, text encoder, fusion encoder and their heads.

Shapes: B samples, V visible tokens per clip, P values per patch, D width (vision or text), E embedding width, L text
length, T frames, K aligned layers, C teacher output width, R clips, Y vocabulary size.

Source: UMT section 3.3 and the published code; :mod:`umt_pipeline.models.checkpoints` maps its files to these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from umt_pipeline.compute.precision import exactly
from umt_pipeline.core.config import Config
from umt_pipeline.losses import HardNegatives
from umt_pipeline.models.alignment import aligned_layers
from umt_pipeline.models.folders import load_model, load_weights, read_weights, save_model
from umt_pipeline.models.heads import AlignmentHeads
from umt_pipeline.models.pooling import AttentionPool, fusion_input, pool_and_norm
from umt_pipeline.models.student import Student
from umt_pipeline.models.text import TextConfig, TextModel, load_pretrained_bert
from umt_pipeline.models.tokenizer import check_vocabulary, load_tokenizer, save_tokenizer
from umt_pipeline.models.vit import NORM_EPS, VideoViT, ViTConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

KIND = "umt_video_text"
TOKENIZER_FOLDER = "tokenizer"
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.001, 0.5


class VideoTextConfig(Config):
    """Sizes of a video-text model.

    Attributes:
        vision: the video encoder.
        text: the text and fusion encoder; its ``vision_dim`` must be the video encoder's width.
        embed_dim: E, width of the common space. 512 for UMT-B, 768 for UMT-L.
        temperature: initial divisor of the cosines, learnt within [0.001, 0.5].
        align_layers: K, layers still aligned with the teacher; 0 for a model without alignment heads.
        align_interval: as in :class:`umt_pipeline.models.student.StudentConfig`.
        target_dim: C, width of the teacher's output; 0 without alignment heads.
        pool: how a clip's tokens become one vector: their ``mean``, as published, or ``attention``
            (:class:`umt_pipeline.models.pooling.AttentionPool`), which also reads where and when a token was seen.
        clean_captions: whether texts are cleaned by the published rules before they are tokenised.
        fuse_positions: add the position vectors once more to the tokens that the fusion layers read. Off in the published
            model, which does so for its alignment heads only.
        fuse_pooled: add the clip's pooled and normed vector to each of these tokens: the fusion layers begin with what the
            contrast has learnt to tell of the clip as a whole, motion for example, and need not learn it again. Off in the
            published model.
    """

    vision: ViTConfig
    text: TextConfig
    embed_dim: int
    temperature: float = Field(default=0.07, ge=MIN_TEMPERATURE, le=MAX_TEMPERATURE)
    align_layers: int = Field(default=0, ge=0)
    align_interval: float = Field(default=1.0, gt=0.0)
    target_dim: int = Field(default=0, ge=0)
    pool: Literal["mean", "attention"] = "mean"
    fuse_positions: bool = False
    fuse_pooled: bool = False
    clean_captions: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.text.vision_dim != self.vision.dim:
            raise ValueError(f"text.vision_dim {self.text.vision_dim} is not vision.dim {self.vision.dim}: set them equal")
        if self.vision.attention != "joint":
            raise ValueError("vision.attention 'frame' tells texts nothing of motion, and knows no images: set it to joint")
        if (self.align_layers == 0) != (self.target_dim == 0):
            raise ValueError(
                f"align_layers is {self.align_layers}, target_dim {self.target_dim}: set both, or neither for no heads"
            )
        if self.align_layers:
            aligned_layers(self.vision.depth, self.align_layers, self.align_interval)
        return self


class VideoFeatures(NamedTuple):
    """What one pass of the video encoder gives; ``aligned_KBVC`` is None where it was not wanted.

    ``embedding_BE`` are unit vectors or, pooled by frame, the means of the frames' unit vectors: their products with a text
    are cosines, averaged over frames. ``pooled_BD`` is what they are projected from; pooled by frame there is none of the clip.
    """

    tokens_BVD: Tensor
    pooled_BD: Tensor | None
    embedding_BE: Tensor
    aligned_KBVC: Tensor | None


class VideoTextModel(nn.Module):
    """A video encoder and a BERT that meet twice: in a common embedding space and in cross-attention."""

    def __init__(self, config: VideoTextConfig) -> None:
        """Build the model with random weights.

        ``text.pretrained`` is not read here but by :meth:`create`.
        """
        super().__init__()
        self.config = config
        dim = config.vision.dim
        self.vision = VideoViT(config.vision)
        self.heads = AlignmentHeads(config.align_layers, dim, config.target_dim) if config.align_layers else None
        self.layers = (
            aligned_layers(config.vision.depth, config.align_layers, config.align_interval) if config.align_layers else []
        )
        self.attention_pool = AttentionPool(dim, config.vision.heads) if config.pool == "attention" else None
        self.pool_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.text = TextModel(config.text)
        self.vision_proj = nn.Linear(dim, config.embed_dim)
        self.text_proj = nn.Linear(config.text.dim, config.embed_dim)
        self.match_head = nn.Linear(config.text.dim, 2)
        self.temp = nn.Parameter(torch.tensor(config.temperature))

    @classmethod
    def create(cls, config: VideoTextConfig, *, student: Student | None = None, text_tower: Path | None = None) -> Self:
        """Make a new model: random weights, except what it is given to start from and a BERT named by ``text.pretrained``.

        Args:
            config: sizes.
            student: a stage-1 student, whose encoder becomes the video encoder; its alignment heads come along if the
                model has any.
            text_tower: folder with the weights of a :class:`TextTower` of the same sizes.

        Raises:
            CheckpointError: something to start from has other sizes than ``config``.
        """
        model = cls(config)
        if config.text.pretrained is not None:
            load_pretrained_bert(model.text, config.text.pretrained)
        if text_tower is not None:
            tower = TextTower(config.text, config.embed_dim)
            load_weights(tower, read_weights(text_tower), source=str(text_tower))
            model.text, model.text_proj = tower.text, tower.text_proj
        if student is not None:
            load_weights(model.vision, student.encoder.state_dict(), source="stage-1 student's encoder")
            if model.heads is not None:
                load_weights(model.heads, student.heads.state_dict(), source="stage-1 student's alignment heads")
        return model

    @property
    def temperature(self) -> Tensor:
        """The divisor of the cosines, a 0-D tensor with gradient."""
        return self.temp.clone()  # A copy: clamping before the backward pass must not touch what autograd saved.

    @torch.no_grad()
    def clamp_temperature_(self) -> None:
        """Put the temperature back into [0.001, 0.5]; as published, at the start of each training step."""
        self.temp.clamp_(MIN_TEMPERATURE, MAX_TEMPERATURE)

    def encode_video(
        self,
        patches_BVP: Tensor,
        visible_BV: Tensor,
        pool: Literal["clip", "frame"] = "clip",
        clip_size: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode clips.

        Args:
            patches_BVP: normalised visible patches.
            visible_BV: their sorted positions, int64, the same number in each frame.
            pool: "clip" pools all tokens into one embedding [B, E], as in training; "frame" gives one per frame
                [B, T, E].
            clip_size: see :meth:`VideoViT.positions`.

        Returns:
            Tokens [B, V, D] and unit-length embeddings.
        """
        tokens_BVD = self.vision(patches_BVP, visible_BV, clip_size)
        return tokens_BVD, self.project_video(self._pooled(tokens_BVD, visible_BV, pool, clip_size))

    def encode_video_aligned(
        self,
        patches_BVP: Tensor,
        visible_BV: Tensor,
        aligned: bool = True,
        clip_size: tuple[int, int] | None = None,
        pool: Literal["clip", "frame"] = "clip",
    ) -> VideoFeatures:
        """Encode clips or images: all of :class:`VideoFeatures`, aligned vectors [K, B, V, C] to compare with the teacher's.

        Args:
            patches_BVP: normalised visible patches.
            visible_BV: their sorted positions.
            aligned: whether those vectors are wanted; they are None otherwise, and for a model without alignment heads.
            clip_size: see :meth:`VideoViT.positions`; (1, patches along a side) for images.
            pool: what the embedding is of; see :class:`VideoFeatures`.
        """
        heads = self.heads if aligned else None
        layers = self.layers if heads else ()
        tokens_BVD, layers_KBVD = self.vision.forward_layers(patches_BVP, visible_BV, layers, clip_size)
        aligned_KBVC = None if heads is None else heads(layers_KBVD, self.vision.positions(visible_BV, clip_size))
        pooled = self._pooled(tokens_BVD, visible_BV, pool, clip_size)
        embedding = self.project_video(pooled)
        if pool == "frame":
            return VideoFeatures(tokens_BVD, None, embedding.mean(dim=1), aligned_KBVC)
        return VideoFeatures(tokens_BVD, pooled, embedding, aligned_KBVC)

    def _pooled(
        self, tokens_BVD: Tensor, visible_BV: Tensor, pool: Literal["clip", "frame"], clip_size: tuple[int, int] | None
    ) -> Tensor:
        frames = clip_size[0] if clip_size is not None else self.config.vision.frames
        return self.pool_tokens(tokens_BVD, visible_BV, frames if pool == "frame" else None, clip_size)

    def pool_tokens(
        self,
        tokens_BVD: Tensor,
        visible_BV: Tensor,
        frames: int | None = None,
        clip_size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Pool and norm all tokens to [B, D], or each frame's to [B, T, D] if ``frames`` is given.

        Args:
            tokens_BVD: tokens from :meth:`encode_video`.
            visible_BV: their positions.
            frames: T, if each frame is wanted by itself.
            clip_size: see :meth:`VideoViT.positions`.

        Raises:
            ValueError: the tokens cannot be shared equally by the frames.
        """
        B, V, D = tokens_BVD.shape
        if frames is not None:
            if V % frames:
                raise ValueError(f"{V} tokens cannot be shared equally by {frames} frames")
            visible_BV = visible_BV.expand(B, -1).reshape(B * frames, -1)
            tokens_BVD = tokens_BVD.reshape(B * frames, -1, D)
        positions_BVD = None if self.attention_pool is None else self.vision.positions(visible_BV, clip_size)
        pooled = pool_and_norm(tokens_BVD, self.pool_norm, self.attention_pool, positions_BVD)
        return pooled if frames is None else pooled.unflatten(0, (B, frames))

    def fusion_tokens(
        self,
        tokens_BVD: Tensor,
        visible_BV: Tensor,
        clip_size: tuple[int, int] | None = None,
        pooled_BD: Tensor | None = None,
    ) -> Tensor:
        """Return what the fusion layers read of a clip [B, V, D].

        Args:
            tokens_BVD: tokens from :meth:`encode_video`.
            visible_BV: their positions.
            clip_size: see :meth:`VideoViT.positions`.
            pooled_BD: of the whole clip, from :meth:`pool_tokens`, where the caller has it already; read with ``fuse_pooled``.
        """
        if not self.config.fuse_pooled:
            pooled_BD = None
        elif pooled_BD is None:
            pooled_BD = self.pool_tokens(tokens_BVD, visible_BV, clip_size=clip_size)
        positions_BVD = self.vision.positions(visible_BV, clip_size) if self.config.fuse_positions else None
        return fusion_input(tokens_BVD, positions_BVD, pooled_BD)

    def project_video(self, pooled_BD: Tensor) -> Tensor:
        """Return unit vectors [..., E], float32, of pooled video features [..., D]."""
        return _unit_vectors(self.vision_proj, pooled_BD)

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Encode captions: tokens [B, L, D] and unit-length embeddings [B, E] (of position 0), float32."""
        tokens_BLD = self.text.encode(ids_BL, mask_BL)
        return tokens_BLD, self.project_text(tokens_BLD)

    def project_text(self, tokens_BLD: Tensor) -> Tensor:
        """Return unit vectors [B, E], float32, of text tokens."""
        return _unit_vectors(self.text_proj, tokens_BLD[:, 0])

    def match_logits(self, text_BLD: Tensor, mask_BL: Tensor, video_RVD: Tensor, clips_B: Tensor | None = None) -> Tensor:
        """Return logits [B, 2] that text and video belong together (class 1).

        Args:
            text_BLD: tokens from :meth:`encode_text`.
            mask_BL: True at tokens.
            video_RVD: from :meth:`fusion_tokens`.
            clips_B: row of ``video_RVD`` for each text; None pairs row by row. Many texts may share one clip cheaply.
        """
        return exactly(self.match_head, self.text.fuse(text_BLD, mask_BL, video_RVD, clips_B)[:, 0])

    def match_and_mlm(
        self,
        text_BLD: Tensor,
        mask_BL: Tensor,
        video_BVD: Tensor,
        negatives: HardNegatives | None,
        masked_BLD: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Run all pairs of a training step through the fusion encoder in one batch; each clip is projected once.

        Args:
            text_BLD: tokens from :meth:`encode_text`; text i describes clip i.
            mask_BL: True at tokens.
            video_BVD: from :meth:`fusion_tokens`.
            negatives: from :func:`umt_pipeline.losses.hard_negatives`, or None without the matching loss.
            masked_BLD: text tokens of the corrupted ids (``model.text.encode``), or None without that loss.

        Returns:
            Match logits [3B, 2] in the order that :func:`umt_pipeline.losses.matching_loss` expects, and vocabulary
            logits [B, L, Y]; None for what was not wanted.
        """
        rows_B = torch.arange(len(text_BLD), device=text_BLD.device)
        texts: list[Tensor] = []
        masks: list[Tensor] = []
        clips: list[Tensor] = []
        if negatives is not None:
            texts += [text_BLD, text_BLD, text_BLD.index_select(0, negatives.text_B)]
            masks += [mask_BL, mask_BL, mask_BL.index_select(0, negatives.text_B)]
            clips += [rows_B, negatives.video_B, rows_B]
        if masked_BLD is not None:
            texts.append(masked_BLD)
            masks.append(mask_BL)
            clips.append(rows_B)
        fused = self.text.fuse(torch.cat(texts), torch.cat(masks), video_BVD, torch.cat(clips))
        pairs = 0 if negatives is None else 3 * len(text_BLD)
        match_M2 = exactly(self.match_head, fused[:pairs, 0]) if pairs else None
        mlm_logits = None if masked_BLD is None else self.text.mlm_logits(fused[pairs:])
        return match_M2, mlm_logits


class TextTower(nn.Module):
    """Text layers and text projection of a :class:`VideoTextModel`, same names, to be trained on captions alone."""

    def __init__(self, config: TextConfig, embed_dim: int) -> None:
        super().__init__()
        self.text = TextModel(config)
        self.text_proj = nn.Linear(config.dim, embed_dim)

    def project(self, tokens_BLD: Tensor) -> Tensor:
        """Return unit vectors [B, E], float32, of text tokens, of position 0."""
        return _unit_vectors(self.text_proj, tokens_BLD[:, 0])


def _unit_vectors(projection: nn.Linear, pooled_D: Tensor) -> Tensor:
    return F.normalize(projection(pooled_D).float(), dim=-1)


def save_video_text(
    folder: Path, model: VideoTextModel, tokenizer: PreTrainedTokenizerFast, extra: Mapping[str, Any] | None = None
) -> None:
    """Write a model folder: ``config.json``, ``model.safetensors`` and ``tokenizer/``.

    Args:
        folder: an existing folder; callers stage it and move it into place.
        model: the model.
        tokenizer: what its texts were tokenised with.
        extra: further JSON-able facts kept in ``config.json``.

    Raises:
        CheckpointError: the tokenizer has ids that the model has no embedding for.
    """
    save_with_tokenizer(folder, model, model.config, KIND, tokenizer, model.config.text.vocab_size, extra)


def load_video_text(folder: Path) -> tuple[VideoTextModel, PreTrainedTokenizerFast]:
    """Load a stage-2 model folder: the model in eval mode, and its tokenizer.

    Raises:
        CheckpointError: the folder is not a complete stage-2 model.
    """
    model = load_model(folder, KIND, VideoTextConfig, VideoTextModel)
    return model, load_own_tokenizer(folder, model.config.text.vocab_size)


def save_with_tokenizer(
    folder: Path,
    model: nn.Module,
    config: Config,
    kind: str,
    tokenizer: PreTrainedTokenizerFast,
    vocab_size: int,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a model folder (:func:`umt_pipeline.models.folders.save_model`) with ``tokenizer/``.

    Raises:
        CheckpointError: the tokenizer has ids that the model has no embedding for.
    """
    check_vocabulary(tokenizer, vocab_size, folder)
    save_model(folder, model, config, kind, extra)
    save_tokenizer(tokenizer, folder / TOKENIZER_FOLDER)


def load_own_tokenizer(folder: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a model folder.

    Raises:
        CheckpointError: it cannot be read, or has ids that the model has no embedding for.
    """
    tokenizer = load_tokenizer(folder / TOKENIZER_FOLDER)
    check_vocabulary(tokenizer, vocab_size, folder)
    return tokenizer
