"""What of a model goes to other runtimes: each encoder with its projection, as a network of plain tensors.

Shapes: B clips, T frames, S side of a frame in pixels, U texts, L text length, D width, E embedding width, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.evaluation.encoders import view_of
from umt_pipeline.models import encoder, student, video_text
from umt_pipeline.models.folders import CLASSES_FILE, CONFIG_FILE, model_kind
from umt_pipeline.models.teacher import CLIP_CONFIG_FILE
from umt_pipeline.models.tokenizer import encode_batch
from umt_pipeline.models.video_text import VideoTextModel, load_video_text
from umt_pipeline.models.vit import VideoViT, all_patches
from umt_pipeline.tasks.classification import model as classification
from umt_pipeline.tasks.classification.model import Classifier, load_classifier
from umt_pipeline.video.views import ViewConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VIDEO, TEXT = "video", "text"
FRAMES, IDS, MASK = "frames", "input_ids", "attention_mask"
# Not "embedding": the exporter to ONNX calls its own values after the operators of torch that they come from.
EMBEDDINGS, LOGITS = "embeddings", "logits"

Module = TypeVar("Module", bound=nn.Module)


class VideoTextClips(nn.Module):
    """Clips of a stage-2 model."""

    def __init__(self, model: VideoTextModel) -> None:
        super().__init__()
        self.model = _only(model, "vision", "attention_pool", "pool_norm", "vision_proj")

    def forward(self, frames: Tensor) -> Tensor:
        """Return unit vectors [B, E] of uint8 frames [B, T, S, S, 3]."""
        return self.model.encode_video(*all_patches(frames, self.model.config.vision))[1]


class VideoTextTexts(nn.Module):
    """Texts of a stage-2 model."""

    def __init__(self, model: VideoTextModel) -> None:
        super().__init__()
        self.model = _only(model, "text", "text_proj")
        self.model.text = _only(model.text, "embeddings", "layers")
        self.model.text.layers = model.text.layers[: model.config.text.fusion_layer]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return unit vectors [U, E] of token ids [U, L], int64, and a mask [U, L], int64, 1 at tokens."""
        return self.model.encode_text(input_ids, attention_mask)[1]


class EncoderClips(nn.Module):
    """Clips of a video encoder alone: the mean over all tokens, as a unit vector."""

    def __init__(self, vision: VideoViT) -> None:
        super().__init__()
        self.vision = vision

    def forward(self, frames: Tensor) -> Tensor:
        """Return unit vectors [B, D] of uint8 frames [B, T, S, S, 3]."""
        tokens_BVD = self.vision(*all_patches(frames, self.vision.config))
        return F.normalize(tokens_BVD.mean(dim=1), dim=1)


