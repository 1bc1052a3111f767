"""Fine-tuning for retrieval: stage 2 on whole clips with contrast and matching alone (UMT section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.data.captions import CaptionSource
from umt_pipeline.features.captioned import CaptionedDataset
from umt_pipeline.features.provider import DecodedClips, WholeFrames
from umt_pipeline.models.folders import load_weights, weights_sha256
from umt_pipeline.models.tokenizer import load_tokenizer
from umt_pipeline.models.video_text import VideoTextConfig, VideoTextModel, load_video_text
from umt_pipeline.training.objectives import Objectives, ObjectiveWeights
from umt_pipeline.training.spec import RunSpec
from umt_pipeline.training.stage2 import Stage2Task, export_video_text
from umt_pipeline.training.task import TrainConfig
from umt_pipeline.video.views import ViewConfig


class RetrievalWeights(Config):
    """Weight of each objective; 0 leaves it out.

    On the authors' 8 GPUs the contrastive gradient was 8 times smaller than their weight of 1 says, see
    :func:`umt_pipeline.losses.video_text_contrastive`: a weight of 1/8 gives the same on any number of processes.
    """

    contrastive: float = Field(1.0, ge=0.0)
    matching: float = Field(1.0, ge=0.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.contrastive or self.matching):
            raise ValueError("expected contrastive or matching with a weight above 0")
        return self

    def objectives(self) -> ObjectiveWeights:
        """Return the weights of stage 2: all other objectives are off."""
        off = dict.fromkeys(ObjectiveWeights.model_fields, 0.0)
        return ObjectiveWeights(**{**off, "contrastive": self.contrastive, "matching": self.matching})


class RetrievalTraining(Config):
    """Parameters of the fine-tuning.

    Attributes:
        view: frames of a clip (12 in the published recipe), their side and crops. Every patch is seen.
        max_length: longest caption in tokens, [CLS] and [SEP] included; longer ones are cut. None: the start model's.
        corpora: how often an epoch draws each clip of a corpus, each time with one of its captions, by the corpus' name; 1
            where it is not named, 0 leaves the corpus out.
        weights: of the objectives.
        pool: what of a clip a caption is compared with in the contrast. ``clip``: one embedding of the whole clip, as in
            stage 2. ``frame``: each frame's, cosines averaged over frames, as in the published fine-tuning.
        drop_path: largest stochastic depth of the video encoder.
        train: the loop.
    """

    view: ViewConfig
    max_length: int | None = Field(None, ge=3)
    corpora: dict[str, Annotated[float, Field(ge=0.0)]] = Field(default_factory=dict)
    weights: RetrievalWeights = RetrievalWeights()
    pool: Literal["clip", "frame"] = "clip"
    drop_path: float = Field(0.0, ge=0.0, lt=1.0)
    train: TrainConfig

    def model_for(self, start: VideoTextConfig) -> VideoTextConfig:
        """Return the configuration of a stage-2 model that goes on with these clips, without alignment heads.

        Raises:
            ConfigError: the patches do not fit the view, or captions are longer than the model has positions.
        """
        if self.max_length is not None and self.max_length > start.text.max_positions:
            raise ConfigError(
                f"retrieval.fine_tuning.max_length is {self.max_length}, but the start model has {start.text.max_positions} "
                "positions for tokens: lower it"
            )
        vision = start.vision.for_clips(self.view.frames, self.view.size, drop_path=self.drop_path)
        return start.model_copy(update={"vision": vision, "align_layers": 0, "align_interval": 1.0, "target_dim": 0})


def start_model(folder: Path, config: VideoTextConfig) -> VideoTextModel:
    """Load a stage-2 model into the one that is fine-tuned (:meth:`RetrievalTraining.model_for`), without alignment heads.

    Raises:
        CheckpointError: the folder is not a complete stage-2 model, or one of other sizes.
    """
    stage2, _ = load_video_text(folder)
    model = VideoTextModel(config)
    kept = {name: tensor for name, tensor in stage2.state_dict().items() if not name.startswith("heads.")}
    load_weights(model, kept, source=str(folder))
    return model


class RetrievalSpec(RunSpec):
    """A run of fine-tuning.

    Attributes:
        start: folder of a stage-2 model.
        model: sizes of the fine-tuned one, from :meth:`RetrievalTraining.model_for`.
        weights: of the objectives.
        pool: what of a clip a caption is compared with.
        captions: samples (videos only) and their captions.
        corpora: how often an epoch draws each clip of a corpus, by name.
        media_root: folder of the video files.
        view: frames of a clip, their side and crops.
        split: of the samples.
        dataset_id: part of the key that views are drawn from.
    """

    start: Path
    model: VideoTextConfig
    weights: ObjectiveWeights
    pool: Literal["clip", "frame"]
    captions: CaptionSource
    corpora: dict[str, float]
    media_root: Path
    view: ViewConfig
    split: str
    dataset_id: str = "retrieval"

    def build(self) -> Stage2Task:
        captions = self.captions.open("retrieval.fine_tuning.max_length")
        clips = DecodedClips(captions.samples, self.split, self.media_root, self.view, self.dataset_id)
        provider = WholeFrames(clips, self.view, self.model.vision.patch_size)
        dataset = CaptionedDataset(captions, {"video": provider.dataset()}, self.corpora)
        words = captions.tokenizer
        kept = (words.pad_token_id, words.cls_token_id)
        network = start_model(self.start, self.model)
        objectives = Objectives(network, self.weights, words.mask_token_id, kept, pool=self.pool)
        return Stage2Task(objectives, {"video": provider}, dataset)

    def inputs(self) -> dict[str, str]:
        return {**self.captions.inputs(), "start": weights_sha256(self.start)}

    def export(self, weights: Mapping[str, Tensor], folder: Path, facts: Mapping[str, Any]) -> None:
        tokenizer = load_tokenizer(self.captions.tokenizer)
        # Whoever uses the model later cuts texts where training did.
        tokenizer.model_max_length = self.captions.max_length
        export_video_text(self.model, weights, tokenizer, folder, {**facts, "inputs": self.inputs()})
