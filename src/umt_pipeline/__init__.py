"""Unmasked Teacher training of video foundation models as a reproducible pipeline.

    import umt_pipeline as umt
    model = umt.load("data/06_models/stage2")
    cosines = model.embed_texts(["a red ring moves left"]) @ model.embed_videos(["clip.mp4"]).T

The package has two storeys, and arrows run downwards only. Below, a plain PyTorch library that a notebook can use: ``core
schemas masking compute video tables demo_world losses models data features training evaluation reports tasks exchange
serving``. Above, the wiring into Kedro, MLflow, DVC and Ray: ``project_config tracking datasets executors hooks pipelines
registry server commands settings``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from umt_pipeline.compute.names import AskedPrecision
    from umt_pipeline.serving.models import VideoTextEmbedder

__version__ = "0.1.0"


def load(folder: str | Path, precision: AskedPrecision = "auto") -> VideoTextEmbedder:
    """Load a stage-2 model folder onto the GPU if there is one; see :class:`VideoTextEmbedder` for what it can do.

    Args:
        folder: of the model.
        precision: what it runs in; ``auto``: bf16 where it is measured to pay on this device.

    Raises:
        CheckpointError: the folder is no complete model of video and text.
    """
    # Here, for every `kedro` command imports this module.
    from umt_pipeline.serving.models import load as load_model

    return load_model(folder, precision)
