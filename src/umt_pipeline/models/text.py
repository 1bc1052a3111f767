"""Text encoder and fusion encoder: one BERT cut in two.

Layers [0, f) read text alone; layers [f, n) also attend to video tokens through cross-attention. All parts have BERT's names
and arithmetic (:mod:`umt_pipeline.models.bert`), so any BERT checkpoint fits.

Shapes: B texts, L text length, D text width, R clips, V video tokens per clip, Z vision width, H heads, Y vocabulary
size.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.core.files import sha256_file
from umt_pipeline.models.bert import BertLayer, BertSizes, Embeddings, LanguageTransform
from umt_pipeline.models.folders import LoadReport, load_weights

if TYPE_CHECKING:
    from transformers import BertConfig  # read where a published BERT is, and nowhere else

# BERT's own standard deviation, which suits its width; narrower models need larger weights for the same activations.
INIT_STD, INIT_WIDTH = 0.02, 768


class TextConfig(Config):
    """Size of the text model. UMT-B uses bert-base-uncased with fusion_layer 9, UMT-L bert-large-uncased with 19.

    Attributes:
        vocab_size: rows of the word embedding.
        dim: width of the text tokens.
        layers: all layers, text and fusion together.
        fusion_layer: number of text layers; the layers from this index on attend to video tokens.
        heads: attention heads.
        mlp_dim: hidden width of the feed-forward part.
        max_positions: longest text.
        dropout: of hidden states and of attention weights.
        vision_dim: width of the video tokens.
        eps: of every LayerNorm.
        pretrained: folder or hub name of a BERT checkpoint, or None for random weights. Read when a new model is made, not
            when a trained one is loaded.
        new_language_head: take a checkpoint without a masked-language head too (MiniLM, E5, BGE and most other text encoders
            have none): the head then starts new.
    """

    vocab_size: int
    dim: int
    layers: int
    fusion_layer: int
    heads: int
    mlp_dim: int
    max_positions: int
    vision_dim: int
    dropout: float = 0.1
    eps: float = 1e-12
    pretrained: str | None = None
    new_language_head: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if not 0 < self.fusion_layer < self.layers:
            raise ValueError(
                f"fusion_layer is {self.fusion_layer}: choose 1 to {self.layers - 1} to have text and fusion layers"
            )
        return self

    def bert_sizes(self) -> BertSizes:
        """Return what a layer is made by."""
        return BertSizes(dim=self.dim, heads=self.heads, mlp_dim=self.mlp_dim, dropout=self.dropout, eps=self.eps)


class TextModel(nn.Module):
    """BERT with cross-attention in its last layers, used as text encoder, fusion encoder and masked-language model."""

    def __init__(self, config: TextConfig, *, language_head: bool = True) -> None:
        """Build the model with random weights.

        Args:
            config: sizes.
            language_head: False leaves out the head of :meth:`mlm_logits`, which question answering has no use for.
        """
        super().__init__()
        self.config = config
        sizes = config.bert_sizes()
        self.embeddings = Embeddings(sizes, config.vocab_size, config.max_positions)
        self.layers = nn.ModuleList(BertLayer(sizes, crosses=index >= config.fusion_layer) for index in range(config.layers))
        if language_head:
            self.mlm_transform = LanguageTransform(sizes)
            self.mlm_bias = nn.Parameter(torch.zeros(config.vocab_size))
        for layer in self._fusion_layers():
            # Video tokens have a width of their own.
            layer.crossattention.self.key = nn.Linear(config.vision_dim, config.dim)
            layer.crossattention.self.value = nn.Linear(config.vision_dim, config.dim)
        self.apply(init_bert_weights)

    def read(self, ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Run all layers on text alone, as BERT itself does: the fusion layers skip their cross-attention.

        Args:
            ids_BL: as in :meth:`encode`.
            mask_BL: as in :meth:`encode`.

        Returns:
            Tokens [B, L, D] after the text layers, as from :meth:`encode`, and after all layers.
        """
        text_BLD = x_BLD = self.encode(ids_BL, mask_BL)
        attend_B11L = mask_BL.bool()[:, None, None, :]
        for layer in self._fusion_layers():
            x_BLD = layer.feed_forward(layer.attention(x_BLD, attend_B11L))
        return text_BLD, x_BLD

    def encode(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Run the text layers.

        Args:
            ids_BL: token ids, int64.
            mask_BL: 1 or True at tokens, 0 at padding.

        Returns:
            Tokens [B, L, D]; position 0 stands for the whole text.
        """
        x_BLD: Tensor = self.embeddings(ids_BL)
        attend_B11L = mask_BL.bool()[:, None, None, :]
        for layer in self._layers()[: self.config.fusion_layer]:
            x_BLD = layer.feed_forward(layer.attention(x_BLD, attend_B11L))
        return x_BLD

    def fuse(self, text_BLD: Tensor, mask_BL: Tensor, vision_RVZ: Tensor, clips_B: Tensor | None = None) -> Tensor:
        """Run the fusion layers.

        Args:
            text_BLD: tokens from :meth:`encode`.
            mask_BL: as in :meth:`encode`.
            vision_RVZ: tokens of R clips.
            clips_B: the clip that each text attends to, int64 in [0, R). Keys and values are projected once per clip, so
                a clip may be shared by many texts at little cost. None: text i attends to clip i.

        Returns:
            Tokens [B, L, D].
        """
        attend_B11L = mask_BL.bool()[:, None, None, :]
        for layer in self._fusion_layers():
            text_BLD = layer.attention(text_BLD, attend_B11L)
            text_BLD = layer.crossattention.cross(text_BLD, vision_RVZ, rows_B=clips_B)
            text_BLD = layer.feed_forward(text_BLD)
        return text_BLD

    def _layers(self) -> list[BertLayer]:
        return cast(list[BertLayer], list(self.layers))

    def _fusion_layers(self) -> list[BertLayer]:
        return self._layers()[self.config.fusion_layer :]

    def mlm_logits(self, tokens_BLD: Tensor) -> Tensor:
        """Return vocabulary logits [B, L, Y] of fused tokens; the output matrix is the word embedding."""
        return F.linear(self.mlm_transform(tokens_BLD), self.embeddings.word_embeddings.weight, self.mlm_bias)


def load_pretrained_bert(model: TextModel, source: str) -> LoadReport:
    """Load a published BERT into ``model``, with its masked-language head if it has one.

    Args:
        model: its cross-attention weights stay as they are, and those of its masked-language head if the checkpoint has none;
            the report's ``missing`` lists them.
        source: folder or hub name that transformers can read.

    Raises:
        CheckpointError: it is no BERT, sizes differ from the configuration, or any other key is missing, left over or
            mis-shaped.
    """
    try:
        bert, info = _read_bert(source)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"text.pretrained: {source!r} cannot be read as a BERT checkpoint: {error}") from error
    state, missing = bert.state_dict(), info["missing_keys"]
    head = {key for key in state if key.startswith(_HEAD_PREFIX)}
    # A head of which a part is there is damaged, not missing. The tied copies come from the rest in any case.
    has_no_head = head - missing <= _TIED_COPIES.keys()
    if absent := sorted(missing - head if has_no_head else missing):
        raise CheckpointError(f"text.pretrained: {source!r} lacks {len(absent)} BERT keys: {', '.join(absent)}")
    if has_no_head and not model.config.new_language_head:
        raise CheckpointError(
            f"text.pretrained: {source!r} has no masked-language head, as most published text encoders. Set "
            "text.new_language_head: true to start with a new one"
        )
    _check_sizes(model.config, bert.config, source)
    # The head that transformers drew in its place is left out: the model has one of its own.
    found = {key: tensor for key, tensor in state.items() if not (has_no_head and key in head)}
    new = ("layers.*.crossattention.*", *(("mlm_*",) if has_no_head else ()))
    return load_weights(model, from_bert_names(found), source=source, allow_missing=new)


def check_pretrained_bert(config: TextConfig) -> None:
    """Refuse a ``config.pretrained`` that a model of these sizes could not start from, before anything else is paid for.

    Raises:
        CheckpointError: see :func:`load_pretrained_bert`.
    """
    if config.pretrained is not None:
        load_pretrained_bert(TextModel(config), config.pretrained)


def bert_identity(source: str) -> str:
    """Return what tells this content of a BERT checkpoint from another one under the same name.

    Args:
        source: folder, whose weight files are hashed, or hub name, whose commit is read.

    Raises:
        CheckpointError: nothing readable there.
    """
    folder = Path(source)
    if folder.is_dir():
        files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
        return ", ".join(f"{path.name} {sha256_file(path)}" for path in files)
    from transformers import BertConfig

    try:
        config = BertConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"text.pretrained: {source!r} cannot be read as a BERT checkpoint: {error}") from error
    return f"{source}@{getattr(config, '_commit_hash', None)}"


def _read_bert(source: str) -> Any:
    from transformers import BertConfig, BertForMaskedLM

    # RoBERTa's encoder has BERT's names but counts positions otherwise.
    kind = BertConfig.get_config_dict(source)[0].get("model_type", "bert")
    if kind != "bert":
        raise ValueError(f"expected a model of type 'bert', found {kind!r}")
    return BertForMaskedLM.from_pretrained(source, output_loading_info=True)


def from_bert_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a BERT state dict (transformers' ``bert.*`` and ``cls.predictions.*``) to :class:`TextModel`'s names.

    What the model does not store is dropped if it is a copy: position and type ids, and the output matrix and bias that
    are tied to the word embedding and to ``cls.predictions.bias``. Unknown names are kept: a strict load reports them.

    Raises:
        CheckpointError: a tied copy differs from its original.
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = key.removeprefix("bert.")
        if name in ("embeddings.position_ids", "embeddings.token_type_ids"):
            continue
        if name in _TIED_COPIES:
            original = next((state[k] for k in _TIED_COPIES[name] if k in state), None)
            if original is None or not torch.equal(original, tensor):
                raise CheckpointError(f"{key} is not a copy of {_TIED_COPIES[name][0]}: this model ties them")
            continue
        name = name.replace("encoder.layer.", "layers.", 1)
        name = name.replace("cls.predictions.transform.", "mlm_transform.", 1)
        renamed["mlm_bias" if name == "cls.predictions.bias" else name] = tensor
    return renamed


_HEAD_PREFIX = "cls.predictions."
_TIED_COPIES = {
    "cls.predictions.decoder.weight": ("bert.embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight"),
    "cls.predictions.decoder.bias": ("cls.predictions.bias",),
}


def _check_sizes(config: TextConfig, bert: BertConfig, source: str) -> None:
    pairs = {
        "vocab_size": (config.vocab_size, bert.vocab_size),
        "dim": (config.dim, bert.hidden_size),
        "layers": (config.layers, bert.num_hidden_layers),
        "heads": (config.heads, bert.num_attention_heads),
        "mlp_dim": (config.mlp_dim, bert.intermediate_size),
        "max_positions": (config.max_positions, bert.max_position_embeddings),
        "eps": (config.eps, bert.layer_norm_eps),
        "activation": ("gelu", bert.hidden_act),
    }
    wrong = [f"text.{name} is {a}, checkpoint has {b}" for name, (a, b) in pairs.items() if a != b]
    if wrong:
        raise CheckpointError(f"text.pretrained: {source!r} has other sizes: {'; '.join(wrong)}")


def init_bert_weights(module: nn.Module) -> None:
    """Initialise one module as BERT does, also in new cross-attention."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=INIT_STD * max(1.0, INIT_WIDTH / module.in_features) ** 0.5)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
        if module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])
