"""A moving average of the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class AverageWeights:
    """Exponential moving average of everything in a model's state dict, kept on its device.

    After step n (from 0) the average moves by 1 - min(decay, (1 + n) / (10 + n)) towards the weights. The second term is
    that of TensorFlow's ``ExponentialMovingAverage(num_updates)``: it lets a run that is short for its decay forget its
    random initial weights. Running statistics are averaged like weights; whole numbers are copied.

    Args:
        model: already on its device, and from now on only changed in place; its weights now are the first average.
        decay: between 0 and 1; 0.9999 averages over about 10,000 steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        live = model.state_dict()  # shares memory with the model
        self.decay = decay
        self.weights: dict[str, Tensor] = {name: value.clone() for name, value in live.items()}
        floats = [name for name, value in live.items() if value.is_floating_point()]
        others = [name for name, value in live.items() if not value.is_floating_point()]
        self._floats = [self.weights[name] for name in floats], [live[name] for name in floats]
        self._others = [self.weights[name] for name in others], [live[name] for name in others]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the model's weights after the 0-based ``step``."""
        decay = min(self.decay, (1 + step) / (10 + step))
        own, live = self._floats
        torch._foreach_lerp_(own, live, 1.0 - decay)
        for value, now in zip(*self._others, strict=True):
            value.copy_(now)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Put a saved average back.

        Raises:
            KeyError: the names are not those of the model.
            RuntimeError: a tensor has another shape.
        """
        if weights.keys() != self.weights.keys():
            raise KeyError(f"averaged weights differ in {sorted(weights.keys() ^ self.weights.keys())}")
        for name, value in self.weights.items():
            if weights[name].shape != value.shape:
                raise RuntimeError(f"averaged {name} is {tuple(weights[name].shape)}, expected {tuple(value.shape)}")
            value.copy_(weights[name])
