"""What a data set consists of: samples that are pure functions of ``(index, pass)``, and batches of them.

Shapes: B batch (the clips that one rank sees in one micro-batch).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Sample = dict[str, Any]
Batch = dict[str, Any]
"""Tensors (first axis B) are moved to the device by the loop; any other value stays as it is."""


@dataclass(frozen=True)
class Corpus:
    """A run of consecutive samples that are drawn with one weight.

    Args:
        name: for messages.
        size: number of samples.
        weight: how often an epoch draws each sample, on average: 1 once, 0.5 half of them, 2 each twice; above 0.
        group: samples of different groups never share a batch, and so no step: videos and images have other shapes.
    """

    name: str
    size: int
    weight: float = 1.0
    group: str = ""


class SampleDataset(ABC):
    """Samples as a pure function of ``(index, pass)``; the pass counts from 0 how often the sample was drawn before.

    No random state: whatever varies between passes is derived from the key (``video.views.counter_generator``), so any
    worker on any rank gives the same sample. Picklable; files are opened on first use, not in ``__init__``. May be read
    from a background thread or worker process, never from two threads at once.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    def corpora(self) -> tuple[Corpus, ...]:
        """What the samples are made of, in order; by default one corpus, so that an epoch is one pass over all."""
        return (Corpus("all samples", len(self)),)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """The sample ``key = (index, pass)``: a dict of tensors, arrays, numbers and strings.

        Not needed where ``batch`` is overridden.
        """
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__ or batch")

    def batch(self, indices_B: np.ndarray, passes_B: np.ndarray) -> Batch:
        """A whole batch; by default read one by one and put together by :meth:`collate`. Stores read it at once.

        Args:
            indices_B: int64.
            passes_B: int64.

        Returns:
            dict of tensors or arrays with first axis B, lists for what is no number. The reader adds ``epoch`` and
            ``group``, which are the same for all of it.
        """
        return self.collate([self[key] for key in zip(indices_B.tolist(), passes_B.tolist(), strict=True)])

    def pin(self) -> None:  # noqa: B027, most data sets have nothing to do here
        """Read into page-locked memory from now on, where that saves a copy; for the process that trains on a GPU."""

    def collate(self, samples: list[Sample]) -> Batch:
        """Samples to a batch; by default every key is stacked (:func:`stack_samples`)."""
        return stack_samples(samples)


def stack_samples(samples: list[Sample]) -> Batch:
    """Stack arrays, tensors and numbers per key to tensors with first axis B; anything else becomes a list."""
    batch: Batch = {}
    for key, first in samples[0].items():
        values = [sample[key] for sample in samples]
        if isinstance(first, Tensor):
            batch[key] = torch.stack(values)
        elif isinstance(first, np.ndarray | np.generic | int | float):
            batch[key] = torch.from_numpy(np.stack(values))
        else:
            batch[key] = values
    return batch
