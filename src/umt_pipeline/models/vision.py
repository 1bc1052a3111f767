"""The video encoder out of a model folder of any kind: what fine-tuning starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.models.folders import load_config, load_weights, model_kind, read_weights
from umt_pipeline.models.pooling import AttentionPool
from umt_pipeline.models.vit import VideoViT, ViTConfig

# Where a model keeps its video encoder; a bare encoder's folder has no prefix.
PREFIXES = ("encoder.", "vision.", "")
POOL_PREFIX = "attention_pool."


def load_vision(folder: Path) -> tuple[VideoViT, AttentionPool | None]:
    """Load the video encoder of a model folder, in eval mode, and the attention pool that reads it, if any.

    Any kind of model will do, also one that this version does not know, if its ``config.json`` has the encoder's sizes under
    ``vision`` and its weights stand under one of :data:`PREFIXES`.

    Raises:
        CheckpointError: the folder is no complete model, or one without a video encoder of this project.
    """
    kind = model_kind(folder)
    model, _ = load_config(folder, kind)
    sizes = model.get("vision")
    state = read_weights(folder)
    prefix = next((prefix for prefix in PREFIXES if f"{prefix}patch_embed.weight" in state), None)
    if sizes is None or prefix is None:
        raise CheckpointError(
            f"{folder} is a model of kind {kind!r} without a video encoder: expected its sizes under 'vision' in config.json, "
            f"and its weights under one of {', '.join(map(repr, PREFIXES))} in the weights file"
        )
    try:
        config = ViTConfig.model_validate(sizes)
    except ValidationError as error:
        raise CheckpointError(f"{folder}: the sizes of its video encoder cannot be read: {error}") from error
    encoder_state = _below(state, prefix) if prefix else dict(state)
    encoder = VideoViT(config, final_norm="norm.weight" in encoder_state)
    load_weights(encoder, encoder_state, source=f"video encoder of {folder}")
    pool_state, pool = _below(state, POOL_PREFIX), None
    if pool_state or model.get("pool") == "attention":
        pool = AttentionPool(config.dim, config.heads)
        load_weights(pool, pool_state, source=f"attention pool of {folder}")
        pool.eval()
    return encoder.eval(), pool


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
