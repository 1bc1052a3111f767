"""The search is the same for every arm, a killed study goes on, and what it finds is said as it is."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy import stats

from studies.claims.arms import ARMS, BASELINE, COMPARISONS
from studies.claims.bank import ClipBank
from studies.claims.document import document
from studies.claims.figure import figure_svg
from studies.claims.findings import Verdict, find, margin, protocol_records
from studies.claims.study import Job, Phase, Place, Rates, Run, _grouped, choose, run_job, run_study
from tests.features.tiny import make_teacher_folder
from tests.studies.tiny import make_bank, study
from umt_pipeline.training.sampler import Sampler
from umt_pipeline.training.schedule import make_schedule


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> ClipBank:
    return make_bank(tmp_path_factory.mktemp("bank"))


@pytest.fixture(scope="module")
def place(bank: ClipBank, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("study")
    return Place(bank.folder, make_teacher_folder(folder / "teacher"), folder / "runs")


def row(arm: str, seed: int, validation: float, test: float, **more: Any) -> dict[str, Any]:
    pre = ARMS[arm].pretraining is not None
    return {
        "arm": arm,
        "seed": seed,
        "pretraining_lr": 1e-3 if pre else None,
        "fine_tuning_lr": 1e-3,
        "validation_shape": validation,
        "validation_motion": validation,
        "test_shape": test,
        "test_motion": test + seed,
        "pretraining_seconds": 2.0 if pre else 0.0,
        "fine_tuning_seconds": 1.0,
        "pretraining_loss": 0.1 if pre else None,
        "fine_tuning_loss": 0.5,
        "checkpoint_sha256": "0" * 64,
        "reported_shape": True,
        "reported_motion": True,
        **more,
    }


def test_every_arm_is_shown_and_directions_are_the_papers_where_it_has_numbers() -> None:
    assert {name for comparison in COMPARISONS for name in comparison.arms} == set(ARMS)
    for comparison in COMPARISONS:
        assert {name for one in comparison.expected for name in (one.better, one.worse)} <= set(comparison.arms)
        assert set(comparison.titles) | set(comparison.published) <= set(comparison.arms)
        for one in comparison.expected:
            pair = {one.better, one.worse}
            assert (one.source == "paper") == (pair <= set(comparison.published)), f"{comparison.key}: whose direction is it?"
    assert BASELINE in ARMS


def test_runs_that_share_their_pretraining_are_one_job() -> None:
    rates = Rates(1e-3, 1e-3)
    jobs = _grouped(
        [Run(name, 0, rates) for name in ("frame_frame", "frame_joint", "aligned")]
        + [Run("scratch", 0, Rates(None, lr)) for lr in (1e-3, 2e-3)]
    )
    names = [[one.arm for one in job.runs] for job in jobs]
    assert names == [["frame_frame", "frame_joint"], ["aligned"], ["scratch"], ["scratch"]]


@pytest.mark.parametrize("clips", [1, 32, 100, 609, 1600])
def test_warm_up_takes_as_many_steps_however_few_clips_have_labels(clips: int) -> None:
    loop = Phase(lrs=(1e-3,), steps=300, batch_size=32, warmup=20).at(1e-3, clips)
    sampler = Sampler(clips, loop.batch_size, seed=0)
    assert make_schedule(loop, sampler.steps_per_epoch, sampler.batch_size).warmup_steps == 20


def test_learning_rates_are_chosen_on_validation_over_all_seeds_and_the_lowest_of_equals() -> None:
    rows = [
        row("aligned", 0, 10.0, 99.0, fine_tuning_lr=3e-3),
        row("aligned", 1, 10.0, 99.0, fine_tuning_lr=3e-3),
        row("aligned", 0, 40.0, 1.0, fine_tuning_lr=2e-3),
        row("aligned", 1, 10.0, 1.0, fine_tuning_lr=2e-3),
        row("aligned", 0, 20.0, 2.0, fine_tuning_lr=1e-3),
        row("aligned", 1, 30.0, 2.0, fine_tuning_lr=1e-3),
    ]
    assert choose(rows, "shape") == Rates(1e-3, 1e-3)


def test_a_study_runs_its_grid_with_every_seed_and_is_not_run_twice(
    place: Place, bank: ClipBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = study()
    table = run_study(config, 0, place)
    assert table.groupby("arm").size().to_dict() == {"aligned": 4, "scratch": 4}, "two rates, two seeds"
    for task in config.tasks:
        reported = table[table[f"reported_{task}"]]
        assert reported.groupby("arm")["seed"].apply(list).to_dict() == {"aligned": [0, 1], "scratch": [0, 1]}
        assert reported.groupby("arm")["fine_tuning_lr"].nunique().tolist() == [1, 1]
    assert table.loc[table["arm"] == "scratch", "pretraining_lr"].isna().all()

    def never(*_: object) -> None:
        raise AssertionError("a finished run is trained again")

    job = Job(0, 1e-3, (Run("aligned", 0, Rates(1e-3, 1e-3)),))
    with monkeypatch.context() as patched:
        patched.setattr("umt_pipeline.training.loop.Trainer.fit", never)
        again = pd.DataFrame(run_job(config, place, job))
        kept = table[(table["arm"] == "aligned") & (table["seed"] == 0) & (table["fine_tuning_lr"] == 1e-3)]
        assert again["checkpoint_sha256"].tolist() == kept["checkpoint_sha256"].tolist()
        # Other code may give other numbers.
        patched.setattr("umt_pipeline.training.spec.code_key", lambda *_: "changed")
        with pytest.raises(AssertionError, match="is trained again"):
            run_job(config, place, job)
    records = list(protocol_records(config, table, bank))
    assert [record.task for record in records] == [
        f"claims/{arm}/{task}/seed_{seed}" for task in config.tasks for arm in ("aligned", "scratch") for seed in (0, 1)
    ]
    protocol = records[0].protocol
    assert protocol is not None
    assert (protocol.clips, protocol.frames, protocol.views) == (2, 4, 2)
    told = {"pretraining_objective": "alignment", "pretraining_mask_ratio": 0.8, "fine_tuning_steps": 2, "student_dim": 16}
    assert protocol.settings | told == protocol.settings


def test_what_is_found_is_said_with_its_spread() -> None:
    config = study(arms=["aligned", "pixels", "scratch"], seeds=[0, 1, 2])
    values = {"aligned": (80.0, 82.0, 84.0), "pixels": (70.0, 72.0, 75.0), "scratch": (79.0, 84.0, 83.0)}
    rows = [row(arm, seed, 0.0, test[seed]) for arm, test in values.items() for seed in range(3)]
    rows.append(row("scratch", 0, 0.0, 100.0, fine_tuning_lr=9e-3, reported_shape=False, reported_motion=False))
    findings = find(config, pd.DataFrame(rows))
    assert findings.arms["aligned"].mean("shape") == pytest.approx(82.0)
    assert findings.arms["aligned"].spread("shape") == pytest.approx(2.0)
    over_pixels, _ = findings.verdicts["target"]
    over_scratch, _ = findings.verdicts["labels"]
    assert (over_pixels.says, over_pixels.difference) == ("yes", pytest.approx(29.0 / 3))
    assert over_pixels.margin == margin(np.array(values["aligned"]), np.array(values["pixels"]))
    assert over_scratch.says == "cannot be told"
    worse = find(config, pd.DataFrame([{**one, "test_shape": 100.0 - one["test_shape"]} for one in rows]))
    assert worse.verdicts["target"][0].says == "the other way round"
    text = document(findings, "claims.svg")
    assert "| **unmasked tokens aligned (UMT)** | 82.0 ± 2.0 | 83.0 ± 3.0 | 1.00 | 0.001, 0.001 | 84.9 | 70.2 |" in text
    assert "hides 12 of the 16 patches" in text
    assert "## Which patches are seen" not in text, "a comparison of which one arm was run is none"
    assert findings.metrics()["difference"]["aligned_over_pixels"]["shape"]["mean"] == pytest.approx(29.0 / 3)
    svg = figure_svg(findings)
    assert svg == figure_svg(findings)
    assert "hidden pixels reconstructed" in "".join(ET.fromstring(svg).itertext())


def test_a_difference_is_told_by_welchs_t() -> None:
    generator = np.random.default_rng(0)
    one_R, other_R = generator.normal(3.0, 1.0, 5), generator.normal(0.0, 4.0, 7)
    interval = stats.ttest_ind(one_R, other_R, equal_var=False).confidence_interval(0.95)
    assert margin(one_R, other_R) == pytest.approx((interval.high - interval.low) / 2)
    assert margin(np.array([1.0]), other_R) == np.inf
    assert margin(np.ones(3), np.zeros(3)) == 0.0
    expected = COMPARISONS[0].expected[0]
    told = [Verdict(expected, "shape", *values).says for values in ((2.0, 1.5), (-2.0, 1.5), (-1.0, 1.5), (0.0, 0.0))]
    assert told == ["yes", "the other way round", "cannot be told", "cannot be told"]
    draws = generator.normal(size=(2000, 2, 5))
    assert np.mean([abs(a.mean() - b.mean()) > margin(a, b) for a, b in draws]) == pytest.approx(0.05, abs=0.015)


def test_a_single_seed_has_no_spread() -> None:
    config = study(arms=["aligned", "pixels"], seeds=[0])
    findings = find(config, pd.DataFrame([row("aligned", 0, 0.0, 80.0), row("pixels", 0, 0.0, 70.0)]))
    assert findings.arms["pixels"].spread("shape") == 0.0
    assert {verdict.says for verdict in findings.verdicts["target"]} == {"cannot be told"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ["aligned", "magic"]}, "'magic' is none of aligned, pixels"),
        ({"arms": []}, "at least 1 item"),
        ({"validation_splits": []}, "at least 1 item"),
        ({"seeds": [0, 0]}, "names one more than once"),
        ({"arms": ["layers_3"]}, "`student.depth` is 2, but an arm aligns 3 layers"),
        ({"size": 33}, "not a multiple"),
        ({"test_splits": ["validation"]}, "must be different splits"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        study(**changes)
