"""AdamW with groups of parameters, and the norm of the gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from umt_pipeline.core.errors import ConfigError, TrainingError
from umt_pipeline.training.task import Task, TrainConfig


def layer_scale(name: str, depth: int, decay: float) -> float:
    """Factor on the learning rate of a parameter of a video encoder, BEiT's layer-wise decay (UMT's fine-tuning).

    The patch embedding is layer 0, block i is layer i + 1, all behind the blocks is layer ``depth`` + 1 and has factor 1;
    each layer below has ``decay`` times the factor of the one above.

    Args:
        name: of the parameter within :class:`umt_pipeline.models.vit.VideoViT`.
        depth: number of blocks.
        decay: 0.75 for the published base model, 0.85 for the large one.
    """
    part, _, rest = name.partition(".")
    if part == "patch_embed":
        layer = 0
    elif part == "blocks":
        layer = int(rest.partition(".")[0]) + 1
    else:
        layer = depth + 1
    return decay ** (depth + 1 - layer)


def param_groups(task: Task, weight_decay: float, layer_decay: float | None = None) -> list[dict[str, Any]]:
    """Group the trainable parameters, each group in model order, by weight decay (``Task.no_decay``) and learning rate.

    The factor on the learning rate is ``Task.lr_scale`` times, with ``layer_decay``, :func:`layer_scale`.

    Raises:
        TrainingError: the model has no trainable parameter.
        ConfigError: ``layer_decay`` for a task without a video encoder.
    """
    scales: dict[nn.Parameter, float] = {}
    if layer_decay is not None:
        encoder = task.encoder()
        if encoder is None:
            raise ConfigError(
                f"`layer_decay` is {layer_decay}, but {type(task).__name__} trains no video encoder; set it to null"
            )
        scales = {p: layer_scale(name, encoder.config.depth, layer_decay) for name, p in encoder.named_parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, param in task.model.named_parameters():
        if param.requires_grad:
            decay = 0.0 if task.no_decay(name, param) else weight_decay
            groups.setdefault((task.lr_scale(name) * scales.get(param, 1.0), decay), []).append(param)
    if not groups:
        raise TrainingError(f"{type(task).__name__}.model has no parameter that requires a gradient: nothing to train")
    # Decayed parameters first, whichever comes first in the model.
    return [
        {"params": params, "weight_decay": decay, "lr_scale": scale}
        for (scale, decay), params in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]


def make_optimizer(task: Task, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over ``task.model``, which is already on its device; the loop sets the learning rate at every step."""
    groups = param_groups(task, config.weight_decay, config.layer_decay)
    # One fused kernel: on the CPU too it is faster than the default loop over tensors.
    fused = groups[0]["params"][0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float | None) -> Tensor:
    """Scale gradients down to ``max_norm`` if one is given.

    Returns:
        scalar on the device: the norm before clipping, of all gradients together.
    """
    params = [param for group in optimizer.param_groups for param in group["params"]]
    if max_norm is not None:
        return torch.nn.utils.clip_grad_norm_(params, max_norm)
    return torch.nn.utils.get_total_norm([param.grad for param in params if param.grad is not None])
