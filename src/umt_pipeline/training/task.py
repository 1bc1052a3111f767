"""What a training run consists of: the task (model, data, loss of one batch) and the settings of the loop.

A stage is a ``Task`` subclass. The loop (``training.loop``) owns everything else: sample order, optimiser, schedule,
precision, checkpoints, metrics. A minimal task:

    class Rows(SampleDataset):
        def __len__(self): return 100
        def __getitem__(self, key): index, number = key; return {"id": f"row{index}", "x": read_row(index)}

    class Regression(Task):
        def __init__(self): self.model = nn.Linear(4, 1)
        def dataset(self): return Rows()
        def loss(self, model, batch, generator):
            total = model(batch["x"]).square().mean()
            return LossParts(total, {})
        def sample_ids(self, batch): return batch["id"]

Shapes: B batch (the clips that one rank sees in one micro-batch).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from umt_pipeline.compute.names import AskedPrecision
from umt_pipeline.core.config import Config
from umt_pipeline.core.identity import OPERATIONAL
from umt_pipeline.data.samples import Batch, SampleDataset
from umt_pipeline.models.vit import VideoViT


@dataclass(frozen=True)
class LossParts:
    """The loss of one micro-batch.

    Args:
        total: scalar that is differentiated; a mean over the micro-batch's samples.
        parts: scalars to log, averaged over the window like ``total``; the same keys at every step. The names
            of the loop's own columns (``training.metrics.COLUMNS``) are refused.
    """

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class Task(ABC):
    """Model, data and loss of one stage.

    Attributes:
        model: what is trained and nothing else; a frozen teacher belongs in another attribute, so that it is in neither
            optimiser, checkpoint nor DDP. Weights are initialised when the task factory runs, under
            ``torch.manual_seed(seed)``.
        equal_shares: whether every process must hold as many samples of a step as the others: so it is where a loss gathers
            features over processes.
        score_every: epochs between two looks at held-out data, by :meth:`scores`; None: there are none.
    """

    model: nn.Module
    equal_shares: bool = False
    score_every: float | None = None

    @abstractmethod
    def dataset(self) -> SampleDataset:
        """The training samples; called once per process."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> LossParts:
        """The loss of one micro-batch; runs under the loop's autocast.

        Args:
            model: ``self.model``, possibly compiled or wrapped by DDP: go through ``model(...)`` and not through its
                methods or submodules, once per call, with every parameter taking part.
            batch: on the device.
            generator: on the device, seeded from (seed, step, rank); all draws of the loss come from here. Dropout
                takes torch's global generator, which is seeded likewise.
        """

    @abstractmethod
    def sample_ids(self, batch: Batch) -> Sequence[str]:
        """Names of the batch's samples, for the message and dump after a non-finite loss."""

    def setup(self, device: torch.device) -> None:
        """Called once before training, when ``model`` is on the device: move frozen helpers there."""
        return

    def compile(self) -> None:
        """Called once after :meth:`setup` where ``TrainConfig.compile`` is on: compile frozen helpers."""
        return

    def no_decay(self, name: str, param: nn.Parameter) -> bool:
        """Whether weight decay leaves ``param`` alone; by default biases and everything with at most one axis."""
        return param.ndim <= 1 or name.endswith("bias")

    def lr_scale(self, name: str) -> float:
        """Factor on the learning rate of the parameter ``name``; 1 by default. ``layer_decay`` comes on top."""
        return 1.0

    def encoder(self) -> VideoViT | None:
        """The video encoder within ``model``, which ``layer_decay`` and ``recompute_blocks`` act on; None: there is none."""
        return None

    def scores(self) -> dict[str, float]:
        """What held-out data say of ``model`` now, for the history: every ``score_every`` epochs, and after the last step.

        The first process alone calls it, in eval mode and without autograd, while the others wait. It draws nothing from a
        generator of torch's, and leaves the model as it is.
        """
        return {}

    def flops_per_clip(self, batch: Batch) -> float | None:
        """Floating-point operations of training per clip of a batch; called for each batch, so it must be quick.

        Forward and backward pass, and a teacher that runs online; a multiplication and an addition count as two, and
        recomputed blocks count once. Read from shapes alone: no tensor's values may be waited for. None (the default) where
        nobody has counted them: then the history has no ``mfu``, and no matmul peak is measured.
        """
        return None


