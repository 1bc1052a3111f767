"""Published checkpoint files: renaming of their keys to and from ours.

Renaming never drops a weight silently. A key without a counterpart keeps its name, so that the strict load that
follows reports it; a tensor that we do not store because it is a copy, or because it can be computed, is left out only
after comparing it with its original.

Key names of the published files: the reference's ``single_modality`` (stage 1, classifiers) and ``multi_modality``
(stage 2) parts. Blocks may also hold one fused ``attn.qkv.bias``, as timm's do, in place of ``q_bias`` and ``v_bias``.

Shapes: D width, ps side of a patch in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.models.containers import State
from umt_pipeline.models.text import from_bert_names

# (theirs, ours) beginnings of stage-2 keys outside the vision encoder and the text encoder.
_STAGE2_NAMES = (
    ("vision_encoder.pool_norm.", "pool_norm."),
    ("vision_proj.", "vision_proj."),
    ("text_proj.", "text_proj."),
    ("itm_head.", "match_head."),
    ("temp", "temp"),
)
_PATCH_WEIGHT = "patch_embed.weight"
_FUSED_BIAS = ".attn.qkv.bias"
_ENCODER_PARTS = ("patch_embed.", "blocks.", "pos_embed")
POSITION_TABLE = "pos_embed"


def strip_prefix(state: Mapping[str, Tensor], prefixes: Sequence[str] = ("module.", "backbone.", "encoder.")) -> State:
    """Remove each of ``prefixes`` in turn where it begins a key.

    Raises:
        CheckpointError: two keys become one.
    """
    stripped: State = {}
    for key, tensor in state.items():
        name = key
        for prefix in prefixes:
            name = name.removeprefix(prefix)
        if name in stripped:
            raise CheckpointError(f"key {key} becomes {name} without its prefix, but another key has that name already")
        stripped[name] = tensor
    return stripped


def encoder_from_published(state: Mapping[str, Tensor]) -> State:
    """Rename a bare vision encoder (``patch_embed.proj.*``, ``blocks.*``, ``norm.*``) to :class:`VideoViT`'s names.

    The patch convolution's weight [D, 3, 1, ps, ps] or [D, 3, ps, ps] becomes a matrix [D, 3 * ps * ps], input order
    (c, h, w). A fused ``attn.qkv.bias`` becomes ``q_bias`` and ``v_bias``.

    Raises:
        CheckpointError: the patch convolution has a temporal kernel other than 1 or is no convolution on RGB, or a fused
            bias has a part for keys, which this model does not have, other than zero.
    """
    renamed: State = {}
    for key, tensor in state.items():
        name = _swap(key, "patch_embed.proj.", "patch_embed.")
        if name == _PATCH_WEIGHT:
            renamed[name] = _flat_kernel(tensor)
        elif name.endswith(_FUSED_BIAS):
            renamed |= _split_fused_bias(key, tensor, state)
        else:
            renamed[name] = tensor
    return renamed


def encoder_to_published(state: Mapping[str, Tensor], patch_size: int) -> State:
    """Rename :class:`VideoViT`'s weights to the published names; the inverse of :func:`encoder_from_published`."""
    renamed = {_swap(key, "patch_embed.", "patch_embed.proj."): tensor for key, tensor in state.items()}
    weight = renamed["patch_embed.proj.weight"]
    renamed["patch_embed.proj.weight"] = weight.reshape(weight.shape[0], 3, 1, patch_size, patch_size)
    return renamed


def fuse_biases(state: Mapping[str, Tensor]) -> State:
    """Join ``q_bias`` and ``v_bias`` of published names to timm's ``qkv.bias``, with zeros for the keys between them."""
    fused = dict(state)
    for key in [key for key in state if key.endswith(".attn.q_bias")]:
        block = key.removesuffix(".attn.q_bias")
        q, v = fused.pop(key), fused.pop(f"{block}.attn.v_bias")
        fused[f"{block}{_FUSED_BIAS}"] = torch.cat((q, torch.zeros_like(q), v))
    return fused


def any_encoder_from_published(state: Mapping[str, Tensor]) -> State:
    """Take the vision encoder out of a stage-1 file, a stage-2 file or a bare encoder, under :class:`VideoViT`'s names.

    Whatever else a stage-1 or stage-2 file holds keeps its name behind ``other:``.
    """
    state = strip_prefix(state, ("module.", "backbone."))
    for prefix in ("vision_encoder.encoder.", "encoder."):
        if any(key.startswith(prefix) for key in state):
            state = {_swap(k, prefix, "") if k.startswith(prefix) else f"other:{k}": t for k, t in state.items()}
            break
    return encoder_from_published(state)


def student_from_published(state: Mapping[str, Tensor]) -> State:
    """Rename a stage-1 file (``encoder.*``, ``clip_decoder.{k}.{head,norm}.*``) to :class:`Student`'s names."""
    state = strip_prefix(state, ("module.", "backbone."))
    encoder = {key.removeprefix("encoder."): tensor for key, tensor in state.items() if key.startswith("encoder.")}
    renamed = {f"encoder.{key}": tensor for key, tensor in encoder_from_published(encoder).items()}
    for key, tensor in state.items():
        if not key.startswith("encoder."):
            renamed[_swap_head(key, published=False)] = tensor
    return renamed


