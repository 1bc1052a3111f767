"""The action detector: a video encoder, its tokens pooled within each person's box, one linear layer.

Shapes: B clips, T frames, h w patches along height and width, V all tokens of a clip (T * h * w), P values per patch, D width,
M boxes per clip, R = B * M, C actions. A box is (x1, y1, x2, y2) as shares of the frame's width and height.

Source: the published action detection code: tokens after the final norm averaged over time, RoIAlign to 7 x 7, the maximum
of these, a linear layer. Nobody is detected: boxes of people are an input.

That mean forgets time, and the box forgets where its person came from and goes to. The attention pool, which is this project's
own, keeps both: what the box shows asks all tokens of the clip, each read with its position in space and time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from umt_pipeline.compute.precision import exactly
from umt_pipeline.core.config import Config
from umt_pipeline.models.folders import load_classes, load_model, load_weights, save_with_classes
from umt_pipeline.models.pooling import AttentionPool
from umt_pipeline.models.vit import VideoViT, ViTConfig, every_patch, init_for_fine_tuning

KIND = "umt_detector"
# Points along a side of a box at which its maximum is taken.
ROI_SIZE = 7


class DetectorConfig(Config):
    """Sizes of a detector.

    Attributes:
        vision: the video encoder; its ``drop_path`` is that of fine-tuning.
        classes: C.
        pool: what the head reads of a box: the maximum within it of tokens averaged over time (``mean``, as published), or
            that and what the box asks of all tokens of the clip with their positions (``attention``).
    """

    vision: ViTConfig
    classes: int = Field(gt=0)
    pool: Literal["mean", "attention"] = "mean"


class Detector(nn.Module):
    """A video encoder with its final norm, and a head on what it sees within boxes."""

    def __init__(self, config: DetectorConfig) -> None:
        """Build the model with the published fine-tuning initialisation (truncated normal, deviation 0.02)."""
        super().__init__()
        self.config = config
        self.encoder = VideoViT(config.vision)
        dim, attention = config.vision.dim, config.pool == "attention"
        self.attention_pool = AttentionPool(dim, config.vision.heads) if attention else None
        self.asking = nn.Linear(dim, dim) if attention else None
        self.head = nn.Linear(dim, config.classes)
        self.apply(init_for_fine_tuning)
        # As in the encoder: a convolution in the published model, left at PyTorch's default.
        self.encoder.patch_embed.reset_parameters()

    @classmethod
    def create(
        cls, config: DetectorConfig, encoder: VideoViT | None = None, attention_pool: AttentionPool | None = None
    ) -> Self:
        """Make a new detector, its head at its initial values.

        Args:
            config: sizes.
            encoder: another model's encoder to start from. If it has no final norm, as a classifier's has not, the norm starts
                fresh, as published.
            attention_pool: a stage-2 model's (or a classifier's) pool to start from, with ``pool: attention``.

        Raises:
            CheckpointError: encoder or pool have other sizes than ``config``.
        """
        model = cls(config)
        if encoder is not None:
            state = encoder.state_dict()
            fresh = () if "norm.weight" in state else ("norm.*",)
            load_weights(model.encoder, state, source="encoder to start from", allow_missing=fresh)
        if attention_pool is not None and model.attention_pool is not None:
            load_weights(model.attention_pool, attention_pool.state_dict(), source="attention pool to start from")
        return model

    def forward(self, patches_BVP: Tensor, boxes_BM4: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return logits [B, M, C].

        Args:
            patches_BVP: all patches of each clip in raster order, normalised.
            boxes_BM4: people in the middle frame; a clip with fewer than M has any other boxes in their place, whose logits
                mean nothing.
            grid: (h, w) where they differ from the encoder's, whose positions are then interpolated.

        Raises:
            ValueError: the clips have another number of patches.
        """
        B, V, _ = patches_BVP.shape
        vision = self.config.vision
        h, w = grid or (vision.grid, vision.grid)
        if vision.frames * h * w != V:
            raise ValueError(f"clips of {V} patches, expected {vision.frames} frames of {h} x {w}")
        visible_1V, size = every_patch(patches_BVP), (vision.frames, h, w)
        tokens_BVD = self.encoder(patches_BVP, visible_1V, size if grid else None)
        pooled_RD = _points(tokens_BVD.unflatten(1, size).mean(dim=1), boxes_BM4).amax(dim=(2, 3))
        if self.attention_pool is not None and self.asking is not None:
            positions_1VD = self.encoder.positions(visible_1V, size if grid else None)
            # A box asks with what is seen in it and with where it is in the key frame, the middle one.
            key_BhwD = positions_1VD.unflatten(1, size)[:, vision.frames // 2].expand(B, -1, -1, -1)
            place_RD = _points(key_BhwD, boxes_BM4).mean(dim=(2, 3))
            asked_BMD = self.asking(pooled_RD + place_RD).unflatten(0, boxes_BM4.shape[:2])
            pooled_RD = pooled_RD + self.attention_pool.read_for(asked_BMD, tokens_BVD, positions_1VD).flatten(0, 1)
        logits_RC = exactly(self.head, pooled_RD)
        return logits_RC.unflatten(0, (B, boxes_BM4.shape[1]))


def _points(map_BhwD: Tensor, boxes_BM4: Tensor) -> Tensor:
    """Return 7 x 7 points in each box, [B * M, D, 7, 7]."""
    # Imported where it is needed: timm and torchvision bring torch's compiler, which takes two seconds.
    from torchvision.ops import roi_align

    B, M = boxes_BM4.shape[:2]
    h, w = map_BhwD.shape[1:3]
    x1, y1, x2, y2 = boxes_BM4.float().flatten(0, 1).unbind(dim=1)
    clip_R = torch.arange(B, device=boxes_BM4.device, dtype=torch.float32).repeat_interleave(M)
    # Edges are multiplied one by one: a tensor of factors would be copied to the device at every step.
    rois_R5 = torch.stack((clip_R, x1 * w, y1 * h, x2 * w, y2 * h), dim=1)
    # In float32, as torchvision's own autocast would have it.
    points_RD77: Tensor = roi_align(
        map_BhwD.permute(0, 3, 1, 2).float(), rois_R5, ROI_SIZE, spatial_scale=1.0, sampling_ratio=0, aligned=False
    )
    return points_RD77


def load_detector(folder: Path) -> Detector:
    """Load a detector's model folder, in eval mode.

    Raises:
        CheckpointError: the folder is not a complete detector.
    """
    return load_model(folder, KIND, DetectorConfig, Detector)


def save_detector(folder: Path, model: Detector, classes: Sequence[str], extra: Mapping[str, Any] | None = None) -> None:
    """Write a model folder into an existing one, ``extra`` facts beside its sizes, and C actions in the head's order.

    Raises:
        CheckpointError: ``classes`` are not C different ones.
    """
    save_with_classes(folder, model, model.config, KIND, classes, extra)


def load_actions(folder: Path) -> tuple[str, ...]:
    """Read a detector's actions in the head's order.

    Raises:
        CheckpointError: there are not C different ones.
    """
    return load_classes(folder, KIND)
