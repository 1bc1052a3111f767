"""Names and steps of metrics, from what training loops, metrics files and history tables say."""

from __future__ import annotations

import pandas as pd

from umt_pipeline.tracking.rows import Row, flatten_numbers, history_rows, training_row


def test_flatten_numbers() -> None:
    nested = {
        "rows": {"in": 3, "by reason": {"too_short": 1}},
        "text": "x",
        "list": [1],
        "flag": True,
        "nan": float("nan"),
    }
    assert flatten_numbers(nested, "ingestion") == {"ingestion/rows/in": 3.0, "ingestion/rows/by reason/too_short": 1.0}
    assert flatten_numbers({"t2v_r@1": 4}) == {"t2v_r_1": 4.0}
    assert flatten_numbers({"/kind": {"n/a/": 1, "..": 2, "a//b": 3}}) == {
        "_/kind/n/a/_": 1.0, "_/kind/_": 2.0, "_/kind/a/_/b": 3.0
    }, "MLflow refuses a name that a path would not keep, and all that is sent with it"  # fmt: skip


def test_a_training_row_has_its_finite_numbers() -> None:
    row = training_row("stage2", {"step": 3, "loss": 0.5, "phase": "warm-up", "grad_norm": float("inf"), "ok": True}, 7)
    assert row == Row("stage2", 3, {"stage2/loss": 0.5}, 7)


def test_a_history_has_the_rows_that_the_training_gave() -> None:
    table = pd.DataFrame({"step": [10, 20], "loss": [2.0, 1.0], "heads": [float("nan"), 3.0]})
    first, second = history_rows(table, "stage1", 1000, 2000)
    assert first == Row("stage1", 10, {"stage1/loss": 2.0}, 1500)
    assert second == Row("stage1", 20, {"stage1/loss": 1.0, "stage1/heads": 3.0}, 2000)
    assert list(history_rows(table.iloc[:0], "stage1", 1000, 2000)) == []


def test_a_history_of_several_trainings_has_a_series_for_each() -> None:
    table = pd.DataFrame({"part": ["motion", "shape"], "step": [1, 1], "loss": [2.0, 1.0]})
    assert [row.values for row in history_rows(table, "classification", 0, 0)] == [
        {"classification_motion/loss": 2.0},
        {"classification_shape/loss": 1.0},
    ]
