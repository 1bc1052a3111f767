"""What an evaluation measures. Of heavy packages only pydantic is imported here, so reading parameters stays quick."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from umt_pipeline.compute.names import AskedPrecision
from umt_pipeline.core.config import Config

CaptionRule = Literal["first", "all"]
PoolRule = Literal["clip", "frame"]
ScoreType = Literal["dual", "dsl", "reranked"]
RerankRule = Literal["match", "validation"]


class KnnConfig(Config):
    """k-NN on cosine similarity, each neighbour voting with exp(similarity / temperature).

    Args:
        k: numbers of neighbours to choose from. One beyond the number of training clips means all of them.
        temperature: 0.07 is the usual value of such probes (DINO, appendix F.1).
    """

    k: tuple[int, ...] = Field(default=(1, 5, 10, 20), min_length=1)
    temperature: float = Field(default=0.07, gt=0)


class LinearConfig(Config):
    """Multinomial logistic regression on standardised features.

    Args:
        c: inverse regularisation strengths to choose from, in scikit-learn's convention.
        max_iterations: L-BFGS steps per strength; a probe needs no convergence to the last digit.
    """

    c: tuple[float, ...] = Field(default=(0.001, 0.01, 0.1, 1.0), min_length=1)
    max_iterations: int = Field(default=200, ge=1)


class AttentiveConfig(Config):
    """A learned query with cross-attention to all tokens, and a linear classifier, trained with AdamW.

    Args:
        lr: learning rates to choose from, all trained at once.
        heads: attention heads of the query.
        epochs: passes over the training clips.
        batch_size: clips per step.
        weight_decay: AdamW's.
    """

    lr: tuple[float, ...] = Field(default=(0.001, 0.003, 0.01, 0.03), min_length=1)
    heads: int = Field(default=4, ge=1)
    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=64, ge=1)
    weight_decay: float = Field(default=0.05, ge=0)


class WorkParams(Config):
    """How the clips of a test are divided.

    Args:
        batch_size: clips per forward pass.
        nproc: processes that share the clips, one per GPU. On a CPU they share the cores.
        workers: decoding threads of each process; null means as many as there are cores for it.
        precision: what the models run in; records say what ``auto`` took.
    """

    precision: AskedPrecision = "auto"
    batch_size: int = Field(default=32, ge=1)
    nproc: int = Field(default=1, ge=1)
    workers: int | None = Field(default=None, ge=1)


class SearchParams(WorkParams):
    """How retrieval is scored, wherever it is.

    Args:
        caption: which captions of a clip are queries: ``first`` (lowest caption_id) or ``all``.
        pool: what a caption is compared with in retrieval. ``clip``: one embedding of the whole clip, pooled as in training.
            ``frame``: each frame's embedding, cosines averaged over frames, as the published code does in all its
            evaluations. Applies to every system, the teacher included.
        rerank_k: candidates per query that the matching head re-ranks.
        rerank_weight: how these are ordered. ``match``: by the matching head alone, the published rule. A number from 0 (the
            order that they had) to 1 (the head's): by a weighted sum of cosine and head, see
            :mod:`umt_pipeline.evaluation.reranking`. ``validation``: by that sum, each model with the weight that finds most on
            ``validation_split``.
        validation_split: what is chosen is chosen on these clips; nothing is reported on them.
        dsl_temperature: divisor of the cosines in the softmax of the DSL scores (see
            :func:`umt_pipeline.evaluation.retrieval.dual_softmax`); null means each model's own learnt temperature.
        text_length: longest text that a video-text model reads, in tokens, [CLS] and [SEP] included; longer ones are cut. null
            means each model's own, which it was trained with. The published evaluations have 32 for MSRVTT, 64 for DiDeMo
            and MSVD, 150 for ActivityNet, 64 (B) or 96 (L) for LSMDC, whatever the model was trained with. A teacher cuts
            at its own context length.
    """

    caption: CaptionRule = "first"
    pool: PoolRule = "clip"
    rerank_k: int = Field(default=128, ge=1)
    rerank_weight: RerankRule | Annotated[float, Field(ge=0.0, le=1.0)] = "match"
    validation_split: str = "validation"
    dsl_temperature: float | None = Field(default=None, gt=0)
    text_length: int | None = Field(default=None, ge=3)

    def require_unseen_validation(self, others: Collection[str]) -> None:
        """Refuse to choose a weight on a split that is trained on or reported on.

        Args:
            others: these splits.

        Raises:
            ValueError: ``validation_split`` is one of them, and a weight is chosen there.
        """
        if self.rerank_weight == "validation" and self.validation_split in others:
            raise ValueError(
                f"`rerank_weight: validation` chooses on `validation_split`, {self.validation_split!r}, which is trained on or "
                "reported on: name another split, give a number from 0 to 1, or take the published rule, `match`"
            )


class EvaluationParams(SearchParams):
    """The evaluation's parameters. Frames and resolution are those that each model was built for.

    Args:
        train_split: probes are fitted on these clips.
        validation_split: the probes' free numbers are chosen on these clips, and the weight of re-ranking.
        test_split: probes are reported on these clips.
        tasks: label tasks for probes and agreement. A task without labels is skipped, with a note.
        retrieval_sets: splits that are searched. A split without clips or captions is skipped, with a note.
        knn: the k-NN probe.
        linear: the linear probe.
        attentive: the attentive probe; null leaves it out. Needs room on disk for all tokens of the clips that it reads.
        max_train_clips: fit probes on so many training clips (chosen by hash); null means all.
        examples: retrieval queries per set that the report shows, and one that re-ranking makes or loses as a hit; 0: none.
        mask_pictures: clips of the feature store whose masks the report shows.
    """

    train_split: str = "train"
    test_split: str = "test"
    tasks: tuple[str, ...] = ()
    retrieval_sets: tuple[str, ...] = ("test",)
    knn: KnnConfig = KnnConfig()
    linear: LinearConfig = LinearConfig()
    attentive: AttentiveConfig | None = None
    max_train_clips: int | None = Field(default=None, ge=2)
    examples: int = Field(default=6, ge=0)
    mask_pictures: int = Field(default=4, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.require_unseen_validation({self.train_split, *self.retrieval_sets})
        return self
