"""Scores of video-text models on a retrieval set, and their records: what every evaluation of retrieval shares.

Shapes: C clips of a retrieval set, S clips with features, U distinct texts, L text length, D width, E embedding width, G
pairs.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from umt_pipeline.compute.names import Precision
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.evaluation.encoders import VideoTextEncoder
from umt_pipeline.evaluation.evidence import evidence_rows, joined
from umt_pipeline.evaluation.feature_cache import Features
from umt_pipeline.evaluation.metrics import NoDataError
from umt_pipeline.evaluation.params import SearchParams
from umt_pipeline.evaluation.records import Protocol, Record, rows_sha256
from umt_pipeline.evaluation.reranking import Matched, choose_weight, match_best, reranked
from umt_pipeline.evaluation.retrieval import (
    RetrievalSet,
    SystemScores,
    WeightedSum,
    build_retrieval_set,
    dual_scores,
    dual_softmax,
    query_answers,
    query_ranks,
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


# What orders the re-ranked candidates of each model, by its name; None: its matching head alone.
Orders = Mapping[str, WeightedSum | None]


def validation_set(params: SearchParams, block: str, video_ids: Sequence[str], captions: pd.DataFrame) -> RetrievalSet | None:
    """Return the set that the weight of re-ranking is chosen on; None: it is not chosen.

    Args:
        params: how to score.
        block: name of these parameters, for messages.
        video_ids: the clips of ``validation_split``.
        captions: table of caption_id, video_id, caption.

    Raises:
        ConfigError: a weight is to be chosen, and no clip there has a caption.
    """
    if params.rerank_weight != "validation":
        return None
    try:
        return build_retrieval_set(params.validation_split, video_ids, captions, params.caption)
    except NoDataError as error:
        raise ConfigError(_no_choice(block, error)) from error


def rerank_orders(
    params: SearchParams, block: str, workplace: Workplace[T], validation: tuple[RetrievalSet, Features] | None
) -> Orders:
    """Return what orders the re-ranked candidates of each model of video and text; choose the weights if so asked.

    Args:
        params: how to score.
        block: name of these parameters, for messages.
        workplace: its models made the features with ``keep_tokens``.
        validation: the set of :func:`validation_set`, and features of its clips; None if there is none.

    Raises:
        ConfigError: a weight is to be chosen, and no clip of the set has features.
        EvaluationError: the matching head gave NaN, or ``text_length`` is more than a model can read.
    """
    orders: dict[str, WeightedSum | None] = {}
    for model in workplace.models.video_text:
        if validation is None:
            weight = params.rerank_weight
            orders[model.name] = None if isinstance(weight, str) else WeightedSum(weight, model.temperature)
            continue
        data, features = validation
        try:
            chosen = choose_weight(data, _match(params, model, data, features, workplace), model.temperature)
        except NoDataError as error:
            raise ConfigError(_no_choice(block, error)) from error
        assert chosen.choice is not None
        logger.info(
            "re-ranking by %s: weight %.1f, R@1 %.1f on %s", model.name, chosen.weight, chosen.choice.r1, data.name
        )
        orders[model.name] = chosen
    return orders


def _no_choice(block: str, error: NoDataError) -> str:
    return (
        f"`{block}.rerank_weight` is `validation`, but {error}. Name a split with captions as `{block}.validation_split`, give "
        "a weight from 0 to 1, or take the published rule, `match`"
    )


def search(
    params: SearchParams, seed: int, data: RetrievalSet, workplace: Workplace[T], features: Features, orders: Orders
) -> list[Searched]:
    """Search one set with each model of video and text; return what they found, in the order of the models.

    Args:
        params: how to score.
        seed: kept in the records.
        data: the set.
        workplace: its models made ``features`` with ``keep_tokens``.
        features: of the set's clips, and maybe of others.
        orders: of :func:`rerank_orders`.

    Raises:
        NoDataError: no clip of the set has features.
        EvaluationError: scores that are not finite, or ``text_length`` is more than a model can read.
    """
    found = []
    for model in workplace.models.video_text:
        length = model.text_length(params.text_length)
        searcher = Searcher(model.view, workplace.models.weights[model.name], model.precision, length)
        matched = _match(params, model, data, features, workplace)
        dsl = dual_softmax(matched.dual, params.dsl_temperature or model.temperature)
        for system in (matched.dual, dsl, reranked(matched, orders[model.name])):
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


def _match(
    params: SearchParams, model: VideoTextEncoder, data: RetrievalSet, features: Features, workplace: Workplace[T]
) -> Matched:
    """Return the dual encoder's scores of a set, and what the matching head says of the best candidates.

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
        matched = match_best(
            dual,
            lambda text_G, clip_G: score(text_G, row_C[clip_G]),
            params.rerank_k,
            log_odds=params.rerank_weight != "match",
        )
    cost = matched.cost
    logger.info(
        "re-ranking %s by %s: %d pairs in %.1f s, %.0f pairs/s",
        data.name, model.name, cost.pairs, cost.seconds, cost.pairs_per_second,
    )  # fmt: skip
    return matched


def search_costs(found: Iterable[Searched]) -> dict[str, dict[str, float]]:
    """Return what re-ranking took, by the task of its record: ``pairs`` and ``seconds``."""
    return {one.record.task: asdict(one.system.cost) for one in found if one.system.cost is not None}


def choice_costs(params: SearchParams, orders: Orders) -> dict[str, dict[str, float]]:
    """Return what choosing the weights took, by what would be the task of a record of it; see :func:`search_costs`."""
    return {
        f"retrieval/{params.validation_split}/{model}/reranked": asdict(order.choice.cost)
        for model, order in orders.items()
        if order is not None and order.choice is not None
    }


def searched(
    params: SearchParams, seed: int, data: RetrievalSet, system: SystemScores, searcher: Searcher, failures: Collection[str]
) -> Searched:
    """Return the recalls and ranks of one system on one set, in both directions, and how they were measured.

    Raises:
        EvaluationError: a score is NaN or +inf.
    """
    settings: dict[str, Any] = {"distinct_texts": len(data.texts)}
    chosen: dict[str, Any] = {}
    annotations = data.annotation_sha256
    if searcher.text_length is not None:
        settings["text_length"] = searcher.text_length
    if system.score == "dsl":
        settings["dsl_temperature"] = params.dsl_temperature or "the model's own"
        chosen["dsl_temperature"] = system.temperature
    if system.score == "reranked":
        settings["rerank_weight"] = params.rerank_weight
    if (mixed := system.mixed) is not None:
        chosen |= {"rerank_weight": mixed.weight, "rerank_temperature": mixed.temperature}
        if mixed.choice is not None:
            settings |= {"validation_split": params.validation_split, "validation_queries": mixed.choice.queries}
            chosen["validation_r1"] = mixed.choice.r1
            annotations = rows_sha256([{"reported": annotations}, {"chosen": mixed.choice.annotation_sha256}])
    protocol = Protocol(
        split=data.name,
        annotation_sha256=annotations,
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
        chosen=chosen,
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
