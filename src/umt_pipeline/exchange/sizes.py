"""Sizes of a model, read from the shapes of its weights.

Shapes cannot tell everything: the number of heads, the clip size and the patches' raster are asked for or take the
published values.

Shapes: D width, P positions of a clip, C teacher output width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

from pydantic import ValidationError
from torch import Tensor

from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.models.checkpoints import POSITION_TABLE
from umt_pipeline.models.encoder import EncoderConfig
from umt_pipeline.models.student import StudentConfig
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.video_text import VideoTextConfig
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.tasks.classification.model import ClassifierConfig
from umt_pipeline.tasks.detection.model import DetectorConfig
from umt_pipeline.tasks.question_answering.model import QuestionAnsweringConfig

# Clip size of the published stage 1, and width of an attention head in every published model.
PUBLISHED_FRAMES, PUBLISHED_IMAGE_SIZE, HEAD_DIM = 8, 224, 64
# Frames of the published stage 2: pre-trained, and fine-tuned for retrieval or questions. Their positions are no other ones.
STAGE2_FRAMES, FINE_TUNED_FRAMES = 4, 12


@dataclass(frozen=True)
class Asked:
    """What the shapes of weights do not tell.

    Attributes:
        image_size: side of a frame in pixels.
        frames: of a clip; None takes those of the file's position table, or the published ones if it has none: 8, but 4 of a
            pre-trained and 12 of a fine-tuned stage-2 model.
        heads: of the video encoder; None means heads of width 64.
        text_heads: of the text encoder; None means heads of width 64.
        align_interval: from one block that is aligned with the teacher to the next; 1 in every published file.
    """

    image_size: int = PUBLISHED_IMAGE_SIZE
    frames: int | None = None
    heads: int | None = None
    text_heads: int | None = None
    align_interval: float = 1.0


def encoder_config(state: Mapping[str, Tensor], asked: Asked, source: str) -> EncoderConfig:
    """Return the sizes of a bare encoder; ``state`` has :class:`VideoViT`'s names.

    Raises:
        CheckpointError: a weight that tells a size is missing, or the sizes cannot be together.
    """
    return EncoderConfig(vision=_Shapes(state, source).vision("", asked))


def student_config(state: Mapping[str, Tensor], asked: Asked, source: str) -> StudentConfig:
    """Return the sizes of a stage-1 student; ``state`` has :class:`Student`'s names. Raises as :func:`encoder_config`."""
    shapes = _Shapes(state, source)
    layers, target_dim = shapes.alignment()
    if not layers:
        raise CheckpointError(f"{source} holds no alignment heads (clip_decoder.*), so it is no student: import an encoder")
    vision = shapes.vision("encoder.", asked)
    try:
        return StudentConfig(
            vision=vision, align_layers=layers, align_interval=asked.align_interval, target_dim=target_dim
        )
    except ValidationError as error:
        raise shapes.refusal(error) from error


def classifier_config(state: Mapping[str, Tensor], asked: Asked, source: str) -> ClassifierConfig:
    """Return the sizes of a classifier; ``state`` has :class:`Classifier`'s names. Raises as :func:`encoder_config`."""
    shapes = _Shapes(state, source)
    return ClassifierConfig(vision=shapes.vision("encoder.", asked), classes=shapes.of("head.weight", 2)[0])


def detector_config(state: Mapping[str, Tensor], asked: Asked, source: str) -> DetectorConfig:
    """Return the sizes of an action detector; ``state`` has :class:`Detector`'s names. Raises as :func:`encoder_config`."""
    shapes = _Shapes(state, source)
    return DetectorConfig(vision=shapes.vision("encoder.", asked), classes=shapes.of("head.weight", 2)[0])


def video_text_config(state: Mapping[str, Tensor], asked: Asked, source: str) -> VideoTextConfig:
    """Return the sizes of a stage-2 model; ``state`` has :class:`VideoTextModel`'s names. Raises as :func:`encoder_config`."""
    if any(key.startswith("text_decoder.") for key in state):
        raise CheckpointError(
            f"{source} holds an answer decoder (text_decoder.*), so it is a question-answering file: import it as "
            "question-answering"
        )
    shapes = _Shapes(state, source)
    pre_trained = any(key.startswith("text.mlm_") for key in state)
    vision = shapes.vision("vision.", asked, STAGE2_FRAMES if pre_trained else FINE_TUNED_FRAMES)
    text = shapes.text("text.", vision.dim, asked)
    layers, target_dim = shapes.alignment()
    try:
        return VideoTextConfig(
            vision=vision,
            text=text,
            embed_dim=shapes.of("vision_proj.weight", 2)[0],
            align_layers=layers,
            align_interval=asked.align_interval if layers else 1.0,
            target_dim=target_dim,
        )
    except ValidationError as error:
        raise shapes.refusal(error) from error


