"""The order of places that the matching head was asked about."""

from __future__ import annotations

from umt_pipeline.serving.search.hits import Place
from umt_pipeline.serving.search.reranking import Match, reordered


def place(window: int, score: float) -> Place:
    return Place(file=0, start_s=0.0, end_s=1.0, score=score, window=window)


def test_cosine_over_temperature_and_log_odds_weigh_the_same() -> None:
    places = [place(0, 0.5), place(1, 0.4), place(2, 0.2)]
    match_of = {0: Match(9.0, -4.0), 1: Match(0.0, 3.0), 2: Match(5.0, 4.0)}
    # 1, 7 and 6: neither the order of the cosines (0, 1, 2) nor that of the head (2, 1, 0), nor that of its logits (0, 2, 1).
    assert [found.window for found in reordered(places, match_of, temperature=0.1)] == [1, 2, 0]
    # The colder, the more the cosine says: 46, 43 and 24.
    assert [found.window for found in reordered(places, match_of, temperature=0.01)] == [0, 1, 2]


def test_what_the_head_does_not_know_stays_behind_in_its_order() -> None:
    places = [place(0, 0.9), place(1, 0.8), place(2, 0.1)]
    assert [found.window for found in reordered(places, {1: "vanished", 2: Match(0.0, -9.0)}, 0.1)] == [2, 0, 1]
