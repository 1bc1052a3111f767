"""A bare video encoder as a model folder of its own."""

from __future__ import annotations

from pathlib import Path

from umt_pipeline.core.config import Config
from umt_pipeline.models.folders import load_model
from umt_pipeline.models.vit import VideoViT, ViTConfig

KIND = "umt_encoder"


class EncoderConfig(Config):
    """Size of the encoder."""

    vision: ViTConfig


def load_encoder(folder: Path) -> VideoViT:
    """Load an encoder's model folder, in eval mode.

    Raises:
        CheckpointError: the folder is not a complete encoder.
    """
    return load_model(folder, KIND, EncoderConfig, lambda config: VideoViT(config.vision))
