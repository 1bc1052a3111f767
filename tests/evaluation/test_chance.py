from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from umt_pipeline.evaluation.chance import chance_agreement, majority_share, random_retrieval
from umt_pipeline.evaluation.retrieval import SystemScores, build_retrieval_set, query_ranks, retrieval_values


def test_chance_levels_follow_from_the_tables() -> None:
    videos = pd.DataFrame({"video_id": list("abcd"), "split": ["test"] * 4})
    captions = pd.DataFrame({"caption_id": range(4), "video_id": list("abcd"), "caption": ["p", "q", "r", "s"]})
    labels = pd.DataFrame(
        {"video_id": list("abcd") * 2, "task": ["shape"] * 4 + ["motion"] * 4, "label": ["o", "o", "x", "x", *"lrlr"]}
    )
    chance = random_retrieval(videos, captions, "test", "first")
    assert chance["t2v_r1"] == pytest.approx(25)
    assert chance["t2v_r5"] == pytest.approx(100)
    assert (chance["v2t_medr"], chance["v2t_meanr"]) == pytest.approx((2, 2.5))
    oracle = random_retrieval(videos, captions, "test", "first", labels, ["shape"])
    assert oracle["t2v_r1"] == pytest.approx(50)
    assert oracle["v2t_r1"] == pytest.approx(50)
    assert random_retrieval(videos, captions, "test", "first", labels, ["weather"]) == {}
    assert random_retrieval(videos, captions, "nowhere", "first") == {}
    assert majority_share(labels, videos, "test") == {"motion": 50.0, "shape": 50.0}
    assert chance_agreement(labels, videos, "test") == {"motion": 50.0, "shape": 50.0}
    assert majority_share(labels.iloc[:0], videos, "test") == {}


def test_chance_equals_the_mean_of_many_random_orders() -> None:
    rng = np.random.default_rng(3)
    ids = [f"v{n}" for n in range(9)]
    videos = pd.DataFrame({"video_id": ids, "split": "test"})
    captions = pd.DataFrame({"caption_id": range(9), "video_id": ids, "caption": list("pppqqrstu")})
    data = build_retrieval_set("test", ids, captions, "first")
    runs = []
    for _ in range(3000):
        scores_UC = rng.random(data.truth_UC.shape)
        runs.append(retrieval_values(query_ranks(data, SystemScores("x", "dual", scores_UC, scores_UC.T))))
    chance = random_retrieval(videos, captions, "test", "first")
    for name in ("t2v_r1", "t2v_r5", "v2t_r1", "v2t_r5"):
        assert chance[name] == pytest.approx(np.mean([run[name] for run in runs]), abs=2)
    assert chance["t2v_meanr"] == pytest.approx(np.mean([run["t2v_meanr"] for run in runs]), abs=0.1)
