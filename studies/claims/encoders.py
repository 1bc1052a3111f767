"""The encoders that the study compares: the student's, with attention over the clip or within frames, and the teacher's own.

Shapes: B clips, T frames (or tubelets), N patches per frame, V visible tokens (the same number in each frame), P values per
patch, D width.
"""

from __future__ import annotations

import torch
from open_clip.transformer import VisionTransformer as OpenClipViT
from torch import Tensor, nn

from studies.claims.inputs import InputConfig
from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.models.teacher import Teacher
from umt_pipeline.models.towers import OpenClipTower
from umt_pipeline.models.vit import AttentionKind, VideoViT, ViTConfig, sinusoid_table


class EncoderSize(Config):
    """Size of the student."""

    dim: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0


class ClipEncoder(nn.Module):
    """The project's video encoder, of which a token may stand for a tubelet of several frames."""

    def __init__(
        self, size: EncoderSize, image_size: int, patch_size: int, clip: InputConfig, attention: AttentionKind
    ) -> None:
        super().__init__()
        config = ViTConfig(
            image_size=image_size, patch_size=patch_size, frames=clip.moments, attention=attention, **size.model_dump()
        )
        self.dim, self.heads = size.dim, size.heads
        self.vit = VideoViT(config)
        if clip.tubelet > 1:
            self.vit.patch_embed = nn.Linear(clip.tubelet * config.patch_values, size.dim)

    def forward_layers(self, patches_BVP: Tensor, visible_BV: Tensor, layers: list[int]) -> tuple[Tensor, Tensor]:
        """Return final tokens [B, V, D] and those of chosen blocks [K, B, V, D]."""
        return self.vit.forward_layers(patches_BVP, visible_BV, layers)

    def forward(self, patches_BVP: Tensor, visible_BV: Tensor) -> Tensor:
        """Return tokens [B, V, D]."""
        return self.forward_layers(patches_BVP, visible_BV, [])[0]

    def positions(self, visible_BV: Tensor) -> Tensor:
        """Return position vectors [B, V, D]."""
        return self.vit.positions(visible_BV)


class TeacherEncoder(nn.Module):
    """The teacher's image tower as a video encoder that can be fine-tuned, its weights copied.

    With ``attention: joint`` the tokens of all frames attend to each other, and a temporal position that starts at zero is
    added: the paper's "CLIP-ST". With ``frame`` each frame is encoded alone: "CLIP-S".

    Raises:
        ConfigError: the teacher is no ViT of open_clip with patches of the student's size.
    """

    positions_PD: Tensor

    def __init__(self, teacher: Teacher, patch_size: int, clip: InputConfig, attention: AttentionKind) -> None:
        super().__init__()
        if not isinstance(teacher.tower, OpenClipTower) or clip.tubelet > 1:
            raise ConfigError("claims: only a teacher of open_clip, with tubelet 1, can be fine-tuned as a video encoder")
        visual: OpenClipViT = teacher.tower.visual
        if teacher.tower.patch_size != patch_size:
            raise ConfigError(
                f"claims: the teacher's patches have {teacher.tower.patch_size} pixels, those of the study {patch_size}: set "
                "claims.patch_size to the teacher's, or leave the arms that fine-tune it out of claims.arms"
            )
        self.frames = clip.frames
        self.attention = attention
        self.dim = int(visual.class_embedding.shape[0])
        self.heads = visual.transformer.resblocks[0].attn.num_heads
        self.visual = visual
        self.visual.requires_grad_(True)
        self.temporal_T1W = nn.Parameter(torch.zeros(clip.frames, 1, self.dim))
        table_PD = sinusoid_table(clip.frames * teacher.grid**2, self.dim)
        self.register_buffer("positions_PD", table_PD, persistent=False)

    def forward(self, patches_BVP: Tensor, visible_BV: Tensor) -> Tensor:
        """Return normed tokens [B, V, D] of all patches."""
        del visible_BV
        visual, clips = self.visual, len(patches_BVP)
        weight_DP = visual.conv1.weight.flatten(1)
        x_BTND = (patches_BVP @ weight_DP.T).unflatten(1, (self.frames, -1))
        class_BT1D = visual.class_embedding.expand(clips, self.frames, 1, -1)
        x_BTLD = torch.cat((class_BT1D, x_BTND), dim=2) + visual.positional_embedding + self.temporal_T1W
        x_BTLD = visual.ln_pre(x_BTLD)
        tokens = x_BTLD.flatten(1, 2) if self.attention == "joint" else x_BTLD.flatten(0, 1)
        for block in visual.transformer.resblocks:
            tokens = block(tokens)
        x_BTLD = visual.ln_post(tokens).reshape(x_BTLD.shape)
        return x_BTLD[:, :, 1:].flatten(1, 2)

    def positions(self, visible_BV: Tensor) -> Tensor:
        """Return the position vectors [B, V, D] that the pool reads, of the student's kind."""
        return self.positions_PD[visible_BV]
