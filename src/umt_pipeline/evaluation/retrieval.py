"""Zero-shot retrieval, text to video and video to text: the set, and the scores of a dual encoder and by dual softmax.

:mod:`umt_pipeline.evaluation.reranking` re-ranks what the dual encoder finds.

Shapes: Q queries, U distinct texts, C clips of the set (failed ones included), S clips with features, E embedding
width, R rows of either direction, B of a block.

A clip without a text is a candidate but no query. A clip without features scores -inf, so that it is found by nobody and
finds nothing itself: its query ranks last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from umt_pipeline.evaluation.metrics import (
    NoDataError,
    best_candidates,
    recall_summary,
    retrieval_ranks,
)
from umt_pipeline.evaluation.params import CaptionRule, ScoreType
from umt_pipeline.evaluation.records import rows_sha256
from umt_pipeline.models.tokenizer import clean_caption

_BLOCK = 512


@dataclass(frozen=True)
class RetrievalSet:
    """The clips and texts of one retrieval set, and which belong together.

    A text that several clips have as one of their captions (equal once cleaned) is true for all of them, and stands
    only once among the candidates of a clip.

    Args:
        name: name of the split.
        video_ids: C clips, sorted.
        texts: U distinct texts.
        query_ids: caption_id of each text-to-video query.
        query_text_Q: index of each text-to-video query into ``texts``.
        query_clip_Q: index of the clip that each query was written for.
        truth_UC: which text describes which clip.
        annotation_sha256: hash of the clips and captions that it was built from.
    """

    name: str
    video_ids: tuple[str, ...]
    texts: tuple[str, ...]
    query_ids: tuple[int, ...]
    query_text_Q: np.ndarray
    query_clip_Q: np.ndarray
    truth_UC: np.ndarray
    annotation_sha256: str


@dataclass(frozen=True)
class Cost:
    """What it took to score pairs of a text and a clip with the matching head, on the machine of the run.

    Attributes:
        pairs: pairs scored, those of both directions together, each once.
        seconds: wall time for them; the clips were encoded before.
    """

    pairs: int
    seconds: float

    @property
    def pairs_per_second(self) -> float:
        """Pairs per second; 0 where no time could be measured."""
        return self.pairs / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Choice:
    """How a number was chosen on a retrieval set that nothing is reported on.

    Attributes:
        queries: texts and clips that asked.
        annotation_sha256: of the set.
        r1: what it was chosen by: R@1 in percent, the mean of both directions.
        cost: of the matching head.
    """

    queries: int
    annotation_sha256: str
    r1: float
    cost: Cost


@dataclass(frozen=True)
class WeightedSum:
    """How re-ranked candidates are ordered: by ``(1 - weight) * cosine / temperature + weight * log-odds of a match``.

    :mod:`umt_pipeline.evaluation.reranking` says why.

    Attributes:
        weight: 0 leaves the dual encoder's order, 1 takes that of the matching head.
        temperature: the one that the model learnt.
        choice: how the weight was chosen; None: it was given.
    """

    weight: float
    temperature: float
    choice: Choice | None = None


@dataclass(frozen=True)
class SystemScores:
    """The scores of one system on one set, in both directions (re-ranking makes them differ).

    Args:
        model: the model's name in metric keys, e.g. ``stage2``.
        score: how the scores were made.
        text_to_video_UC: -inf for a clip without features.
        video_to_text_CU: likewise.
        k: candidates re-ranked per query; None without re-ranking.
        temperature: of the dual softmax; None without it.
        mixed: what re-ranked candidates are ordered by; None: by the matching head alone, or nothing is re-ranked.
        cost: what the matching head had to do; None without re-ranking.
    """

    model: str
    score: ScoreType
    text_to_video_UC: np.ndarray
    video_to_text_CU: np.ndarray
    k: int | None = None
    temperature: float | None = None
    mixed: WeightedSum | None = None
    cost: Cost | None = None

    @property
    def key(self) -> str:
        """Model and score as in metric keys: ``stage2/dual``."""
        return f"{self.model}/{self.score}"


def build_retrieval_set(name: str, video_ids: Sequence[str], captions: pd.DataFrame, rule: CaptionRule) -> RetrievalSet:
    """Collect one set's clips, texts and ground truth.

    Args:
        name: name of the set.
        video_ids: its clips. A clip without a caption is a candidate, but no query.
        captions: table of caption_id, video_id, caption.
        rule: ``first``: the caption of lowest caption_id of each clip is a query; ``all``: every caption is a query.

    Raises:
        NoDataError: the set has no clip, or none with a caption.
    """
    clips = tuple(sorted(video_ids))
    clip_of = {video_id: index for index, video_id in enumerate(clips)}
    own = captions[captions["video_id"].isin(clip_of)].sort_values("caption_id", kind="stable")
    if not clips:
        raise NoDataError(f"retrieval set {name!r}: no clip has this split, so there is no query")
    if own.empty:
        raise NoDataError(f"retrieval set {name!r}: none of its {len(clips)} clips has a caption, so there is no query")
    plain = own["caption"].map(clean_caption)
    queries = own if rule == "all" else own.drop_duplicates("video_id")
    plain_queries = plain.loc[queries.index]
    distinct = plain_queries.drop_duplicates()
    text_of = {text: index for index, text in enumerate(distinct)}
    truth_UC = np.zeros((len(text_of), len(clips)), dtype=bool)
    known = plain.isin(text_of)
    truth_UC[plain[known].map(text_of), own.loc[known, "video_id"].map(clip_of)] = True
    return RetrievalSet(
        name=name,
        video_ids=clips,
        texts=tuple(str(caption) for caption in own.loc[distinct.index, "caption"]),
        query_ids=tuple(int(caption_id) for caption_id in queries["caption_id"]),
        query_text_Q=plain_queries.map(text_of).to_numpy(dtype=np.int64),
        query_clip_Q=queries["video_id"].map(clip_of).to_numpy(dtype=np.int64),
        truth_UC=truth_UC,
        annotation_sha256=rows_sha256(_annotations(clips, own)),
    )


def dual_scores(model: str, text_UE: np.ndarray, video_SE: np.ndarray, clip_S: np.ndarray, clips: int) -> SystemScores:
    """Return the cosine scores of a dual encoder; a clip without features gets -inf.

    Args:
        model: the model's name.
        text_UE: one unit vector per distinct text.
        video_SE: one unit vector per clip with features, or the mean of its frames' unit vectors: the scores are then
            cosines with each frame, averaged over frames.
        clip_S: the clips' indices in the set.
        clips: C.
    """
    scores_UC = np.full((len(text_UE), clips), -np.inf)
    text_UE = text_UE.astype(np.float64)
    for block in row_blocks(len(video_SE)):
        scores_UC[:, clip_S[block]] = text_UE @ video_SE[block].astype(np.float64).T
    return SystemScores(model, "dual", scores_UC, scores_UC.T)


def dual_softmax(dual: SystemScores, temperature: float) -> SystemScores:
    """Return DSL scores: each cosine times the softmax of its candidate's cosines over all queries of the set.

    A candidate that many queries like is thereby worth less to each of them. That takes the whole set of queries at once,
    so these scores say nothing of a search with one query, and belong in no comparison with scores that do. Text to video
    the queries are the distinct texts, video to text all clips with features. Where a cosine is negative the product
    favours the less likely candidate; the published definition has it so, and it concerns the far end of a ranking only.

    Source: the inference of CAMoE (arXiv 2109.04290), without its constant factor.

    Args:
        dual: cosine scores.
        temperature: divisor of the cosines inside the softmax.
    """
    text_to_video_UC = _times_softmax_over_queries(dual.text_to_video_UC, temperature)
    video_to_text_CU = _times_softmax_over_queries(dual.video_to_text_CU, temperature)
    return SystemScores(dual.model, "dsl", text_to_video_UC, video_to_text_CU, temperature=temperature)


def query_ranks(data: RetrievalSet, scores: SystemScores) -> tuple[np.ndarray, np.ndarray]:
    """Return the ranks of the text-to-video queries [Q] and of the video-to-text queries [clips with a text].

    Raises:
        EvaluationError: a score is NaN or +inf; the message names the system.
    """
    truth_QC = data.truth_UC[data.query_text_Q]
    text_to_video_Q = retrieval_ranks(scores.text_to_video_UC[data.query_text_Q], truth_QC, f"{scores.key}, text to video")
    described_C = data.truth_UC.any(axis=0)
    video_to_text = retrieval_ranks(
        scores.video_to_text_CU[described_C], data.truth_UC.T[described_C], f"{scores.key}, video to text"
    )
    return text_to_video_Q, video_to_text


def query_answers(data: RetrievalSet, scores: SystemScores) -> tuple[np.ndarray, np.ndarray]:
    """Return what the queries of :func:`query_ranks` find first: the clips' indices [Q], and the texts' [clips with a text].

    See :func:`umt_pipeline.evaluation.metrics.best_candidates`.
    """
    described = np.flatnonzero(data.truth_UC.any(axis=0))
    clips = [
        best_candidates(scores.text_to_video_UC[text_B], data.truth_UC[text_B])
        for text_B in (data.query_text_Q[rows] for rows in row_blocks(len(data.query_text_Q)))
    ]
    texts = [
        best_candidates(scores.video_to_text_CU[clip_B], data.truth_UC.T[clip_B])
        for clip_B in (described[rows] for rows in row_blocks(len(described)))
    ]
    return np.concatenate(clips), np.concatenate(texts)


def retrieval_values(ranks: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """Return recalls and ranks of both directions, from :func:`query_ranks`, keyed ``t2v_r1`` … ``v2t_meanr``."""
    text_to_video_Q, video_to_text = ranks
    both = {"t2v": recall_summary(text_to_video_Q), "v2t": recall_summary(video_to_text)}
    return {f"{direction}_{name}": value for direction, part in both.items() for name, value in part.items()}


def _annotations(clips: Sequence[str], captions: pd.DataFrame) -> Iterator[dict[str, object]]:
    """Give the rows that a set is made of."""
    for clip in clips:
        yield {"video_id": clip}
    columns = ["caption_id", "video_id", "caption"]
    for row in captions[columns].itertuples(index=False, name=None):
        yield dict(zip(columns, row, strict=True))


def _times_softmax_over_queries(scores_RC: np.ndarray, temperature: float) -> np.ndarray:
    """Multiply each column by its softmax over the rows; -inf stays -inf and takes no share."""
    there_RC = scores_RC != -np.inf
    finite_RC = np.where(there_RC, scores_RC, 0.0)
    # Relative to the column's best, so that nothing overflows; a column without features has no best.
    best_1C = scores_RC.max(axis=0, keepdims=True, initial=-np.inf)
    shifted_RC = finite_RC - np.where(best_1C == -np.inf, 0.0, best_1C)
    weight_RC = np.exp(shifted_RC / temperature, out=np.zeros_like(shifted_RC), where=there_RC)
    sum_1C = weight_RC.sum(axis=0, keepdims=True)
    share_RC = weight_RC / np.where(sum_1C == 0.0, 1.0, sum_1C)
    return np.where(there_RC, finite_RC * share_RC, -np.inf)


def row_blocks(rows: int) -> list[slice]:
    """Cut rows into blocks, whose intermediate results are small beside the matrix."""
    return [slice(start, start + _BLOCK) for start in range(0, rows, _BLOCK)]
