"""Stage 2: videos, images and text learn from each other, while the student stays aligned with the teacher (UMT section 3.3).

Shapes: B clips or images, V visible tokens, P values per patch, L text length, K aligned layers, C teacher output width. An
image is a clip of one frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import CheckpointError, ConfigError
from umt_pipeline.data.captions import CaptionSource
from umt_pipeline.data.replacement import unreadable_share
from umt_pipeline.data.samples import Batch
from umt_pipeline.features.captioned import CaptionedDataset
from umt_pipeline.features.manifest import StoreHeader
from umt_pipeline.features.provider import TargetProvider
from umt_pipeline.features.source import Targets, TargetSource
from umt_pipeline.models.flops import training_flops
from umt_pipeline.models.flops_stage2 import video_text_macs
from umt_pipeline.models.folders import load_weights, weights_sha256
from umt_pipeline.models.student import StudentConfig, load_student
from umt_pipeline.models.text import TextConfig, bert_identity, check_pretrained_bert
from umt_pipeline.models.tokenizer import load_tokenizer
from umt_pipeline.models.video_text import VideoTextConfig, VideoTextModel, save_video_text
from umt_pipeline.models.vit import VideoViT, every_patch
from umt_pipeline.training.held_out import HeldOut, HeldOutSearch
from umt_pipeline.training.objectives import Objectives, ObjectiveWeights, Texts
from umt_pipeline.training.spec import RunSpec
from umt_pipeline.training.task import LossParts, Task, TrainConfig
from umt_pipeline.training.text_tower import TextPretrainingConfig
from umt_pipeline.video.media import Media
from umt_pipeline.video.pixels import normalise_patches, patchify
from umt_pipeline.video.views import ViewConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Column of the history: text→video R@1 on validation clips, percent, where these were searched.
VALIDATION_R1 = "validation_r1"


class TextSize(Config):
    """Size of the text and fusion encoder; see :class:`umt_pipeline.models.text.TextConfig`.

    ``pretrained`` names a BERT checkpoint (local folder or hub id), which then decides the vocabulary too; without it a
    WordPiece vocabulary of at most ``vocab_size`` is trained on the training captions. With it, ``vocab_size`` is the
    checkpoint's. ``lr_scale`` multiplies the learning rate of the text layers and their projection, which know something
    already where all else is new. ``new_language_head`` takes a checkpoint without a masked-language head, too:
    most text encoders have none.
    """

    dim: int
    layers: int
    fusion_layer: int
    heads: int
    mlp_dim: int
    max_length: int = Field(32, ge=3)
    max_positions: int = Field(512, ge=3)
    vocab_size: int = 30522
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    pretrained: str | None = None
    new_language_head: bool = False
    lr_scale: float = Field(1.0, gt=0.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_length > self.max_positions:
            raise ValueError(f"max_length {self.max_length} is above max_positions {self.max_positions}")
        return self

    def pretrained_tokenizer(self) -> PreTrainedTokenizerFast | None:
        """Read the tokenizer of ``pretrained``; None without one.

        Raises:
            ConfigError: it cannot be read, or has more words than ``vocab_size``.
        """
        if self.pretrained is None:
            return None
        try:
            tokenizer = load_tokenizer(self.pretrained)
        except CheckpointError as error:
            raise ConfigError(f"stage2.text.pretrained: {error}") from error
        if len(tokenizer) > self.vocab_size:
            raise ConfigError(
                f"stage2.text.pretrained {self.pretrained!r}: its tokenizer has {len(tokenizer)} words, but "
                f"stage2.text.vocab_size is {self.vocab_size}: set it to the vocab_size of the checkpoint's config.json"
            )
        return tokenizer

    def text_config(self, vocab_size: int, vision_dim: int) -> TextConfig:
        """Return the text encoder's configuration for a vocabulary and a video encoder."""
        sizes = self.model_dump(exclude={"max_length", "vocab_size", "lr_scale"})
        return TextConfig(vocab_size=vocab_size, vision_dim=vision_dim, **sizes)