def student_to_published(state: Mapping[str, Tensor], patch_size: int) -> State:
    """Rename :class:`Student`'s weights to the published names; the inverse of :func:`student_from_published`."""
    encoder = {key.removeprefix("encoder."): tensor for key, tensor in state.items() if key.startswith("encoder.")}
    renamed = {f"encoder.{key}": tensor for key, tensor in encoder_to_published(encoder, patch_size).items()}
    for key, tensor in state.items():
        if not key.startswith("encoder."):
            renamed[_swap_head(key, published=True)] = tensor
    return renamed


def classifier_from_published(state: Mapping[str, Tensor]) -> State:
    """Rename a fine-tuned file (``patch_embed.*``, ``blocks.*``, ``fc_norm.*``, ``head.*``) to :class:`Classifier`'s."""
    state = strip_prefix(state)
    encoder = {key: tensor for key, tensor in state.items() if key.startswith(_ENCODER_PARTS)}
    renamed = {f"encoder.{key}": tensor for key, tensor in encoder_from_published(encoder).items()}
    return renamed | {key: tensor for key, tensor in state.items() if key not in encoder}


def classifier_to_published(state: Mapping[str, Tensor], patch_size: int) -> State:
    """Rename :class:`Classifier`'s or :class:`Detector`'s weights to the published names.

    The inverse of :func:`classifier_from_published` and :func:`detector_from_published`.
    """
    encoder = {key.removeprefix("encoder."): tensor for key, tensor in state.items() if key.startswith("encoder.")}
    others = {key: tensor for key, tensor in state.items() if not key.startswith("encoder.")}
    return encoder_to_published(encoder, patch_size) | others


def detector_from_published(state: Mapping[str, Tensor]) -> State:
    """Rename an AVA file (``patch_embed.*``, ``blocks.*``, ``norm.*``, ``head.*``) to :class:`Detector`'s names."""
    state = strip_prefix(state)
    encoder = {key: tensor for key, tensor in state.items() if key.startswith((*_ENCODER_PARTS, "norm."))}
    renamed = {f"encoder.{key}": tensor for key, tensor in encoder_from_published(encoder).items()}
    return renamed | {key: tensor for key, tensor in state.items() if key not in encoder}


def video_text_from_published(state: Mapping[str, Tensor]) -> State:
    """Rename a stage-2 file to :class:`VideoTextModel`'s names.

    Args:
        state: a pre-trained (``text_encoder.bert.*``) or fine-tuned (``text_encoder.*``) file's weights.
    """
    state = strip_prefix(state, ("module.",))
    vision: State = {}
    text: State = {}
    renamed: State = {}
    for key, tensor in state.items():
        if key.startswith("vision_encoder.encoder."):
            vision[key.removeprefix("vision_encoder.encoder.")] = tensor
        elif key.startswith("vision_encoder.clip_decoder."):
            renamed[_swap_head(key.removeprefix("vision_encoder."), published=False)] = tensor
        elif key.startswith("text_encoder."):
            text[key.removeprefix("text_encoder.")] = tensor
        else:
            renamed[_swap_first(key, _STAGE2_NAMES)] = tensor
    renamed |= {f"vision.{key}": tensor for key, tensor in encoder_from_published(vision).items()}
    renamed |= {f"text.{key}": tensor for key, tensor in from_bert_names(text).items()}
    return renamed


def video_text_to_published(state: Mapping[str, Tensor], patch_size: int) -> State:
    """Rename :class:`VideoTextModel`'s weights to the names of a pre-trained stage-2 file (without a teacher).

    The tied copies that such a file holds (masked-language output matrix and bias) are written too. Weights without that head
    get the names of a fine-tuned file, whose text encoder has no ``bert.`` in its names.

    Args:
        state: of a model with ``pool: mean``, without ``fuse_positions`` and ``fuse_pooled``: the published one knows none.
        patch_size: side of a patch in pixels.
    """
    fine_tuned = "text.mlm_bias" not in state
    vision: State = {}
    renamed: State = {}
    ours_to_theirs = tuple((ours, theirs) for theirs, ours in _STAGE2_NAMES)
    for key, tensor in state.items():
        if key.startswith("vision."):
            vision[key.removeprefix("vision.")] = tensor
        elif key.startswith("heads."):
            renamed[f"vision_encoder.{_swap_head(key, published=True)}"] = tensor
        elif key.startswith("text."):
            name = _to_bert_name(key.removeprefix("text."))
            renamed[f"text_encoder.{name.removeprefix('bert.') if fine_tuned else name}"] = tensor
        else:
            renamed[_swap_first(key, ours_to_theirs)] = tensor
    encoder = encoder_to_published(vision, patch_size)
    if not fine_tuned:
        renamed |= _tied_copies(renamed, "text_encoder.")
    return renamed | {f"vision_encoder.encoder.{key}": tensor for key, tensor in encoder.items()}


