"""Unmasked Teacher training of video foundation models as a reproducible pipeline.

    import umt_pipeline as umt
    model = umt.load("data/06_models/stage2")
    cosines = model.embed_texts(["a red ring moves left"]) @ model.embed_videos(["clip.mp4"]).all().T

The package has two storeys, and arrows run downwards only. Below, a plain PyTorch library that a notebook can use: ``core
schemas masking compute video tables demo_world losses models data features training evaluation reports tasks exchange
serving``. Above, the wiring into Kedro, MLflow, DVC and Ray: ``project_config tracking datasets executors hooks pipelines
registry server commands settings``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Unpack

    from umt_pipeline.compute.names import AskedPrecision
    from umt_pipeline.serving.models import Model
    from umt_pipeline.serving.sources import Options

__version__ = "0.1.0"


def load(source: str | Path, precision: AskedPrecision = "auto", **options: Unpack[Options]) -> Model:
    """Load a model onto the GPU if there is one; see :class:`umt_pipeline.serving.models.Model` for what it can do.

    Args:
        source: a model folder, such as ``data/06_models/stage2``; a version of a registered model, ``models:/NAME@ALIAS`` or
            ``models:/NAME/3``; a published checkpoint file of the Unmasked Teacher (``.pth``, ``.pt``, ``.safetensors``);
            or a CLIP, ``open_clip:MODEL/TAG`` or ``open_clip:local-dir:FOLDER``, whose frames are averaged.
        precision: what it runs in; ``auto``: bf16 where it is measured to pay on this device.
        options: what the files do not say (:class:`umt_pipeline.serving.sources.Options`), such as ``answers`` of a model that
            answers questions.

    Raises:
        CheckpointError: there is no such model, or it is not complete.
        ConfigError: an option is missing, unknown or wrong.
        RegistryError: there is no such version, or the registry cannot be asked.
    """
    # Here, for every `kedro` command imports this module.
    if str(source).startswith("models:/"):
        from umt_pipeline.registry.loading import load_registered

        return load_registered(str(source), precision, options)
    from umt_pipeline.serving.loading import load_source

    return load_source(source, precision, options)
