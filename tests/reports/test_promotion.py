"""The page of a promotion."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.reports.pages import EVIL, Html, checked, history, record, rows_below, text_of
from umt_pipeline.evaluation.gate import GateParams, MetricVerdict, Outcome, Verdict
from umt_pipeline.evaluation.spread import Ranged
from umt_pipeline.reports.figures import Span, spans_panel
from umt_pipeline.reports.promotion.compared import Contender, Promotion
from umt_pipeline.reports.promotion.page import promotion_page, signed, verdict_sentence
from umt_pipeline.reports.tables import NBSP

T2V, V2T = "retrieval/test/stage2/dual/t2v_r1", "retrieval/test/stage2/dual/v2t_r1"
PARAMS = GateParams(metrics={T2V: 1.0}, guards={V2T: 2.0})


def metric(name: str, verdict: Outcome, low: float, high: float, guard: bool = False) -> MetricVerdict:
    middle = (low + high) / 2
    return MetricVerdict(
        name=name, verdict=verdict, champion=50.0, challenger=50.0 + middle, difference=middle, low=low, high=high,
        margin=None if guard else 1.0, tolerance=2.0 if guard else None, clips=144, different=20, reason="as it is",
    )  # fmt: skip


def judged(outcome: Outcome = "cannot_be_told", low: float = -1.5, high: float = 4.5) -> Verdict:
    return Verdict(
        verdict=outcome,
        reason="It cannot be told: the interval reaches to both sides of the margin.",
        metrics=(metric(T2V, outcome, low, high), metric(V2T, "promoted", -0.5, 0.5, guard=True)),
        champions=1,
        challengers=3,
        confidence=0.95,
        resamples=10_000,
    )


def contender(version: int, rows: pd.DataFrame, missing: str = "") -> Contender:
    return Contender(
        title=f"demo_stage2 version {version}",
        facts={"registered as": f"demo_stage2 version {version}", "DVC md5": "0123456789abcdef" * 2, "said": EVIL},
        numbers={T2V: Ranged(50.0, 46.0, 54.0), V2T: Ranged(49.0, 45.0, 53.0)},
        records=[record("retrieval/test/stage2/dual", t2v_r1=50.0)],
        history=rows,
        no_history=missing,
    )


def test_the_page_says_who_was_compared_and_what_came_of_it() -> None:
    earlier = {"run 0a1b2c3d": history(7, other=1.0), "run 9": history(0)}
    found = Promotion(
        "stage2", judged(), PARAMS, contender(4, history(5)), contender(3, history(5)), ["frames is 8 (x)"], "Again.", earlier
    )
    html = checked(promotion_page(found))
    text = text_of(html)
    assert "It cannot be told whether demo_stage2 version 4 is better than demo_stage2 version 3." in text
    assert "the interval reaches to both sides of the margin" in text
    rows = rows_below(html.replace(NBSP, " "), "What the gate looked at, in percent")
    assert [row[:6] for row in rows] == [
        [T2V, "50.0", "51.5", "+1.5", "-1.5 to +4.5", "above +1.0"],
        [f"{V2T} (guard)", "50.0", "50.0", "0.0", "-0.5 to +0.5", "not below -2.0"],
    ]
    tiles = [tag for _, tag in Html(html).tags if tag.get("class") == "tile"]
    assert len(tiles) == 2
    assert "champion 50.0 %, between 46.0 and 54.0" in text
    assert f"{T2V}: +1.50, from -1.50 to +4.50, margin or tolerance +1.00" in html
    assert '<li class="behind">run 0a1b2c3d</li>' in html
    assert "frames is 8 (x)" in text
    assert "challenger: retrieval/test/stage2/dual" in text
    assert "champion: retrieval/test/stage2/dual" in text


def test_a_first_model_has_a_page_without_a_comparison() -> None:
    nothing = Verdict(
        verdict="promoted", reason="it is the first", metrics=(), champions=0, challengers=0, confidence=0.95, resamples=1000
    )
    found = Promotion("stage2", nothing, PARAMS, contender(1, history(0), "git cannot show it"))
    text = text_of(checked(promotion_page(found)))
    assert "demo_stage2 version 1 is promoted: it is the first" in text
    assert "There was nothing to compare." in text
    assert "Challenger: no curves, git cannot show it." in text


@pytest.mark.parametrize("outcome", ["promoted", "refused", "cannot_be_told"])
def test_each_verdict_has_a_sentence(outcome: Outcome) -> None:
    found = Promotion("stage2", judged(outcome), PARAMS, contender(4, history(2)), contender(3, history(2)))
    sentence = verdict_sentence(found)
    assert "version 4" in sentence
    assert "version 3" in sentence
    assert sentence.endswith(".")
    assert "Both were measured in the same way" in text_of(checked(promotion_page(found)))


def test_signs() -> None:
    assert [signed(value) for value in (1.25, -0.04, 0.0, -3.0)] == ["+1.2", "0.0", "0.0", "-3.0"]


def test_spans_take_the_theme_and_say_what_they_show() -> None:
    panel = spans_panel("k", "Differences", [Span("a <b>", -1.0, 0.5, 2.0, 0.0)], "margin")
    assert panel.wide
    assert "a &#60;b&#62;: +0.50, from -1.00 to +2.00, margin +0.00" in panel.svg
    assert "var(--series-1)" in panel.svg