class Stage2Config(Config):
    """Parameters ``stage2``.

    Attributes:
        text: size of the text and fusion encoder.
        text_pretraining: train the text tower on the captions alone first; null where ``text.pretrained`` names a BERT, or
            to start from random weights.
        embed_dim: width of the common space of the contrastive objective.
        temperature: its initial temperature.
        pool: ``mean`` or ``attention``; see :class:`VideoTextConfig`.
        fuse_positions: see :class:`VideoTextConfig`; false in the paper.
        fuse_pooled: likewise.
        weights: weight of each objective.
        corpora: how often an epoch draws each medium of a corpus, by the corpus' name; 1 where it is not named, 0 leaves the
            corpus out.
        clean_captions: clean captions by the published rules: lower case, no punctuation.
        parity: the contrastive gradient as the published code has it, smaller by the number of processes, and samples of the
            same text as each other's negatives, as there. Only with ``pool: mean``, ``fuse_positions: false``,
            ``fuse_pooled: false`` and no unmasked epochs, so that all the rest is as published too.
        targets: ``cached`` or ``online``, as in stage 1.
        verify: as in stage 1.
        train: the loop.
        control: also train the same model from scratch at the same budget: what shows what stage 1 is worth.
        drop_path: largest stochastic depth of the video encoder; null: that of the stage-1 student, which for an imported
            checkpoint is 0, as no file says it.
        validate_every: epochs between two searches of the clips of ``validation_split``, whose text→video R@1 goes into the
            history, for the curve of the report; null: none. It changes no weight.
        validation_split: any but ``train``, which is trained on.
        unmasked_epochs: the last so many epochs see every patch, as evaluation does, and are not aligned with the teacher;
            0 in the paper. Needs a store with ``pixels: frames``, or online targets.
    """

    text: TextSize
    text_pretraining: TextPretrainingConfig | None = None
    embed_dim: int
    temperature: float = 0.07
    pool: Literal["mean", "attention"] = "mean"
    fuse_positions: bool = False
    fuse_pooled: bool = False
    weights: ObjectiveWeights = ObjectiveWeights()
    corpora: dict[str, Annotated[float, Field(ge=0.0)]] = Field(default_factory=dict)
    clean_captions: bool = True
    parity: bool = False
    targets: Targets = "cached"
    verify: float = Field(0.01, ge=0.0, le=1.0)
    train: TrainConfig
    control: bool = True
    drop_path: float | None = Field(None, ge=0.0, lt=1.0)
    validate_every: float | None = Field(None, gt=0.0)
    validation_split: str = "validation"
    unmasked_epochs: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.text_pretraining is not None and self.text.pretrained is not None:
            raise ValueError(
                f"text.pretrained is {self.text.pretrained!r}, so text_pretraining must be null: the text tower starts from one"
            )
        if self.unmasked_epochs and (self.train.epochs is None or self.unmasked_epochs > self.train.epochs):
            raise ValueError(
                f"unmasked_epochs {self.unmasked_epochs} must not be more than train.epochs, which is {self.train.epochs}"
            )
        if self.unmasked_epochs and not float(self.train.epochs or 0.0).is_integer():
            raise ValueError(f"with unmasked_epochs, train.epochs must be a whole number, found {self.train.epochs}")
        weights = self.weights
        if self.unmasked_epochs and not (weights.contrastive or weights.matching or weights.masked_language):
            raise ValueError(
                f"unmasked_epochs is {self.unmasked_epochs}, but only alignment has a weight, which rests in unmasked epochs: "
                "set unmasked_epochs to 0, or give another objective a weight"
            )
        if self.parity and (self.pool != "mean" or self.fuse_positions or self.fuse_pooled or self.unmasked_epochs):
            raise ValueError(
                "parity asks for what was published: set pool to mean, fuse_positions and fuse_pooled to false and "
                f"unmasked_epochs to 0, or parity to false; found pool {self.pool}, fuse_positions {self.fuse_positions}, "
                f"fuse_pooled {self.fuse_pooled}, unmasked_epochs {self.unmasked_epochs}"
            )
        if self.validation_split == "train":
            raise ValueError("validation_split is train, which is trained on: name a split that is not")
        if not any(dict(self.weights).values()):
            raise ValueError("weights: expected at least one objective with a weight above 0")
        return self

    def check_inputs(self) -> None:
        self.text.pretrained_tokenizer()
        # Only cross-attention, which starts new, has the width of the video encoder.
        check_pretrained_bert(self.text.text_config(self.text.vocab_size, vision_dim=self.text.dim))

    @property
    def masked_epochs(self) -> int | None:
        """The first epoch without a mask; None if there is none."""
        return int(self.train.epochs - self.unmasked_epochs) if self.train.epochs and self.unmasked_epochs else None

    def model_for(self, student: StudentConfig, header: StoreHeader, vocab_size: int) -> VideoTextConfig:
        """Return the model's configuration for a stage-1 student, the videos' feature store and a vocabulary.

        A clip may have another number of frames or another resolution than in stage 1: the positions of a longer or a finer
        one are interpolated from those that the student knows, those of a shorter one are the first of them.

        Raises:
            ConfigError: the last epochs are to be unmasked, but the store holds visible patches only; the student's patches
                or alignment heads do not fit the store.
        """
        if self.unmasked_epochs and self.targets == "cached" and header.pixels != "frames":
            raise ConfigError(
                f"stage2.unmasked_epochs is {self.unmasked_epochs}, but the feature store holds {header.pixels} pixels: set "
                "teacher_features.pixels to frames and run teacher_features again, or set stage2.unmasked_epochs to 0"
            )
        trained, aligned = student.vision, self.weights.alignment > 0.0
        if trained.patch_size != header.patch_size:
            raise ConfigError(
                f"the stage-1 student reads patches of {trained.patch_size} pixels, the feature store holds patches of "
                f"{header.patch_size}: run stage1 on this store, or set teacher_features.patch_size back"
            )
        found, expected = (student.align_layers, student.target_dim), (header.layers, header.target_dim)
        if aligned and found != expected:
            raise ConfigError(
                f"the stage-1 student is aligned with {found[0]} layers of width {found[1]}, the feature store holds "
                f"{expected[0]} of width {expected[1]}: run stage1 on this store, or set stage2.weights.alignment to 0"
            )
        vision = trained.for_clips(header.frames, header.view.size, drop_path=self.drop_path, positions="first")
        return VideoTextConfig(
            vision=vision,
            text=self.text.text_config(vocab_size, vision.dim),
            embed_dim=self.embed_dim,
            temperature=self.temperature,
            pool=self.pool,
            fuse_positions=self.fuse_positions,
            fuse_pooled=self.fuse_pooled,
            clean_captions=self.clean_captions,
            align_layers=header.layers if aligned else 0,
            align_interval=student.align_interval,
            target_dim=header.target_dim if aligned else 0,
        )


