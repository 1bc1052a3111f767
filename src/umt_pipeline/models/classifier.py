"""The classifier that fine-tuning starts from: a video encoder, the mean of all its tokens, one linear layer.

Shapes: B clips, V all tokens of a clip (T * N), P values per patch, D width, C classes.

Source: the published fine-tuning code: mean over all tokens, LayerNorm eps 1e-6, linear head that starts near zero.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from pydantic import Field
from torch import Tensor, nn

from umt_pipeline.config import Config
from umt_pipeline.models.folders import load_config, load_weights, read_weights
from umt_pipeline.models.vit import NORM_EPS, VideoViT, ViTConfig

KIND = "umt_classifier"
INIT_STD = 0.02


class ClassifierConfig(Config):
    """Sizes of a classifier.

    Attributes:
        vision: the video encoder; its ``drop_path`` is that of fine-tuning.
        classes: C.
        dropout: before the head; 0 in every published recipe.
        init_scale: factor on the head's initial weights, so that training starts from nearly equal logits.
    """

    vision: ViTConfig
    classes: int = Field(gt=0)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    init_scale: float = Field(default=0.001, gt=0.0)


class Classifier(nn.Module):
    """A video encoder without its final norm, and a head on the normed mean of its tokens."""

    def __init__(self, config: ClassifierConfig) -> None:
        """Build the model with the published fine-tuning initialisation (truncated normal, deviation 0.02)."""
        super().__init__()
        self.config = config
        self.encoder = VideoViT(config.vision, final_norm=False)
        self.fc_norm = nn.LayerNorm(config.vision.dim, eps=NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.vision.dim, config.classes)
        self.apply(_init_weights)
        # As in the encoder: a convolution in the published model, left at PyTorch's default.
        self.encoder.patch_embed.reset_parameters()
        with torch.no_grad():
            self.head.weight.mul_(config.init_scale)
            self.head.bias.mul_(config.init_scale)

    @classmethod
    def create(cls, config: ClassifierConfig, encoder: VideoViT | None = None) -> Self:
        """Make a new classifier, its head at its initial values.

        Args:
            config: sizes.
            encoder: a stage-1 student's (or another classifier's) encoder to start from. Its final norm is left out:
                the classifier's ``fc_norm``, which takes another input, starts fresh.

        Raises:
            CheckpointError: the encoder has other sizes than ``config``.
        """
        model = cls(config)
        if encoder is not None:
            load_weights(model.encoder, encoder.state_dict(), source="encoder to start from", allow_unexpected=("norm.*",))
        return model

    def forward(self, patches_BVP: Tensor) -> Tensor:
        """Return logits [B, C].

        Args:
            patches_BVP: all patches of each clip in raster order, normalised.

        Raises:
            ValueError: the clips have another number of patches than the encoder's positions.
        """
        if patches_BVP.shape[1] != len(self.encoder.positions_PD):
            raise ValueError(f"clips of {patches_BVP.shape[1]} patches, expected {len(self.encoder.positions_PD)}")
        # One row of positions, which broadcasts over the batch.
        all_1V = torch.arange(patches_BVP.shape[1], device=patches_BVP.device).unsqueeze(0)
        tokens_BVD = self.encoder(patches_BVP, all_1V)
        logits_BC: Tensor = self.head(self.dropout(self.fc_norm(tokens_BVD.mean(dim=1))))
        return logits_BC


def load_classifier(folder: Path) -> Classifier:
    """Load a classifier's model folder, in eval mode.

    Raises:
        CheckpointError: the folder is not a complete classifier.
    """
    config, _ = load_config(folder, KIND)
    model = Classifier(ClassifierConfig.model_validate(config))
    load_weights(model, read_weights(folder), source=str(folder))
    return model.eval()


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
