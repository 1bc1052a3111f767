"""The model that answers questions about clips: video encoder, question encoder, answer decoder.

The question encoder is a whole BERT, its fusion layers attending to the clip. The decoder is a small causal BERT that attends
at the question's states, not at the clip, and gives an answer's tokens one after another.

Shapes: B questions, R clips, V visible tokens per clip, P values per patch, L question length, D text width, Z vision width,
K answers to each question, N = B * K, A answer length, X = K * A, M = B * K * (A - 1), H heads,
d width of a head, Y vocabulary.

Source: UMT section 4.2 and the published code, after ALBEF; :mod:`umt_pipeline.models.checkpoints` maps its files to these
names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from umt_pipeline.core.config import Config
from umt_pipeline.models.bert import BertLayer, Embeddings, LanguageTransform
from umt_pipeline.models.folders import LoadReport, load_model, load_weights
from umt_pipeline.models.pooling import AttentionPool, fusion_input, pool_and_norm
from umt_pipeline.models.text import TextConfig, TextModel, init_bert_weights
from umt_pipeline.models.video_text import VideoTextModel, load_own_tokenizer, save_with_tokenizer
from umt_pipeline.models.vit import NORM_EPS, VideoViT, ViTConfig

if TYPE_CHECKING:
    # Imported where a tokenizer is made or read: it takes a second.
    from transformers import PreTrainedTokenizerFast

KIND = "umt_question_answering"


class QuestionAnsweringConfig(Config):
    """Sizes of a question-answering model.

    Attributes:
        vision: the video encoder.
        text: the question encoder; the decoder has the same sizes, and as many layers as this has fusion layers.
        fuse_positions: add the position vectors once more to the video tokens that questions attend to; off in the published
            model.
        fuse_pooled: add the clip's pooled vector to each of them, as the stage-2 model does; off in the published model.
        pool: how it is pooled, if it is; see :class:`umt_pipeline.models.video_text.VideoTextConfig`.
    """

    vision: ViTConfig
    text: TextConfig
    fuse_positions: bool = False
    fuse_pooled: bool = False
    pool: Literal["mean", "attention"] = "mean"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.text.vision_dim != self.vision.dim:
            raise ValueError(f"text.vision_dim {self.text.vision_dim} is not vision.dim {self.vision.dim}: set them equal")
        if self.pool != "mean" and not self.fuse_pooled:
            raise ValueError(f"pool {self.pool} pools nothing without fuse_pooled: set that to true, or pool to mean")
        return self

    @property
    def decoder_layers(self) -> int:
        """Layers of the answer decoder: 3 in UMT-B, 5 in UMT-L."""
        return self.text.layers - self.text.fusion_layer


class Question(NamedTuple):
    """What the decoder attends to: states of a question that has seen its clip, and where they are tokens and no padding."""

    states_BLD: Tensor
    mask_BL: Tensor


class Answers(NamedTuple):
    """Token ids [..., A] from :func:`encode_answers` and their mask, True at tokens."""

    ids: Tensor
    mask: Tensor


class AnswerDecoder(nn.Module):
    """A causal BERT with its language head; every layer attends to the question."""

    def __init__(self, config: TextConfig, layers: int) -> None:
        super().__init__()
        self.config = config
        sizes = config.bert_sizes()
        self.embeddings = Embeddings(sizes, config.vocab_size, config.max_positions)
        self.layers = nn.ModuleList(BertLayer(sizes, crosses=True) for _ in range(layers))
        self.mlm_transform = LanguageTransform(sizes)
        self.mlm_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.apply(init_bert_weights)

    def forward(self, ids_BKA: Tensor, question: Question) -> Tensor:
        """Return states [B, K, A, D]; that of a token knows the question and the tokens up to it.

        Padding needs no mask: it comes last, and no token attends to a later one.

        Args:
            ids_BKA: K answers to each question, padded at the end.
            question: from :meth:`QuestionAnsweringModel.encode`.
        """
        B, K, A = ids_BKA.shape
        attend_B11L = question.mask_BL.bool()[:, None, None, :]
        x_NAD: Tensor = self.embeddings(ids_BKA.flatten(0, 1))
        for layer in cast(list[BertLayer], list(self.layers)):
            x_NAD = layer.attention(x_NAD, causal=True)
            # All answers to one question are one long query: its keys and values are made once and never copied.
            x_BXD = layer.crossattention.cross(x_NAD.reshape(B, K * A, -1), question.states_BLD, attend_B11L)
            x_NAD = layer.feed_forward(x_BXD.reshape(B * K, A, -1))
        return x_NAD.unflatten(0, (B, K))

    def logits(self, states: Tensor) -> Tensor:
        """Return vocabulary logits [..., Y] of the token that follows each state; the matrix is the word embedding."""
        return F.linear(self.mlm_transform(states), self.embeddings.word_embeddings.weight, self.mlm_bias)


class QuestionAnsweringModel(nn.Module):
    """A video encoder, a question encoder and an answer decoder."""

    def __init__(self, config: QuestionAnsweringConfig) -> None:
        """Build the model with random weights."""
        super().__init__()
        self.config = config
        self.vision = VideoViT(config.vision)
        self.text = TextModel(config.text, language_head=False)
        self.decoder = AnswerDecoder(config.text, config.decoder_layers)
        dim = config.vision.dim
        attends = config.fuse_pooled and config.pool == "attention"
        self.attention_pool = AttentionPool(dim, config.vision.heads) if attends else None
        self.pool_norm = nn.LayerNorm(dim, eps=NORM_EPS) if config.fuse_pooled else None

    @classmethod
    def from_video_text(cls, model: VideoTextModel, vision: ViTConfig | None = None) -> tuple[Self, LoadReport]:
        """Start question answering from a stage-2 model.

        Video and question encoder are copied. Fusion layer i becomes decoder layer i, and the decoder's embeddings and
        language head are copies of the text encoder's. The keys and values of its cross-attention read another thing from now
        on, states of text in place of video tokens: they are copied too, as published, if both are equally wide, and else
        start new.

        Args:
            model: a stage-2 model.
            vision: the video encoder's configuration where clip size or stochastic depth is another one from now on; None: the
                stage-2 model's.

        Returns:
            The new model, and a report whose ``missing`` lists the weights that start new and whose ``unexpected`` lists what
            of the stage-2 model is left out.

        Raises:
            CheckpointError: ``vision`` has another width or depth than the stage-2 model's video encoder.
        """
        sizes = model.config
        vision = vision or sizes.vision
        fusion = sizes.model_dump(include={"fuse_positions", "fuse_pooled"} | ({"pool"} if sizes.fuse_pooled else set()))
        made = cls(QuestionAnsweringConfig(vision=vision, text=sizes.text, **fusion))
        source = model.state_dict()
        state = source | {f"decoder.{name}": tensor for name, tensor in _decoder_state(source, sizes.text).items()}
        new = () if vision.dim == sizes.text.dim else tuple(f"decoder.layers.*.{part}.*" for part in _CROSS_INPUTS)
        unused = () if sizes.fuse_pooled else ("attention_pool.*", "pool_norm.*")
        left_out = ("heads.*", "*_proj.*", "match_head.*", "temp", "text.mlm_*", *unused)
        report = load_weights(made, state, source="stage-2 model", allow_missing=new, allow_unexpected=left_out)
        return made, report

    def encode(self, patches_BVP: Tensor, visible_BV: Tensor, ids_BL: Tensor, mask_BL: Tensor) -> Question:
        """Encode questions and the clips that they are about.

        Args:
            patches_BVP: normalised visible patches.
            visible_BV: their positions, int64; one row may stand for all clips.
            ids_BL: question tokens; question i is about clip i.
            mask_BL: True at tokens.
        """
        return self.encode_questions(self.encode_clips(patches_BVP, visible_BV), ids_BL, mask_BL)

    def encode_clips(self, patches_BVP: Tensor, visible_BV: Tensor) -> Tensor:
        """Return the video tokens [B, V, Z] that questions attend to."""
        tokens_BVZ: Tensor = self.vision(patches_BVP, visible_BV)
        fuses, norm, pool = self.config.fuse_positions, self.pool_norm, self.attention_pool
        positions_BVZ = self.vision.positions(visible_BV) if fuses or pool is not None else None
        pooled_BZ = None if norm is None else pool_and_norm(tokens_BVZ, norm, pool, positions_BVZ)
        return fusion_input(tokens_BVZ, positions_BVZ if fuses else None, pooled_BZ)

    def encode_questions(self, tokens_RVZ: Tensor, ids_BL: Tensor, mask_BL: Tensor, clips_B: Tensor | None = None) -> Question:
        """Encode questions about encoded clips.

        Args:
            tokens_RVZ: from :meth:`encode_clips`.
            ids_BL: question tokens.
            mask_BL: True at tokens.
            clips_B: the row of ``tokens_RVZ`` that each question is about, so that a clip is encoded once however many
                questions it has. None: question i is about clip i.
        """
        return Question(self.text.fuse(self.text.encode(ids_BL, mask_BL), mask_BL, tokens_RVZ, clips_B), mask_BL)

    def log_likelihoods(self, question: Question, answers: Answers) -> Tensor:
        """Return the log-probability [B, K], float32, of each whole answer: the sum over its tokens, [SEP] included.

        Args:
            question: from :meth:`encode`.
            answers: [B, K, A], or [K, A] for all questions the same. An answer without any token gets 0.
        """
        ids_BKA = answers.ids.expand(len(question.states_BLD), -1, -1)
        states_BKAD = self.decoder(ids_BKA[..., :-1], question)
        logits_MY = self.decoder.logits(states_BKAD).flatten(0, 2)
        losses_M = F.cross_entropy(logits_MY.float(), ids_BKA[..., 1:].flatten(), reduction="none")
        return -(losses_M.reshape(states_BKAD.shape[:3]) * answers.mask[..., 1:]).sum(dim=-1)

    def first_log_probabilities(self, question: Question, cls_id: int) -> Tensor:
        """Return the log-probabilities [B, Y], float32, of an answer's first token, which follows [CLS]."""
        B = len(question.states_BLD)
        ids_B11 = torch.full((B, 1, 1), cls_id, device=question.states_BLD.device)
        first_BY = self.decoder.logits(self.decoder(ids_B11, question)[:, 0, 0])
        return first_BY.float().log_softmax(dim=-1)

    def forward(
        self, patches_BVP: Tensor, visible_BV: Tensor, ids_BL: Tensor, mask_BL: Tensor, answers: Answers
    ) -> Tensor:
        """Return :meth:`log_likelihoods` of answers [B, K, A] to the questions of :meth:`encode`, in one call for DDP."""
        return self.log_likelihoods(self.encode(patches_BVP, visible_BV, ids_BL, mask_BL), answers)


