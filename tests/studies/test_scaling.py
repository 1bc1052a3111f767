"""The model of many devices: its page is what it writes, and its simulation keeps to what can be said by hand."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from studies.scaling import inputs, parts, simulate
from studies.scaling.__main__ import pages
from studies.scaling.document import MODELS, WAYS, way
from studies.scaling.parts import Job
from tests.conftest import ROOT


def test_page_and_figure_are_what_the_script_writes() -> None:
    for name, text in pages().items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text, "run `python -m studies.scaling`"


def test_measured_inputs_name_a_page_that_is_there() -> None:
    measured = {name: one.source for name, one in inputs.INPUTS.items() if one.kind == "measured"}
    assert {"decode_small", "decode_hd", "decode_prepared"} <= set(measured)
    for source in measured.values():
        assert [(ROOT / "docs" / page).is_file() for page in re.findall(r"\w+\.md", source)] == [True]


@pytest.fixture
def smooth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing varies."""
    for name in ("jitter", "hiccup", "spread"):
        monkeypatch.setitem(inputs.INPUTS, name, replace(inputs.INPUTS[name], value=0.0))


@pytest.mark.usefixtures("smooth")
@pytest.mark.parametrize("title", WAYS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("gpus", [1, 8, 64])
def test_without_variation_a_step_takes_its_slowest_part(title: str, name: parts.ModelName, gpus: int) -> None:
    job = way(title, name, gpus)
    ceilings = job.ceilings()
    gradients = ceilings.pop("gradients", float("inf"))
    compute_s = parts.BATCH / ceilings["computing"]
    exposed_s = max(parts.BATCH / gradients - inputs.of("overlap") * compute_s, 0.0)
    expected = max(compute_s + exposed_s, parts.BATCH / min(ceilings.values()))
    assert parts.BATCH / simulate.simulate(job).clips_per_s == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("title", WAYS)
def test_no_training_is_faster_than_its_parts(title: str) -> None:
    job = way(title, "UMT-L/16", 32)
    pace = simulate.simulate(job)
    assert pace == simulate.simulate(job), "the same seed, the same numbers"
    assert pace.clips_per_s <= 1.02 * min(job.ceilings().values())
    assert pace.busy + pace.input + pace.others + pace.gradients == pytest.approx(1.0)


def test_failures_cost_what_young_says() -> None:
    job, rate = Job("UMT-L/16", "int8", 64), 1 / 3600
    best = simulate.best_interval_s(job, rate)
    costs = {factor: simulate.with_failures(job, 100.0, factor * best, rate) for factor in (0.2, 1.0, 5.0)}
    assert costs[1.0] < min(costs[0.2], costs[5.0])
    # Restarts, checkpoints, and half an interval lost at each failure.
    lost = inputs.of("restart_s") * rate + simulate.checkpoint_s(job) / best + best / 2 * rate
    assert costs[1.0] == pytest.approx(1 + lost, abs=0.05)
    assert simulate.with_failures(job, 100.0, 1e9, 1e-12) == pytest.approx(1.0), "neither failures nor checkpoints"
