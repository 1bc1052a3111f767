"""What a question costs in fine-tuning: multiply-accumulates of the model that answers it.

As in :mod:`umt_pipeline.models.flops`, only matrix products count.

Shapes: V visible tokens per clip, L question tokens, D text width, Y vocabulary size, K answers to a question, A tokens of an
answer.
"""

from __future__ import annotations

from umt_pipeline.models.flops import encoder_macs, transformer_macs
from umt_pipeline.models.flops_stage2 import clip_macs, fusion_macs, pool_macs
from umt_pipeline.tasks.question_answering.model import QuestionAnsweringConfig


def answering_macs(config: QuestionAnsweringConfig, visible: int, length: int, answers: int, answer_length: int) -> int:
    """Return the MACs of one question's way forward in a training step, its clip and all its answers included.

    Args:
        config: sizes.
        visible: V.
        length: L, padding included, as of the answers.
        answers: K, those that weigh nothing included: they are computed too.
        answer_length: A; the last token is guessed, and not read.
    """
    text, steps = config.text, answer_length - 1
    dim, layers = text.dim, config.decoder_layers
    question = transformer_macs(length, dim, text.mlp_dim, text.fusion_layer) + fusion_macs(text, visible, length)
    own = transformer_macs(steps, dim, text.mlp_dim, layers)
    attends = layers * (2 * steps * dim**2 + 2 * steps * length * dim)
    words = steps * dim * (dim + text.vocab_size)
    states = layers * 2 * length * dim**2
    clip = encoder_macs(config.vision, visible) + clip_macs(text, visible)
    if config.fuse_pooled and config.pool == "attention":
        clip += pool_macs(config.vision.dim, visible)
    return clip + question + states + answers * (own + attends + words)
