"""The gate: verdicts by hand, what intervals promise, and that luck is not promoted."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from umt_pipeline.evaluation.evidence import CORRECT, evidence_rows, joined
from umt_pipeline.evaluation.gate import MIN_CLIPS, MIN_DIFFERENT, GateParams, Verdict, judge, judge_seeds
from umt_pipeline.evaluation.metrics import EvaluationError

NAME = "retrieval/test/stage2/dual/t2v_r1"
PARAMS = GateParams(metrics={NAME: 0.0})
QUICK = PARAMS.model_copy(update={"resamples": 1_000})


def table(hits_I: np.ndarray, per_clip: int = 1) -> pd.DataFrame:
    """Evidence of text-to-video queries, ``per_clip`` about each clip: a hit ranks first, a miss second."""
    videos = [f"clip {number // per_clip}" for number in range(len(hits_I))]
    return evidence_rows("retrieval/test/stage2/dual", "t2v_rank", np.arange(len(hits_I)), videos, 2 - hits_I.astype(int))


def model(clips: int, skill: float, seed: int, per_clip: int = 1, noise: float = 0.5) -> pd.DataFrame:
    """Evidence of a model: clips are hard or easy for all models alike, and each has noise of its own."""
    hardness = np.repeat(np.random.default_rng(17).normal(size=clips), per_clip)
    return table(hardness + noise * np.random.default_rng(seed).normal(size=clips * per_clip) < skill, per_clip)


# --- verdicts -------------------------------------------------------------------------------------------------------------
@given(st.integers(MIN_CLIPS, 200), st.integers(1, 3), st.integers(0, 100), st.floats(0, 5))
@settings(max_examples=25, deadline=None)
def test_equal_tables_say_nothing(clips: int, per_clip: int, seed: int, tolerance: float) -> None:
    own = model(clips, 0.3, seed, per_clip)
    params = GateParams(metrics={NAME: 0.0}, guards={NAME.replace("r1", "r5"): tolerance}, resamples=1_000)
    verdict = judge(own, own.sample(frac=1, random_state=seed), params)
    assert verdict.verdict == "cannot_be_told"
    metric, guard = verdict.metrics
    assert (metric.difference, metric.low, metric.high, metric.different) == (0, 0, 0, 0)
    assert guard.verdict == "promoted"
    assert judge_seeds([own] * 3, [own] * 3, params).metrics[0].low == 0


@given(st.integers(40, 300), st.integers(1, 3), st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_a_table_that_is_better_everywhere_is_promoted_and_the_other_way_round_refused(
    clips: int, per_clip: int, seed: int
) -> None:
    worse = model(clips, 0.0, seed, per_clip)
    hits = worse["value"].to_numpy() == 1
    # Nothing is lost, and a third of what was missing is found.
    missed = np.flatnonzero(~hits)
    better = hits.copy()
    better[missed[: max(len(missed) // 3, 2 * MIN_DIFFERENT * per_clip)]] = True
    params = GateParams(metrics={NAME: 0.0}, guards={NAME.replace("r1", "r5"): 1.0}, resamples=1_000)
    verdict = judge(worse, table(better, per_clip), params)
    assert verdict.verdict == "promoted"
    assert 0 < verdict.metrics[0].low <= verdict.metrics[0].difference <= verdict.metrics[0].high
    assert judge(table(better, per_clip), worse, QUICK).verdict == "refused"


def test_the_verdict_says_why_in_words() -> None:
    verdict = judge(model(400, 0.0, 1), model(400, 0.6, 2), PARAMS)
    assert (verdict.verdict, verdict.champions, verdict.challengers, verdict.resamples) == ("promoted", 1, 1, 10_000)
    one = verdict.metrics[0]
    assert (one.clips, one.margin, one.tolerance) == (400, 0.0, None)
    assert one.difference == pytest.approx(one.challenger - one.champion)
    assert verdict.reason.startswith(f"Promoted: {NAME} {one.champion:.1f} -> {one.challenger:.1f} % (")
    assert f"{one.low:+.2f} to {one.high:+.2f}, 400 clips): the interval lies above the margin of 0 points" in verdict.reason
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict
    undecided = judge(model(400, 0.0, 1), model(400, 0.02, 2), PARAMS)
    assert undecided.verdict == "cannot_be_told"
    assert "the interval reaches to both sides of the margin of 0 points" in undecided.reason


def test_a_rise_must_exceed_its_margin() -> None:
    champion, challenger = model(4000, 0.0, 1), model(4000, 0.1, 2)
    rise = judge(champion, challenger, PARAMS).metrics[0]
    assert 0.5 < rise.low < rise.high < 8
    for margin, expected in ((0.5, "promoted"), (rise.difference, "cannot_be_told"), (8.0, "refused")):
        assert judge(champion, challenger, GateParams(metrics={NAME: margin})).verdict == expected


def test_a_guard_that_falls_refuses_and_one_that_may_fall_leaves_it_open() -> None:
    def both(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
        return joined([first, second.assign(task="other", metric="t2v_rank")])

    champion = both(model(1000, 0.0, 1), model(1000, 0.0, 2))
    params = GateParams(metrics={NAME: 0.0}, guards={"other/t2v_r1": 2.0})
    found = {skill: judge(champion, both(model(1000, 0.4, 3), model(1000, skill, 4)), params) for skill in (-0.4, -0.05, 0.2)}
    assert [verdict.verdict for verdict in found.values()] == ["refused", "cannot_be_told", "promoted"]
    assert found[-0.4].reason.startswith("Refused: other/t2v_r1")
    assert "beyond the tolerance of 2 points" in found[-0.4].reason
    assert NAME not in found[-0.4].reason, "what is in order is not the reason"
    assert found[-0.05].metrics[1].tolerance == 2.0


def test_few_clips_say_too_little() -> None:
    clips = MIN_CLIPS - 1
    verdict = judge(table(np.zeros(clips)), table(np.ones(clips)), PARAMS)
    assert verdict.verdict == "cannot_be_told"
    assert f"{clips} clips are too few to tell, at least {MIN_CLIPS} are needed" in verdict.reason
    # Many captions do not make many clips.
    assert judge(table(np.zeros(20 * clips), 20), table(np.ones(20 * clips), 20), QUICK).verdict == "cannot_be_told"
    assert judge(table(np.zeros(MIN_CLIPS)), table(np.ones(MIN_CLIPS)), PARAMS).verdict == "promoted"


def test_few_differences_say_too_little() -> None:
    """Five of five would be promoted by the interval, and are chance in one case of 32."""
    for different, expected in ((MIN_DIFFERENT - 1, "cannot_be_told"), (MIN_DIFFERENT, "promoted")):
        better = np.arange(500) < different
        verdict = judge(table(np.zeros(500)), table(better), PARAMS)
        assert verdict.metrics[0].low > 0
        assert verdict.verdict == expected
        assert judge(table(better), table(np.zeros(500)), PARAMS).verdict == expected.replace("promoted", "refused")


# --- what cannot be judged ------------------------------------------------------------------------------------------------
def test_items_of_one_table_only_are_counted_and_named() -> None:
    champion, challenger = model(60, 0.0, 1), model(60, 0.3, 2)
    with pytest.raises(
        EvaluationError, match=r"found 58 of the champion and 60 of the challenger: 2 only of the challenger \(0, 1\)"
    ):
        judge(champion.iloc[2:], challenger, PARAMS)
    with pytest.raises(EvaluationError, match=r"4 only of the champion \(0, 1, 2, \.\.\.\).*evaluate the champion again"):
        judge(champion, challenger.iloc[4:], PARAMS)
    with pytest.raises(EvaluationError, match="1 only of another champion"):
        judge_seeds([champion.iloc[1:], champion], [challenger], PARAMS)
    with pytest.raises(
        EvaluationError, match="1 items belong to another clip in the evidence of the challenger, the first is '3'"
    ):
        judge(champion, challenger.assign(video=challenger["video"].where(challenger["item"] != "3", "clip 9")), PARAMS)


def test_what_cannot_be_judged_is_named() -> None:
    own = model(60, 0.0, 1)
    for name, message in (
        ("retrieval/test/stage1/dual/t2v_r1", "gate, champion: .*expected a task 'retrieval/test/stage1/dual'.*block `gate`"),
        ("retrieval/test/stage2/dual/map", "found 'map'"),
    ):
        with pytest.raises(EvaluationError, match=message):
            judge(own, own, GateParams(metrics={name: 0.0}))
    with pytest.raises(EvaluationError, match=r"60 items of .* are there twice"):
        judge(joined([own, own]), own, PARAMS)
    strange = evidence_rows("a", CORRECT, range(60), ["v"] * 60, np.full(60, 0.5))
    with pytest.raises(EvaluationError, match=r"expected 0 or 1 for each item of 'a', found 0\.5"):
        judge(strange, strange, GateParams(metrics={"a": 0.0}))
    with pytest.raises(EvaluationError, match="found 1 champions and 0 challengers"):
        judge_seeds([own], [], PARAMS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"metrics": {}}, "at least 1 item"),
        ({"metrics": {NAME: -1.0}}, "margin or tolerance of at least 0 points, found -1"),
        ({"metrics": {NAME: 0.0}, "guards": {NAME: 1.0}}, "is a metric and a guard"),
        ({"metrics": {"retrieval/test/stage2/dual/t2v_medr": 0.0}}, "no share of items"),
        ({"metrics": {"classification/motion/stage2/mean_class": 0.0}}, "no share of items"),
        ({"metrics": {NAME: 0.0}, "resamples": 10}, "1000"),
        ({"metrics": {NAME: 0.0}, "sead": 1}, "sead"),
    ],
)
def test_parameters_that_cannot_work(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GateParams.model_validate(values)


# --- what intervals promise -------------------------------------------------------------------------------------------------
def test_the_same_seed_gives_the_same_interval_whatever_else_is_judged() -> None:
    champion, challenger = model(200, 0.0, 1), model(200, 0.2, 2)
    first = judge(champion, challenger, PARAMS)
    assert judge(champion.iloc[::-1], challenger, PARAMS) == first
    more = judge(champion, challenger, GateParams(metrics={NAME.replace("r1", "r5"): 0.0, NAME: 0.0}))
    assert more.metrics[1] == first.metrics[0]
    other = judge(champion, challenger, PARAMS.model_copy(update={"seed": 1})).metrics[0]
    assert (other.low, other.high) != (first.metrics[0].low, first.metrics[0].high)
    assert other.low == pytest.approx(first.metrics[0].low, abs=1.0)


def test_drawing_kinds_of_clips_is_drawing_clips() -> None:
    """Against a plain bootstrap that draws clip by clip, with several captions of each."""
    champion, challenger = model(80, 0.0, 1, per_clip=3), model(80, 0.3, 2, per_clip=3)
    hits = [(one["value"].to_numpy() == 1).reshape(80, 3) for one in (champion, challenger)]
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 80, size=(10_000, 80))
    difference = 100 * ((hits[1] * 1.0 - hits[0]).sum(axis=1)[drawn].sum(axis=1) / 240)
    low, high = np.quantile(difference, [0.025, 0.975])
    found = judge(champion, challenger, PARAMS).metrics[0]
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.5)


def test_captions_of_one_clip_are_one_observation() -> None:
    """Twenty equal captions a clip tell no more than one: an interval over captions would be a fifth as wide."""
    rng = np.random.default_rng(3)
    one, two = rng.random(100) < 0.5, rng.random(100) < 0.6
    single = judge(table(one), table(two), PARAMS).metrics[0]
    repeated = judge(table(np.repeat(one, 20), 20), table(np.repeat(two, 20), 20), PARAMS).metrics[0]
    assert repeated.high - repeated.low == pytest.approx(single.high - single.low, rel=0.05)
    assert repeated.clips == single.clips == 100


def test_the_interval_holds_what_it_promises() -> None:
    """Of 200 test sets of one kind, about 95 % of the intervals hold the difference of all clips."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        hardness = np.repeat(rng.normal(size=150), 2)
        draws = [table(hardness + 0.7 * rng.normal(size=300) < skill, 2) for skill in (0.0, 0.25)]
        one = judge(draws[0], draws[1], QUICK).metrics[0]
        # P(hardness + noise < skill), a normal of variance 1 + 0.49.
        true = 100 * (_normal(0.25 / np.sqrt(1.49)) - 0.5)
        held += one.low <= true <= one.high
    assert 0.92 <= held / 200 <= 0.98


