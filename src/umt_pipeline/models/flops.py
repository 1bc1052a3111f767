"""What a clip costs: multiply-accumulates of student and teacher, counted from their sizes alone.

Only matrix products count (linear layers, attention, patch embeddings): what hardware's FLOP/s and published tables mean.
Norms, activations and the resizing of frames are left out. One multiply-accumulate (MAC) is two FLOPs; the paper's tables
print MACs and call them FLOPs.

Letters: T frames, N patches per frame, n visible patches per frame, V = T * n visible tokens per clip, D student width,
W teacher width, C width of the targets, K aligned layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.models.student import StudentConfig
from umt_pipeline.models.vit import ViTConfig

if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer  # whoever has no model of open_clip's need not have it


@dataclass(frozen=True)
class TowerSize:
    """The sizes of a teacher's image tower (a CLIP ViT with a class token) that its cost depends on.

    Args:
        width: W.
        layers: blocks.
        hidden: width of the blocks' hidden layer.
        patch_size: side of the tower's own patches in pixels.
        output_dim: C.
        projects: whether a matrix makes C of W; without one they are equal.
    """

    width: int
    layers: int
    hidden: int
    patch_size: int
    output_dim: int
    projects: bool = True

    @classmethod
    def of_config(cls, model_config: Mapping[str, Any]) -> TowerSize:
        """Read the sizes from open_clip's description of a model; no weights are needed.

        Raises:
            ConfigError: the image tower is no ViT of open_clip's own.
        """
        from open_clip import CLIPVisionCfg

        vision = CLIPVisionCfg(**model_config["vision_cfg"])
        if vision.timm_model_name or isinstance(vision.layers, list | tuple):
            raise ConfigError(
                "the cost is known of open_clip's own ViT towers only, found "
                f"{vision.timm_model_name or 'a convolutional network'}"
            )
        return cls(
            width=vision.width,
            layers=vision.layers,
            hidden=int(vision.width * vision.mlp_ratio),
            patch_size=vision.patch_size,
            output_dim=model_config["embed_dim"],
        )

    @classmethod
    def of_timm(cls, trunk: Any, output_dim: int) -> TowerSize | None:
        """Read the sizes from a loaded ViT of timm; None if it has other tokens, blocks or pools than CLIP's.

        Args:
            trunk: the ViT.
            output_dim: C.
        """
        from timm.layers import Attention, Mlp  # who gives a model of timm has imported it

        mlp = trunk.blocks[0].mlp
        plain = type(mlp) is Mlp and type(trunk.blocks[0].attn) is Attention and trunk.attn_pool is None
        if not plain or trunk.num_prefix_tokens != 1 or trunk.cls_token is None:
            return None
        return cls(
            width=trunk.embed_dim,
            layers=len(trunk.blocks),
            hidden=mlp.fc1.out_features,
            patch_size=trunk.patch_embed.patch_size[0],
            output_dim=output_dim,
            projects=isinstance(trunk.head, nn.Linear),
        )

    @classmethod
    def of_module(cls, visual: VisionTransformer) -> TowerSize:
        """Read the sizes from a loaded tower of open_clip."""
        blocks = visual.transformer.resblocks
        return cls(
            width=visual.conv1.out_channels,
            layers=len(blocks),
            hidden=blocks[0].mlp.c_fc.out_features,
            patch_size=visual.patch_size[0],
            output_dim=visual.output_dim,
        )


def transformer_macs(tokens: int, width: int, hidden: int, layers: int) -> int:
    """Return the MACs of ``layers`` blocks on a sequence of ``tokens``: four projections, attention, two-layer MLP."""
    projections = 4 * tokens * width**2
    attention = 2 * tokens**2 * width
    return layers * (projections + attention + 2 * tokens * width * hidden)


def encoder_macs(vision: ViTConfig, visible: int) -> int:
    """Return the MACs of one clip's way forward through the video encoder.

    Args:
        vision: sizes.
        visible: V, all that the encoder computes.
    """
    embedding = visible * vision.patch_values * vision.dim
    sequences = vision.frames if vision.attention == "frame" else 1
    blocks = transformer_macs(visible // sequences, vision.dim, int(vision.dim * vision.mlp_ratio), vision.depth)
    return embedding + sequences * blocks


def student_macs(config: StudentConfig, visible: int) -> int:
    """Return the MACs of one clip's way forward through the student, heads included.

    Args:
        config: sizes.
        visible: V, all that the student computes.
    """
    heads = config.align_layers * visible * config.vision.dim * config.target_dim
    return encoder_macs(config.vision, visible) + heads


@dataclass(frozen=True)
class TeacherMacs:
    """MACs of one clip's way through the teacher, by part.

    Args:
        patch_embedding: of all T * N patches.
        blocks: on N + 1 tokens, frame by frame.
        attention_row: the class token's attention in the last block, which draws the mask: one query, all keys.
        projection: of n tokens per frame in each of K layers, to the targets' width.
    """

    patch_embedding: int
    blocks: int
    attention_row: int
    projection: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.patch_embedding + self.blocks + self.attention_row + self.projection


def teacher_macs(tower: TowerSize, frames: int, grid: int, layers: int, visible_per_frame: int) -> TeacherMacs:
    """Return the MACs that the targets of one clip cost.

    Args:
        tower: sizes of the image tower.
        frames: T.
        grid: patches along a side of the student's frame: the teacher is run at the size that gives it the same grid.
        layers: K.
        visible_per_frame: n; hidden tokens are computed but not projected.
    """
    patches, width = grid**2, tower.width
    return TeacherMacs(
        patch_embedding=frames * patches * 3 * tower.patch_size**2 * width,
        blocks=frames * transformer_macs(patches + 1, width, tower.hidden, tower.layers),
        attention_row=frames * (width**2 + (patches + 1) * width**2 + (patches + 1) * width),
        projection=frames * layers * visible_per_frame * width * tower.output_dim if tower.projects else 0,
    )


def training_flops(student: int, teacher: int = 0) -> int:
    """Return the FLOPs of one clip in one training step.

    The way back is counted as twice the way forward, as usual (the gradient of the pixels, which nobody computes, makes
    that too many by one patch embedding). The teacher is frozen: forward only.

    Args:
        student: MACs of its way forward.
        teacher: MACs of its way forward; 0 where targets are read from a store.
    """
    return 2 * (3 * student + teacher)
