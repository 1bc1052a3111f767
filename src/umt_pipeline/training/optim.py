"""AdamW with two groups of parameters, and the norm of the gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from umt_pipeline.errors import TrainingError
from umt_pipeline.training.task import Task, TrainConfig


def param_groups(task: Task, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters as a group with decay and one without (``Task.no_decay``), each in model order.

    Raises:
        TrainingError: the model has no trainable parameter.
    """
    decay: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, param in task.model.named_parameters():
        if param.requires_grad:
            (plain if task.no_decay(name, param) else decay).append(param)
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise TrainingError(f"{type(task).__name__}.model has no parameter that requires a gradient: nothing to train")
    return groups


def make_optimizer(task: Task, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over ``task.model``, which is already on its device; the loop sets the learning rate at every step."""
    groups = param_groups(task, config.weight_decay)
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