def question_answering_config(state: Mapping[str, Tensor], asked: Asked, source: str) -> QuestionAnsweringConfig:
    """Return the sizes of a question-answering model.

    Args:
        state: weights under :class:`QuestionAnsweringModel`'s names.
        asked: what the weights do not tell.
        source: the file, for messages.

    Raises:
        CheckpointError: as :func:`encoder_config`, or there is no answer decoder, or one with another number of layers than
            the question encoder has fusion layers.
    """
    shapes = _Shapes(state, source)
    decoder = shapes.count("decoder.layers.")
    if not decoder:
        raise CheckpointError(
            f"{source} holds no answer decoder (text_decoder.*), so it does not answer questions: import it as video-text"
        )
    vision = shapes.vision("vision.", asked, FINE_TUNED_FRAMES)
    config = QuestionAnsweringConfig(vision=vision, text=shapes.text("text.", vision.dim, asked))
    if decoder != config.decoder_layers:
        raise CheckpointError(
            f"{source}: the answer decoder has {decoder} layers; expected {config.decoder_layers}, as many as the question "
            "encoder has fusion layers"
        )
    return config


class _Shapes:
    """The shapes of a state dict, with errors that name the file."""

    def __init__(self, state: Mapping[str, Tensor], source: str) -> None:
        self.state = state
        self.source = source

    def of(self, key: str, ndim: int) -> tuple[int, ...]:
        tensor = self.state.get(key)
        if tensor is None or tensor.ndim != ndim:
            keys = f"no such key among {len(self.state)}: {', '.join(list(self.state)[:8])}, …"
            found = keys if tensor is None else str(tuple(tensor.shape))
            raise CheckpointError(f"{self.source}: expected {key} with {ndim} axes, which tells a size; found {found}")
        return tuple(tensor.shape)

    def count(self, prefix: str) -> int:
        """Number of different names that follow ``prefix``."""
        return len({key.removeprefix(prefix).split(".")[0] for key in self.state if key.startswith(prefix)})

    def heads(self, dim: int, asked: int | None, which: str) -> int:
        if asked is None and dim % HEAD_DIM:
            raise CheckpointError(
                f"{self.source}: the {which} is {dim} wide, which is not a multiple of {HEAD_DIM}: say how many heads it has"
            )
        return asked or dim // HEAD_DIM

    def alignment(self) -> tuple[int, int]:
        """K and C, both 0 without alignment heads."""
        layers = self.count("heads.heads.")
        return layers, self.of("heads.heads.0.proj.weight", 2)[0] if layers else 0

    def text(self, prefix: str, vision_dim: int, asked: Asked) -> TextConfig:
        vocab_size, dim = self.of(f"{prefix}embeddings.word_embeddings.weight", 2)
        keys = [key.removeprefix(f"{prefix}layers.") for key in self.state if key.startswith(f"{prefix}layers.")]
        fusion = [int(key.split(".")[0]) for key in keys if ".crossattention." in key]
        if not fusion:
            raise CheckpointError(f"{self.source} holds no layer with cross-attention, so it is no stage-2 model")
        try:
            return TextConfig(
                vocab_size=vocab_size,
                dim=dim,
                layers=self.count(f"{prefix}layers."),
                fusion_layer=min(fusion),
                heads=self.heads(dim, asked.text_heads, "text encoder"),
                mlp_dim=self.of(f"{prefix}layers.0.intermediate.dense.weight", 2)[0],
                max_positions=self.of(f"{prefix}embeddings.position_embeddings.weight", 2)[0],
                vision_dim=vision_dim,
            )
        except ValidationError as error:
            raise self.refusal(error) from error

    def vision(self, prefix: str, asked: Asked, published_frames: int = PUBLISHED_FRAMES) -> ViTConfig:
        dim, values = self.of(f"{prefix}patch_embed.weight", 2)
        patch_size = isqrt(values // 3)
        frames, has_table = asked.frames or published_frames, f"{prefix}{POSITION_TABLE}" in self.state
        if has_table and asked.frames is None:
            positions, per_frame = self.of(f"{prefix}{POSITION_TABLE}", 3)[1], (asked.image_size // patch_size) ** 2
            if not per_frame or positions % per_frame:
                raise CheckpointError(
                    f"{self.source}: {POSITION_TABLE} has {positions} positions, which is no multiple of the {per_frame} "
                    f"patches of a frame of {asked.image_size} pixels: say which image size it was trained with"
                )
            frames = positions // per_frame
        # Files hold a table only where the published code interpolated it from that of the published stage 1.
        resized = has_table and (frames, asked.image_size) != (PUBLISHED_FRAMES, PUBLISHED_IMAGE_SIZE)
        try:
            return ViTConfig(
                image_size=asked.image_size,
                patch_size=patch_size,
                frames=frames,
                dim=dim,
                depth=self.count(f"{prefix}blocks."),
                heads=self.heads(dim, asked.heads, "video encoder"),
                mlp_ratio=self.of(f"{prefix}blocks.0.mlp.fc1.weight", 2)[0] / dim,
                position_frames=PUBLISHED_FRAMES if resized else None,
                position_image_size=PUBLISHED_IMAGE_SIZE if resized else None,
            )
        except ValidationError as error:
            raise self.refusal(error) from error

    def refusal(self, error: ValidationError) -> CheckpointError:
        return CheckpointError(f"{self.source}: {'; '.join(item['msg'] for item in error.errors())}")