DeviceName = Literal["auto", "cpu", "cuda"]
OperationalInt = Annotated[int, OPERATIONAL]


class TrainConfig(Config):
    """Settings of the loop.

    ``epochs`` or ``steps`` says how long; a step is one optimiser step on ``batch_size`` clips, all ranks together. A run can
    be resumed under other values of what is marked as operational.
    """

    epochs: float | None = Field(None, gt=0)
    steps: int | None = Field(None, ge=1)
    batch_size: int = Field(ge=1, description="clips per optimiser step, over all ranks and micro-batches")
    lr: float = Field(gt=0, description="peak learning rate")
    min_lr: float = Field(0.0, ge=0, description="learning rate at the end of the cosine")
    scale_lr: bool = Field(False, description="multiply lr and min_lr by batch_size / 256")
    warmup: float = Field(0.0, ge=0, description="epochs of linear warm-up from 0")
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="factor on the learning rate per layer of the video encoder, from the last one down"
    )
    clip_grad: float | None = Field(None, gt=0, description="largest norm of the gradient; null: no clipping")
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the moving average of the weights; null: none")
    accumulate: int = Field(1, ge=1, description="micro-batches per step, each over all ranks")
    device_batch: Annotated[int | None, OPERATIONAL] = Field(
        None, ge=1, description="most clips at once on a device: more micro-batches, where ranks are too few; null: no limit"
    )
    recompute_blocks: OperationalInt = Field(
        0, ge=0, description="first blocks of the video encoder that run again in the backward pass, to save memory"
    )
    precision: AskedPrecision = Field(
        "auto", description="auto: bf16 (autocast) where it is measured to pay, see :mod:`umt_pipeline.compute.precision`"
    )
    compile: bool = Field(False, description="torch.compile, of the model and of a teacher that runs online")
    deterministic: Annotated[bool, OPERATIONAL] = Field(
        False, description="deterministic algorithms alone: the same bits from the same GPU, slower; a CPU needs it not"
    )
    device: Annotated[DeviceName, OPERATIONAL] = Field("auto", description="auto: CUDA if there is one, else CPU")
    nproc: OperationalInt = Field(1, ge=1, description="processes on this machine; 1 trains in the calling process")
    workers: OperationalInt = Field(0, ge=0, description="loader processes per rank; 0: one background thread")
    log_every: OperationalInt = Field(10, ge=1, description="steps between rows of the history")
    checkpoint_every: OperationalInt = Field(100, ge=1, description="steps between checkpoints (each also writes a row)")
    keep: OperationalInt = Field(1, ge=1, description="newest checkpoints kept")
    keep_every: Annotated[int | None, OPERATIONAL] = Field(
        None, ge=1, description="steps between checkpoints that are kept for good, also when the run is finished; null: none"
    )
    timeout: Annotated[float, OPERATIONAL] = Field(
        600.0, gt=0, description="seconds that a rank waits for the others before it gives up"
    )

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of `epochs` and `steps`")
        if self.min_lr > self.lr:
            raise ValueError(f"`min_lr` ({self.min_lr}) must not be above `lr` ({self.lr})")
        if self.keep_every is not None and self.keep_every % self.checkpoint_every:
            raise ValueError(
                f"`keep_every` ({self.keep_every}) must be a multiple of `checkpoint_every` ({self.checkpoint_every}): what is "
                "not saved cannot be kept"
            )
        if self.batch_size < self.nproc * self.accumulate:
            raise ValueError(
                f"`batch_size` ({self.batch_size}) must be at least `nproc` x `accumulate` ({self.nproc} x {self.accumulate})"
            )
        return self