@pytest.mark.parametrize(("clips", "skill"), [(144, 0.5), (144, 2.2), (1000, 0.0)])
def test_a_lucky_model_is_hardly_ever_promoted(clips: int, skill: float) -> None:
    """Of equally good models about (1 - confidence) / 2 are promoted, also where hardly any clip is missed."""
    found = [judge(model(clips, skill, 2 * run), model(clips, skill, 2 * run + 1), QUICK).verdict for run in range(120)]
    assert found.count("promoted") <= 120 * 0.05
    assert found.count("refused") <= 120 * 0.05


def test_a_lucky_seed_is_promoted_alone_but_not_among_three() -> None:
    """Where seeds matter more than clips a good seed is better, which is no reason to change the way of training."""
    rng = np.random.default_rng(5)
    alone = together = 0
    for run in range(50):
        skills = 0.3 * rng.normal(size=6)
        seeds = [model(400, skill, 6 * run + number) for number, skill in enumerate(skills)]
        alone += judge(seeds[0], seeds[3], QUICK).verdict == "promoted"
        together += judge_seeds(seeds[:3], seeds[3:], QUICK).verdict == "promoted"
    assert alone > 50 * 0.3
    assert together <= 50 * 0.08


def test_several_seeds_that_are_all_better_are_promoted() -> None:
    champions = [model(400, 0.0 + 0.03 * number, number) for number in range(3)]
    challengers = [model(400, 0.5 + 0.03 * number, 10 + number) for number in range(3)]
    verdict = judge_seeds(champions, challengers, PARAMS)
    assert (verdict.verdict, verdict.champions, verdict.challengers) == ("promoted", 3, 3)
    rates = [100 * float((one["value"] == 1).mean()) for one in champions]
    assert verdict.metrics[0].champion == pytest.approx(np.mean(rates))
    assert judge_seeds(challengers[:1], champions, PARAMS).verdict == "refused"


