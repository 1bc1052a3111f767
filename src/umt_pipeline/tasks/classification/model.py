"""The classifier that fine-tuning starts from: a video encoder, all its tokens pooled to one vector, one linear layer.

Shapes: B clips, V all tokens of a clip (T * N), P values per patch, D width, C classes.

Source: the published fine-tuning code: mean over all tokens, LayerNorm eps 1e-6, linear head that starts near zero. The
attention pool is this project's own, that of stage 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from umt_pipeline.compute.precision import exactly
from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.models import folders
from umt_pipeline.models.folders import load_model, load_weights, require_classes, save_with_classes
from umt_pipeline.models.pooling import AttentionPool
from umt_pipeline.models.vit import NORM_EPS, VideoViT, ViTConfig, every_patch, init_for_fine_tuning

KIND = "umt_classifier"


class ClassifierConfig(Config):
    """Sizes of a classifier.

    Attributes:
        vision: the video encoder; its ``drop_path`` is that of fine-tuning.
        classes: C.
        dropout: before the head; 0 in every published recipe.
        init_scale: factor on the head's initial weights, so that training starts from nearly equal logits.
        pool: how a clip's tokens become one vector: their ``mean``, as published, or ``attention``
            (:class:`umt_pipeline.models.pooling.AttentionPool`), which also reads where and when a token was seen, after
            the encoder's final norm, as in stage 2.
    """

    vision: ViTConfig
    classes: int = Field(gt=0)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    init_scale: float = Field(default=0.001, gt=0.0)
    pool: Literal["mean", "attention"] = "mean"


class Classifier(nn.Module):
    """A video encoder, and a head on the normed pool of its tokens; with ``pool: mean`` the encoder has no final norm."""

    def __init__(self, config: ClassifierConfig) -> None:
        """Build the model with the published fine-tuning initialisation (truncated normal, deviation 0.02)."""
        super().__init__()
        self.config = config
        attention = config.pool == "attention"
        self.encoder = VideoViT(config.vision, final_norm=attention)
        self.attention_pool = AttentionPool(config.vision.dim, config.vision.heads) if attention else None
        self.fc_norm = nn.LayerNorm(config.vision.dim, eps=NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.vision.dim, config.classes)
        self.apply(init_for_fine_tuning)
        # As in the encoder: a convolution in the published model, left at PyTorch's default.
        self.encoder.patch_embed.reset_parameters()
        with torch.no_grad():
            self.head.weight.mul_(config.init_scale)
            self.head.bias.mul_(config.init_scale)

    @classmethod
    def create(
        cls, config: ClassifierConfig, encoder: VideoViT | None = None, attention_pool: AttentionPool | None = None
    ) -> Self:
        """Make a new classifier, its head at its initial values.

        Args:
            config: sizes.
            encoder: a stage-1 student's (or another model's) encoder to start from. With ``pool: mean`` its final norm is
                left out; the classifier's ``fc_norm``, which takes another input, starts fresh.
            attention_pool: a stage-2 model's (or another classifier's) pool to start from, with ``pool: attention``.

        Raises:
            CheckpointError: encoder or pool have other sizes than ``config``, or a classifier's encoder without a final
                norm is to be read by an attention pool.
        """
        model = cls(config)
        if encoder is not None:
            left_out = ("norm.*",) if config.pool == "mean" else ()
            load_weights(model.encoder, encoder.state_dict(), source="encoder to start from", allow_unexpected=left_out)
        if attention_pool is not None and model.attention_pool is not None:
            load_weights(model.attention_pool, attention_pool.state_dict(), source="attention pool to start from")
        return model

    def forward(self, patches_BVP: Tensor) -> Tensor:
        """Return logits [B, C].

        Args:
            patches_BVP: all patches of each clip in raster order, normalised.

        Raises:
            ValueError: the clips have another number of patches than the encoder's positions.
        """
        if patches_BVP.shape[1] != len(self.encoder.positions_AD):
            raise ValueError(f"clips of {patches_BVP.shape[1]} patches, expected {len(self.encoder.positions_AD)}")
        visible_1V = every_patch(patches_BVP)
        tokens_BVD = self.encoder(patches_BVP, visible_1V)
        if self.attention_pool is None:
            pooled_BD = tokens_BVD.mean(dim=1)
        else:
            pooled_BD = self.attention_pool(tokens_BVD, self.encoder.positions(visible_1V))
        return exactly(self.head, self.dropout(self.fc_norm(pooled_BD)))


def load_classifier(folder: Path) -> Classifier:
    """Load a classifier's model folder, in eval mode.

    Raises:
        CheckpointError: the folder is not a complete classifier.
    """
    return load_model(folder, KIND, ClassifierConfig, Classifier)


def save_classifier(
    folder: Path, model: Classifier, classes: Sequence[str], extra: Mapping[str, Any] | None = None
) -> None:
    """Write a model folder into an existing one, ``extra`` facts beside its sizes, and C labels in the head's order.

    Raises:
        CheckpointError: ``classes`` are not C different ones.
    """
    save_with_classes(folder, model, model.config, KIND, classes, extra)


def load_classes(folder: Path) -> tuple[str, ...]:
    """Read a classifier's labels in the head's order.

    Raises:
        CheckpointError: there are not C different ones.
    """
    return folders.load_classes(folder, KIND)


def remap_head(model: Classifier, classes: Sequence[str], sources: Mapping[str, str]) -> Classifier:
    """Return a classifier for other classes, each of which takes over the row of the head of one known class.

    What K710 classifiers need before they are fine-tuned on K400, K600 or K700. Encoder and ``fc_norm`` stay.

    Args:
        model: the known classifier; not changed.
        classes: its C labels, in the head's order.
        sources: new label -> known label, in the order of the new head. Two new labels may come from one.

    Raises:
        CheckpointError: ``classes`` are not the head's.
        ConfigError: fewer than two new labels, or one that comes from an unknown label.
    """
    require_classes(classes, model.config.classes, "remap_head")
    row_of = {name: row for row, name in enumerate(classes)}
    unknown = {new: old for new, old in sources.items() if old not in row_of}
    if unknown:
        shown = ", ".join(f"{new!r} from {old!r}" for new, old in list(unknown.items())[:8])
        raise ConfigError(
            f"head map: {len(unknown)} of {len(sources)} labels come from classes that the classifier has not ({shown}); "
            f"it has {', '.join(map(repr, list(classes)[:8]))}{', …' if len(classes) > 8 else ''}"
        )
    if len(sources) < 2:
        raise ConfigError(f"head map: expected at least two labels, found {len(sources)}")
    rows = torch.tensor([row_of[old] for old in sources.values()])
    state = model.state_dict()
    state |= {name: state[name][rows] for name in ("head.weight", "head.bias")}
    mapped = Classifier(model.config.model_copy(update={"classes": len(sources)}))
    load_weights(mapped, state, source="classifier whose head is mapped")
    return mapped.train(model.training)