class Stage2Task(Task):
    """Video-text model, captions and a target provider for each kind of media.

    Args:
        model: the model with its objectives.
        providers: where targets come from, by kind of media.
        dataset: media with captions.
        masked_epochs: the first epoch without a mask; None if there is none.
        text_lr_scale: factor on the learning rate of the text layers and the text projection.
        held_out: clips that are searched now and then, or None.
    """

    equal_shares = True

    def __init__(
        self,
        model: Objectives,
        providers: Mapping[str, TargetProvider],
        dataset: CaptionedDataset,
        masked_epochs: int | None = None,
        text_lr_scale: float = 1.0,
        held_out: HeldOutSearch | None = None,
    ) -> None:
        self.model: nn.Module = model
        self._video_text, self._held_out = model.model, held_out
        self.score_every = None if held_out is None else held_out.every
        self.providers = dict(providers)
        self._dataset = dataset
        self._masked_epochs = masked_epochs
        self._config, self._weights = model.model.config, model.weights
        self._encoder = model.model.vision
        self._text_lr_scale = text_lr_scale
        text_layers = range(model.model.config.text.fusion_layer)
        layers = [f"text.layers.{layer}." for layer in text_layers]
        self._text_names = tuple(f"model.{name}" for name in ("text.embeddings.", *layers, "text_proj."))

    def lr_scale(self, name: str) -> float:
        return self._text_lr_scale if name.startswith(self._text_names) else 1.0

    def encoder(self) -> VideoViT:
        return self._encoder

    def dataset(self) -> CaptionedDataset:
        return self._dataset

    def setup(self, device: torch.device) -> None:
        for provider in self.providers.values():
            provider.setup(device)

    def compile(self) -> None:
        for provider in self.providers.values():
            provider.compile()

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> LossParts:
        provider = self.providers[batch["group"]]
        header = provider.header
        targets_KBVC: Tensor | None
        if self._sees_all(batch):
            patches_BVP = patchify(provider.frames(batch), header.patch_size)
            visible_BV, targets_KBVC = every_patch(patches_BVP), None
        else:
            target = provider.targets(batch)
            patches_BVP, visible_BV, targets_KBVC = target.patches_BVP, target.visible_BV, target.targets_KBVC
        parts: LossParts = model(
            normalise_patches(patches_BVP),
            visible_BV,
            targets_KBVC,
            Texts(batch["ids"], batch["mask"], batch["media"]),
            generator,
            (header.frames, header.grid),
        )
        return LossParts(parts.total, {**parts.parts, **unreadable_share(batch)})

    def sample_ids(self, batch: Batch) -> Sequence[str]:
        return batch["clip"]

    def scores(self) -> dict[str, float]:
        return {} if self._held_out is None else {VALIDATION_R1: self._held_out.recall(self._video_text)}

    def flops_per_clip(self, batch: Batch) -> float | None:
        """The model's way forward and back, and the teacher's forward where it runs online."""
        header, masked = self.providers[batch["group"]].header, not self._sees_all(batch)
        teachers = {kind: provider.teacher_macs() for kind, provider in self.providers.items()}
        teacher = teachers[batch["group"]]
        # One kind that is not known would make nonsense of the window's sum.
        if teacher is None or None in teachers.values():
            return None
        teacher = teacher if masked else 0
        visible = header.frames * (header.visible_per_frame if masked else header.grid**2)
        weights = self._weights if masked else self._weights.model_copy(update={"alignment": 0.0})
        student = video_text_macs(self._config, visible, batch["ids"].shape[1], weights).total
        return float(training_flops(student, teacher))

    def _sees_all(self, batch: Batch) -> bool:
        # A batch never spans two epochs.
        return self._masked_epochs is not None and batch["epoch"] >= self._masked_epochs


