"""Models as classes of transformers; `umt export` puts them and all that they need into the file beside the weights.

Shapes: B clips, T frames, S side of a frame in pixels, U texts, L text length, D width, E embedding width, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import ModelOutput

from umt_pipeline.models.encoder import EncoderConfig
from umt_pipeline.models.video_text import VideoTextConfig, VideoTextModel
from umt_pipeline.models.vit import VideoViT, all_patches, position_table
from umt_pipeline.tasks.classification.model import Classifier, ClassifierConfig


class UnmaskedTeacherConfig(PretrainedConfig):
    """What transformers keeps of a model.

    Args:
        sizes: of the model, as umt_pipeline writes them.
        others: settings of transformers' own.
    """

    model_type = "unmasked_teacher"

    def __init__(self, sizes: dict[str, Any] | None = None, **others: Any) -> None:
        self.sizes = sizes or {}
        super().__init__(**others)


@dataclass
class VideoTextOutput(ModelOutput):
    """What a video-text model says; None where clips or texts were not given.

    Attributes:
        video_embeds: unit vectors [B, E].
        text_embeds: unit vectors [U, E].
        logits_per_video: cosines [B, U] divided by the temperature that the model learnt.
        logits_per_text: the same [U, B].
    """

    video_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    logits_per_video: Tensor | None = None
    logits_per_text: Tensor | None = None


class _UnmaskedTeacherModel(PreTrainedModel):
    """A model whose weights are all in its file; its position table is computed."""

    config_class = UnmaskedTeacherConfig
    base_model_prefix = "model"
    main_input_name = "frames"
    _supports_sdpa = True

    def _init_weights(self, module: nn.Module) -> None:
        # Called for what is not in the file of weights: models are made without memory and only then filled.
        if isinstance(module, VideoViT):
            config = module.config
            table_AD = position_table(config.dim, *config.position_size, config.frames, config.grid)
            module.positions_AD = table_AD.to(module.patch_embed.weight)


class UnmaskedTeacherVideoText(_UnmaskedTeacherModel):
    """Clips and texts in one space, and how well a clip and a text match."""

    # The head that pairs are put in order by: its small differences matter.
    _keep_in_fp32_modules_strict = {"match_head"}  # noqa: RUF012  # as transformers declares it

    def __init__(self, config: UnmaskedTeacherConfig) -> None:
        super().__init__(config)
        self.model = VideoTextModel(VideoTextConfig.model_validate(config.sizes))
        self.post_init()

    def get_video_features(self, frames: Tensor) -> Tensor:
        """Return unit vectors [B, E], float32, of uint8 frames [B, T, S, S, 3]."""
        return self.model.encode_video(*self._patches(frames))[1]

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return unit vectors [U, E], float32, of token ids [U, L] and a mask, 1 at tokens; no mask: all are tokens."""
        return self.model.encode_text(input_ids, _mask(input_ids, attention_mask))[1]

    def get_match_logits(self, frames: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return how well clips and texts match, pair by pair [B]: higher is better; 0 is no border.

        Args:
            frames: uint8 [B, T, S, S, 3].
            input_ids: token ids [B, L]; text i stands beside clip i.
            attention_mask: 1 at tokens; None: all are.
        """
        mask_BL = _mask(input_ids, attention_mask)
        patches_BVP, visible_BV = self._patches(frames)
        tokens_BVD = self.model.vision(patches_BVP, visible_BV)
        text_BLD = self.model.encode_text(input_ids, mask_BL)[0]
        return self.model.match_logits(text_BLD, mask_BL, self.model.fusion_tokens(tokens_BVD, visible_BV))[:, 1]

    def forward(
        self, frames: Tensor | None = None, input_ids: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> VideoTextOutput:
        """Embed clips, texts or both; of both, also compare each clip with each text."""
        clips = None if frames is None else self.get_video_features(frames)
        texts = None if input_ids is None else self.get_text_features(input_ids, attention_mask)
        logits = None if clips is None or texts is None else clips @ texts.T / self.model.temperature.float()
        return VideoTextOutput(clips, texts, logits, None if logits is None else logits.T)

    def _patches(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        patches_BVP, visible_BV = all_patches(frames, self.model.config.vision)
        return patches_BVP.to(self.dtype), visible_BV


class UnmaskedTeacherVideo(_UnmaskedTeacherModel):
    """A video encoder alone."""

    def __init__(self, config: UnmaskedTeacherConfig) -> None:
        super().__init__(config)
        self.model = VideoViT(EncoderConfig.model_validate(config.sizes).vision)
        self.post_init()

    def get_video_features(self, frames: Tensor) -> Tensor:
        """Return unit vectors [B, D], float32, the mean over all tokens, of uint8 frames [B, T, S, S, 3]."""
        return F.normalize(self(frames).mean(dim=1).float(), dim=1)

    def forward(self, frames: Tensor) -> Tensor:
        """Return all tokens [B, V, D] after the final norm, of uint8 frames [B, T, S, S, 3]."""
        patches_BVP, visible_BV = all_patches(frames, self.model.config)
        tokens_BVD: Tensor = self.model(patches_BVP.to(self.dtype), visible_BV)
        return tokens_BVD


class UnmaskedTeacherClassifier(_UnmaskedTeacherModel):
    """A classifier of clips."""

    _keep_in_fp32_modules_strict = {"head"}  # noqa: RUF012  # as transformers declares it

    def __init__(self, config: UnmaskedTeacherConfig) -> None:
        super().__init__(config)
        self.model = Classifier(ClassifierConfig.model_validate(config.sizes))
        self.post_init()

    def forward(self, frames: Tensor) -> ImageClassifierOutput:
        """Return logits [B, C] of uint8 frames [B, T, S, S, 3]; ``config.id2label`` names the classes."""
        patches_BVP = all_patches(frames, self.model.config.vision)[0]
        return ImageClassifierOutput(logits=self.model(patches_BVP.to(self.dtype)))


def _mask(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    return torch.ones_like(input_ids) if attention_mask is None else attention_mask