@pytest.mark.slow
def test_it_takes_seconds_and_little_memory() -> None:
    """Of 10^5 captions of 5,000 clips, which are of some hundred kinds."""
    champion, challenger = model(5_000, 0.0, 1, per_clip=20), model(5_000, 0.01, 2, per_clip=20)
    started = time.perf_counter()
    first = judge(champion, challenger, PARAMS)
    assert time.perf_counter() - started < 10
    tracemalloc.start()
    assert judge(champion, challenger, PARAMS) == first
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400e6


# --- parameters -------------------------------------------------------------------------------------------------------------
def test_the_gates_of_the_demo_are_of_numbers_that_it_measures(root: Path) -> None:
    conf = root / "conf" / "base"

    def block(name: str) -> dict:  # type: ignore[type-arg]
        return yaml.safe_load((conf / f"parameters_{name}.yml").read_text())[name]

    evaluation, detection = block("evaluation"), block("detection")
    sets, labels = evaluation["retrieval_sets"], evaluation["tasks"]
    scores = ("dual", "dsl", "reranked")
    tasks = {f"probe/linear/{task}/{name}" for task in labels for name in ("teacher_cls", "teacher_patch", "stage1", "stage2")}
    tasks |= {f"retrieval/{name}/{model}/{score}" for name in sets for model in ("teacher", "stage2") for score in scores}
    tasks |= {f"classification/{task}/{block('classification')['start']}" for task in block("classification")["tasks"]}
    tasks |= {f"retrieval/{name}/fine_tuned/{score}" for name in block("retrieval")["test"]["sets"] for score in scores}
    tasks |= {f"question_answering/{split}/stage2" for split in block("question_answering")["test_splits"]}
    tasks |= {f"detection/{detection['test_split']}/{detection['start']}"}
    gates = block("gate")
    assert set(gates) == {"teacher", "stage1", "stage2", "classification", "retrieval", "question_answering", "detection"}
    for kind, content in gates.items():
        params = GateParams.model_validate(content)
        assert params.model_dump(mode="json") == content, "every key is there to be seen"
        for name in (*params.metrics, *params.guards):
            assert name in tasks or name.rpartition("/")[0] in tasks, f"{kind}: {name}"


def _normal(value: float) -> float:
    from math import erf, sqrt

    return (1 + erf(value / sqrt(2))) / 2