class Stage2Spec(RunSpec):
    """A run of stage 2.

    Attributes:
        model: sizes, which fit the stores.
        weights: of the objectives.
        student: stage-1 model folder, or None to train the video encoder from scratch.
        text_tower: folder of a text tower trained on captions alone, or None.
        text_lr_scale: factor on the learning rate of the text layers and the text projection.
        captions: samples and their captions.
        corpora: how often an epoch draws each medium of a corpus, by name.
        parity: contrastive gradient and negatives as the published code has them; see :class:`Stage2Config`.
        masked_epochs: the first epoch without a mask; None if there is none.
        sources: views and targets, by kind of media.
        teacher: names it, for the model card.
        held_out: clips that are searched now and then, for the history; or None.
    """

    model: VideoTextConfig
    weights: ObjectiveWeights
    student: Path | None
    text_tower: Path | None
    text_lr_scale: float = 1.0
    captions: CaptionSource
    corpora: dict[str, float] = Field(default_factory=dict)
    parity: bool = False
    masked_epochs: int | None = None
    sources: dict[Media, TargetSource]
    teacher: str
    held_out: HeldOut | None = None

    def build(self) -> Stage2Task:
        network = VideoTextModel.create(
            self.model,
            student=None if self.student is None else load_student(self.student),
            text_tower=self.text_tower,
        )
        captions = self.captions.open()
        kinds = sorted({corpus.group for corpus in captions.corpora({}, group_by_media=True)})
        if unknown := sorted(set(kinds) - set(self.sources)):
            raise ConfigError(
                f"{self.captions.samples}: expected media of kind {' or '.join(self.sources)}, found {', '.join(unknown)}"
            )
        providers: dict[str, TargetProvider] = {kind: source.open() for kind, source in self.sources.items() if kind in kinds}
        dataset = CaptionedDataset(captions, {kind: made.dataset() for kind, made in providers.items()}, self.corpora)
        words = captions.tokenizer
        kept = (words.pad_token_id, words.cls_token_id)
        objectives = Objectives(network, self.weights, words.mask_token_id, kept, self.parity)
        held_out = None
        if self.held_out is not None:
            view = ViewConfig(frames=self.model.vision.frames, size=self.model.vision.image_size)
            held_out = HeldOutSearch(self.held_out, view, words, self.captions.max_length, self.captions.clean)
        return Stage2Task(objectives, providers, dataset, self.masked_epochs, self.text_lr_scale, held_out)

    def check_world(self, world: int) -> None:
        if self.parity and world != self.train.nproc:
            raise ConfigError(
                f"`parity` makes the gradient depend on the number of processes: the run was written down for `train.nproc` "
                f"{self.train.nproc}, found {world}. Start as many, or write it down with `--params stage2.train.nproc={world}`"
            )

    def inputs(self) -> dict[str, str]:
        found = self.captions.inputs()
        for kind, source in self.sources.items():
            found |= {f"{name} of {kind}s": key for name, key in source.inputs().items()}
        if self.held_out is not None:
            found |= self.held_out.inputs()
        for name, folder in (("student", self.student), ("text tower", self.text_tower)):
            found[name] = "" if folder is None else weights_sha256(folder)
        if self.model.text.pretrained is not None:
            found["pretrained text"] = bert_identity(self.model.text.pretrained)
        if self.parity:
            # The published gradient depends on it, so a run cannot go on with another number.
            found["processes"] = str(self.train.nproc)
        return found

    def export(self, weights: Mapping[str, Tensor], folder: Path, facts: Mapping[str, Any]) -> None:
        inputs = {name: key for name, key in self.inputs().items() if key}
        tokenizer = load_tokenizer(self.captions.tokenizer)
        export_video_text(self.model, weights, tokenizer, folder, {**facts, "inputs": inputs, "teacher": self.teacher})


def export_video_text(
    config: VideoTextConfig,
    weights: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    facts: Mapping[str, Any],
) -> None:
    """Write the model folder of trained :class:`Objectives`.

    Args:
        config: the model's sizes.
        weights: of the objectives with the model in them.
        tokenizer: what its texts were tokenised with.
        folder: exists and is empty.
        facts: kept with the model.

    Raises:
        CheckpointError: the weights do not fit.
    """
    model = VideoTextModel(config)
    load_weights(model, {name.removeprefix("model."): tensor for name, tensor in weights.items()}, source="trained model")
    model.clamp_temperature_()  # The last step may have left it outside its bounds.
    save_video_text(folder, model, tokenizer, facts)
