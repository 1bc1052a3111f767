"""Scores of video-text models on a retrieval set, and their records: what every evaluation of retrieval shares.

Shapes: C clips of a retrieval set, S clips with features, U distinct texts, L text length, D width, E embedding width, G
pairs.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from umt_pipeline.compute.names import Precision
from umt_pipeline.evaluation.encoders import VideoTextEncoder
from umt_pipeline.evaluation.evidence import evidence_rows, joined
from umt_pipeline.evaluation.feature_cache import Features
from umt_pipeline.evaluation.metrics import NoDataError
from umt_pipeline.evaluation.params import SearchParams
from umt_pipeline.evaluation.records import Protocol, Record
from umt_pipeline.evaluation.retrieval import (
    RetrievalSet,
    SystemScores,
    dual_scores,
    dual_softmax,
    query_answers,
    query_ranks,
    rerank,
    retrieval_values,
)
from umt_pipeline.evaluation.workplace import T, Workplace
from umt_pipeline.video.views import ViewConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Searcher:
    """What a protocol says of the model whose scores it is about.

    Attributes:
        view: what it sees of a clip.
        checkpoint_sha256: of its weights file.
        precision: what it runs in.
        text_length: tokens of a text that it reads; None for a teacher, which has its own context length.
    """

    view: ViewConfig
    checkpoint_sha256: str | None
    precision: Precision
    text_length: int | None = None


@dataclass(frozen=True)
class Searched:
    """What one system found in a set: its scores, the record of them, and the ranks that the record's values are made of."""

    system: SystemScores
    record: Record
    evidence: pd.DataFrame


def search(params: SearchParams, seed: int, data: RetrievalSet, workplace: Workplace[T], features: Features) -> list[Searched]:
    """Search one set with each model of video and text; return what they found, in the order of the models.

    Args:
        params: how to score.
        seed: kept in the records.
        data: the set.
        workplace: its models made ``features`` with ``keep_tokens``.
        features: of the set's clips, and maybe of others.

    Raises:
        NoDataError: no clip of the set has features.
        EvaluationError: scores that are not finite, or ``text_length`` is more than a model can read.
    """
    found = []
    for model in workplace.models.video_text:
        length = model.text_length(params.text_length)
        searcher = Searcher(model.view, workplace.models.weights[model.name], model.precision, length)
        for system in video_text_scores(params, model, data, features, workplace):
            found.append(searched(params, seed, data, system, searcher, features.failures))
    return found


def clips_with_features(data: RetrievalSet, features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of a set's clips that have features, and their rows there.

    Raises:
        NoDataError: none has.
    """
    clips, rows = features.select(data.video_ids)
    if len(rows) == 0:
        raise NoDataError(f"retrieval set {data.name!r}: none of its {len(data.video_ids)} clips could be read")
    return clips, rows


def video_text_scores(
    params: SearchParams, model: VideoTextEncoder, data: RetrievalSet, features: Features, workplace: Workplace[T]
) -> list[SystemScores]:
    """Return the dual encoder's scores of a set, the same by dual softmax, and re-ranked by the matching head.

    Args:
        params: how to score.
        model: one of ``workplace``. It made ``features`` with ``keep_tokens``.
        data: the set.
        features: of its clips, and maybe of others.
        workplace: its processes share the re-ranking.

    Raises:
        NoDataError: no clip of the set has features.
        EvaluationError: the matching head gave NaN, or ``text_length`` is more than the model can read.
    """
    clip_S, rows = clips_with_features(data, features)
    clips = len(data.video_ids)
    row_C = np.full(clips, -1)
    row_C[clip_S] = rows
    text_ULD, mask_UL, text_UE = model.encode_text(data.texts, params.text_length)
    video_SE = features.arrays[f"{model.name}/embedding"][rows].numpy()
    dual = dual_scores(model.name, text_UE.cpu().numpy(), video_SE, clip_S, clips)
    scorer = workplace.pair_scorer(model.name, text_ULD, mask_UL, features.arrays[f"{model.name}/tokens"])
    del text_ULD, mask_UL
    with scorer as score:
        reranked = rerank(dual, lambda text_G, clip_G: score(text_G, row_C[clip_G]), params.rerank_k)
    cost = reranked.cost
    assert cost is not None
    logger.info(
        "re-ranking %s by %s: %d pairs in %.1f s, %.0f pairs/s",
        data.name, model.name, cost.pairs, cost.seconds, cost.pairs_per_second,
    )  # fmt: skip
    return [dual, dual_softmax(dual, params.dsl_temperature or model.temperature), reranked]


def search_costs(found: Iterable[Searched]) -> dict[str, dict[str, float]]:
    """Return what re-ranking took, by the task of its record: ``pairs`` and ``seconds``."""
    return {one.record.task: asdict(one.system.cost) for one in found if one.system.cost is not None}


def searched(
    params: SearchParams, seed: int, data: RetrievalSet, system: SystemScores, searcher: Searcher, failures: Collection[str]
) -> Searched:
    """Return the recalls and ranks of one system on one set, in both directions, and how they were measured.

    Raises:
        EvaluationError: a score is NaN or +inf.
    """
    settings: dict[str, float | int | str | None] = {"distinct_texts": len(data.texts)}
    if searcher.text_length is not None:
        settings["text_length"] = searcher.text_length
    if system.score == "dsl":
        settings["dsl_temperature"] = params.dsl_temperature or "the model's own"
    protocol = Protocol(
        split=data.name,
        annotation_sha256=data.annotation_sha256,
        clips=len(data.video_ids),
        queries=len(data.query_text_Q),
        failures=tuple(video_id for video_id in data.video_ids if video_id in failures),
        frames=searcher.view.frames,
        resolution=searcher.view.size,
        pool=params.pool,
        k=system.k,
        score_type=system.score,
        other_queries=system.score == "dsl",
        caption=params.caption,
        precision=searcher.precision,
        settings=settings,
        chosen={} if system.temperature is None else {"dsl_temperature": system.temperature},
        model=system.model,
        checkpoint_sha256=searcher.checkpoint_sha256,
        seed=seed,
    )
    task, ranks = f"retrieval/{data.name}/{system.key}", query_ranks(data, system)
    record = Record(task=task, values=retrieval_values(ranks), protocol=protocol)
    return Searched(system, record, _evidence(task, data, ranks, query_answers(data, system)))


def _evidence(
    task: str, data: RetrievalSet, ranks: tuple[np.ndarray, np.ndarray], answers: tuple[np.ndarray, np.ndarray]
) -> pd.DataFrame:
    # One more, which -1 stands for: nothing was found.
    clips, texts = (np.array([*names, None], dtype=object) for names in (data.video_ids, data.texts))
    own_Q = clips[data.query_clip_Q]
    described = np.flatnonzero(data.truth_UC.any(axis=0))
    truth_CU = data.truth_UC.T[described]
    only = np.where(truth_CU.sum(axis=1) == 1, truth_CU.argmax(axis=1), -1)
    return joined(
        [
            evidence_rows(task, "t2v_rank", data.query_ids, own_Q, ranks[0], clips[answers[0]], own_Q),
            evidence_rows(task, "v2t_rank", clips[described], clips[described], ranks[1], texts[answers[1]], texts[only]),
        ]
    )