def question_answering_from_published(state: Mapping[str, Tensor]) -> State:
    """Rename a question-answering file to :class:`QuestionAnsweringModel`'s names.

    Args:
        state: weights of ``vision_encoder.encoder.*``, ``text_encoder.*`` (with ``bert.`` or without) and ``text_decoder.*``.
    """
    state = strip_prefix(state, ("module.",))
    renamed: State = {}
    parts: dict[str, State] = {prefix: {} for prefix in ("vision_encoder.encoder.", "text_encoder.", "text_decoder.")}
    for key, tensor in state.items():
        prefix = next((prefix for prefix in parts if key.startswith(prefix)), None)
        if prefix is None:
            renamed[key] = tensor
        else:
            parts[prefix][key.removeprefix(prefix)] = tensor
    vision, text, decoder = parts.values()
    renamed |= {f"vision.{key}": tensor for key, tensor in encoder_from_published(vision).items()}
    renamed |= {f"text.{key}": tensor for key, tensor in from_bert_names(text).items()}
    return renamed | {f"decoder.{key}": tensor for key, tensor in from_bert_names(decoder).items()}


def question_answering_to_published(state: Mapping[str, Tensor], patch_size: int) -> State:
    """Rename :class:`QuestionAnsweringModel`'s weights to the published names, with the decoder's tied copies.

    Args:
        state: of a model without ``fuse_positions`` and ``fuse_pooled``, which the published model does not know.
        patch_size: side of a patch in pixels.
    """
    vision = {key.removeprefix("vision."): tensor for key, tensor in state.items() if key.startswith("vision.")}
    encoder = encoder_to_published(vision, patch_size)
    renamed = {f"vision_encoder.encoder.{key}": tensor for key, tensor in encoder.items()}
    for key, tensor in state.items():
        if key.startswith("text."):
            # As in every fine-tuned file, the text encoder is a bare BERT, without ``bert.`` in its names.
            renamed[f"text_encoder.{_to_bert_name(key.removeprefix('text.')).removeprefix('bert.')}"] = tensor
        elif key.startswith("decoder."):
            renamed[f"text_decoder.{_to_bert_name(key.removeprefix('decoder.'))}"] = tensor
    return renamed | _tied_copies(renamed, "text_decoder.")


def _tied_copies(renamed: Mapping[str, Tensor], prefix: str) -> State:
    # Clones, because safetensors refuses to write one tensor under two names.
    cls = f"{prefix}cls.predictions."
    return {
        f"{cls}decoder.weight": renamed[f"{prefix}bert.embeddings.word_embeddings.weight"].clone(),
        f"{cls}decoder.bias": renamed[f"{cls}bias"].clone(),
    }


def _flat_kernel(kernel: Tensor) -> Tensor:
    shape = tuple(kernel.shape)
    if kernel.ndim == 5 and shape[2] != 1:
        raise CheckpointError(f"patch_embed.proj.weight is {shape}: tubelets of one frame are needed, found {shape[2]}")
    if kernel.ndim not in (4, 5) or shape[1] != 3 or shape[-1] != shape[-2]:
        raise CheckpointError(f"patch_embed.proj.weight is {shape}: expected [D, 3, 1, ps, ps] or [D, 3, ps, ps]")
    return kernel.flatten(1)


def _split_fused_bias(key: str, bias: Tensor, state: Mapping[str, Tensor]) -> State:
    block = key.removesuffix(_FUSED_BIAS)
    names = [f"{block}.attn.{part}_bias" for part in "qv"]
    if doubled := [name for name in names if name in state]:
        raise CheckpointError(f"{key} and {', '.join(doubled)} are both there: expected one or the other")
    if bias.ndim != 1 or bias.shape[0] % 3:
        raise CheckpointError(f"{key} is {tuple(bias.shape)}: expected three equal parts for queries, keys and values")
    q, k, v = bias.chunk(3)
    if k.any():
        raise CheckpointError(
            f"{key}: its part for keys must be zero, since this model's keys have no bias, but the largest value there is "
            f"{float(k.abs().max()):.6g}"
        )
    return dict(zip(names, (q, v), strict=True))


def _to_bert_name(key: str) -> str:
    if key == "mlm_bias":
        return "cls.predictions.bias"
    if key.startswith("mlm_transform."):
        return f"cls.predictions.transform.{key.removeprefix('mlm_transform.')}"
    return f"bert.{_swap(key, 'layers.', 'encoder.layer.')}"


def _swap(key: str, old: str, new: str) -> str:
    return new + key.removeprefix(old) if key.startswith(old) else key


def _swap_first(key: str, names: Sequence[tuple[str, str]]) -> str:
    return next((_swap(key, old, new) for old, new in names if key.startswith(old)), key)


def _swap_head(key: str, *, published: bool) -> str:
    """Translate an alignment head's key: theirs ``clip_decoder.{k}.head``, ours ``heads.heads.{k}.proj`` (or back)."""
    theirs, ours = ("clip_decoder.", ".head."), ("heads.heads.", ".proj.")
    old, new = (ours, theirs) if published else (theirs, ours)
    return new[0] + key.removeprefix(old[0]).replace(old[1], new[1], 1) if key.startswith(old[0]) else key