def encode_answers(tokenizer: PreTrainedTokenizerFast, answers: Sequence[str]) -> Answers:
    """Turn answers into token ids ``[CLS] answer [SEP]``, [K, A], padded to the longest. They are neither cleaned nor cut."""
    encoded = tokenizer(list(answers), padding="longest", return_tensors="pt")
    return Answers(encoded["input_ids"], encoded["attention_mask"].bool())


def save_question_answering(
    folder: Path,
    model: QuestionAnsweringModel,
    tokenizer: PreTrainedTokenizerFast,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a model folder with its tokenizer into an existing one, ``extra`` facts beside its sizes.

    Raises:
        CheckpointError: the tokenizer has ids that the model has no embedding for.
    """
    save_with_tokenizer(folder, model, model.config, KIND, tokenizer, model.config.text.vocab_size, extra)


def load_question_answering(folder: Path) -> tuple[QuestionAnsweringModel, PreTrainedTokenizerFast]:
    """Load a question-answering model's folder: the model in eval mode, and its tokenizer.

    Raises:
        CheckpointError: the folder is not a complete question-answering model.
    """
    model = load_model(folder, KIND, QuestionAnsweringConfig, QuestionAnsweringModel)
    return model, load_own_tokenizer(folder, model.config.text.vocab_size)


_CROSS_INPUTS = ("crossattention.self.key", "crossattention.self.value")


def _decoder_state(state: Mapping[str, Tensor], text: TextConfig) -> dict[str, Tensor]:
    """Return the decoder's weights out of a stage-2 state dict; cross-attention of another width is left out."""
    decoder: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = key.removeprefix("text.")
        if name == key:
            continue
        if name.startswith("layers."):
            _, index, rest = name.split(".", 2)
            layer = int(index) - text.fusion_layer
            if layer < 0 or (rest.startswith(_CROSS_INPUTS) and text.vision_dim != text.dim):
                continue
            name = f"layers.{layer}.{rest}"
        decoder[name] = tensor
    return decoder
