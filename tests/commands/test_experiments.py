"""`umt experiments`: what DVC says becomes a table that fits; tests/test_repeatable_results.py asks DVC itself."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from umt_pipeline.commands.experiments import Experiment, experiments_table, read_experiments

FILE = "conf/base/parameters_stage1.yml"


def state(rev: str, lr: float, r1: float | None, name: str | None = None, **more: Any) -> dict[str, Any]:
    metrics = {} if r1 is None else {
        "results/headline.json": {"data": {"r1_test": r1}},
        "results/headline_retrieval.json": {"data": {"tuned_r1": 2 * r1}},
        "corpora/mine/results/headline.json": {"data": {"r1_test": 99.0}},
    }  # fmt: skip
    params = {FILE: {"data": {"stage1": {"train": {"lr": lr, "betas": [0.9, 0.95]}}}}}
    return {"rev": rev, "name": name, "data": {"params": params, "metrics": metrics}, **more}


STATES = [
    state("workspace", 0.003, 40.0),
    state("0123456789abcdef", 0.0015, 40.0, "main", experiments=[
        {"revs": [state("fedcba9876543210", 0.006, 41.25, "tardy-boll")], "executor": None},
        {"revs": [state("aaaaaaabbbbbbb", 0.0015, None)], "executor": {"state": "queued"}},
    ]),
]  # fmt: skip


def test_an_experiment_is_what_was_changed_and_what_came_of_it() -> None:
    assert list(read_experiments(STATES, "results")) == [
        Experiment("workspace", True, {"stage1.train.lr": 0.003}, {"r1_test": 40.0, "tuned_r1": 80.0}),
        Experiment("main", True, {}, {"r1_test": 40.0, "tuned_r1": 80.0}),
        Experiment("tardy-boll", False, {"stage1.train.lr": 0.006}, {"r1_test": 41.25, "tuned_r1": 82.5}),
        Experiment("aaaaaaa", False, {}, {}, "Queued"),
    ]
    assert list(read_experiments(STATES, "corpora/mine/results"))[1].numbers == {"r1_test": 99.0}


def test_the_table_fits_whatever_was_changed() -> None:
    changed = {f"stage1.student.some_long_name_{number}": [0.1, 0.2] for number in range(20)}
    numbers = {f"r1_a_retrieval_set_{number}": 50.0 for number in range(4)}
    rows = [Experiment("main", True, {}, numbers), Experiment("tardy-boll", False, changed, {})]
    console = Console(file=io.StringIO(), width=160)
    console.print(experiments_table(rows))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 160
    for name in (*numbers, "main", "tardy-boll"):
        assert name in text
    assert text.count("0.2]") == len(changed), "in several lines, whole"