class ClassifierClips(nn.Module):
    """Clips of a classifier."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> Tensor:
        """Return logits [B, C] of uint8 frames [B, T, S, S, 3]."""
        logits_BC: Tensor = self.model(all_patches(frames, self.model.config.vision)[0])
        return logits_BC


@dataclass(frozen=True)
class Part:
    """One network of a model.

    Attributes:
        name: ``video`` or ``text``.
        network: takes the inputs in their order, gives one tensor.
        inputs: their names.
        output: what its result is called.
        width: of the result.
        longest: text of a model that reads texts, in tokens; None: of clips only the number may differ.
    """

    name: str
    network: nn.Module
    inputs: tuple[str, ...]
    output: str
    width: int
    longest: int | None = None


@dataclass(frozen=True)
class ModelParts:
    """A model folder, taken apart.

    Attributes:
        folder: of the model.
        kind: of its architecture, as in ``config.json``.
        model: all of it, in eval mode, on the CPU.
        sizes: of the model.
        view: frames that it reads, and their size.
        parts: its networks, the video encoder's first.
        tokenizer: of its texts; None: it reads none.
        text_length: longest text in tokens; 0 without a tokenizer.
        clean_texts: whether texts are cleaned by the published rules before they are tokenised.
        classes: labels in the order of the logits; None: it has no such head, or ``classes.json`` is missing.
    """

    folder: Path
    kind: str
    model: nn.Module
    sizes: Config
    view: ViewConfig
    parts: tuple[Part, ...]
    tokenizer: PreTrainedTokenizerFast | None = None
    text_length: int = 0
    clean_texts: bool = False
    classes: tuple[str, ...] | None = None

    def inputs(self, part: Part, frames_BTSSC: Tensor, texts: Sequence[str]) -> tuple[Tensor, ...]:
        """Return what a part reads: frames as they are, or texts as ids and mask, padded to the longest of them."""
        if part.name == VIDEO:
            return (frames_BTSSC,)
        assert self.tokenizer is not None, "a model that reads texts has a tokenizer"
        ids_UL, mask_UL = encode_batch(self.tokenizer, texts, self.text_length, clean=self.clean_texts, pad_to=1)
        # Not as parts of longer rows: programs would be made for rows of that length.
        return ids_UL.contiguous(), mask_UL.long().contiguous()


def load_parts(folder: Path) -> ModelParts:
    """Load what of a model folder goes to other runtimes.

    Raises:
        CheckpointError: the folder is no complete model, or one of a kind of which nothing is exported.
    """
    kind = _kind(folder)
    if kind == video_text.KIND:
        return _video_text(folder)
    if kind in (student.KIND, encoder.KIND):
        vision = student.load_student(folder).encoder if kind == student.KIND else encoder.load_encoder(folder)
        sizes = encoder.EncoderConfig(vision=vision.config)
        part = Part(VIDEO, EncoderClips(vision).eval(), (FRAMES,), EMBEDDINGS, vision.config.dim)
        return ModelParts(folder, encoder.KIND, vision, sizes, view_of(vision.config), (part,))
    if kind == classification.KIND:
        model = load_classifier(folder)
        part = Part(VIDEO, ClassifierClips(model).eval(), (FRAMES,), LOGITS, model.config.classes)
        classes = classification.load_classes(folder) if (folder / CLASSES_FILE).is_file() else None
        return ModelParts(folder, kind, model, model.config, view_of(model.config.vision), (part,), classes=classes)
    raise CheckpointError(_refusal(folder, kind))


def _video_text(folder: Path) -> ModelParts:
    model, tokenizer = load_video_text(folder)
    config = model.config
    # Positions beyond the tokenizer's own limit were never trained with captions.
    length = min(tokenizer.model_max_length, config.text.max_positions)
    parts = (
        Part(VIDEO, VideoTextClips(model).eval(), (FRAMES,), EMBEDDINGS, config.embed_dim),
        Part(TEXT, VideoTextTexts(model).eval(), (IDS, MASK), EMBEDDINGS, config.embed_dim, config.text.max_positions),
    )
    view = view_of(config.vision)
    return ModelParts(folder, video_text.KIND, model, config, view, parts, tokenizer, length, config.clean_captions)


def _kind(folder: Path) -> str | None:
    """Return the kind of model in a folder; None: it holds several folders of models."""
    if (folder / CLIP_CONFIG_FILE).is_file():
        return "teacher"
    several = not (folder / CONFIG_FILE).is_file() and any(folder.glob(f"*/{CONFIG_FILE}"))
    return None if several else model_kind(folder)


def _refusal(folder: Path, kind: str | None) -> str:
    known = "the models of stage 1, stage 2, retrieval, a bare encoder and a classifier can be exported"
    if kind is None:
        inside = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG_FILE}"))
        return f"{folder} holds {len(inside)} models, {', '.join(inside)}: export one of these folders; {known}"
    return f"{folder} is a model of kind {kind!r}, of which nothing is exported: {known}"


def _only(module: Module, *children: str) -> Module:
    """Return a module that shares its weights with another, and holds some of its children only.

    Programs keep all weights that their module holds, used or not.
    """
    part = copy.copy(module)
    part._modules = {name: child for name, child in module._modules.items() if name in children}
    part._parameters = {}
    return part


@torch.inference_mode()
def run(part: Part, *inputs: Tensor) -> Tensor:
    """Return what torch's own network gives, float32 on the CPU."""
    found: Tensor = part.network(*inputs)
    return found.float()
