from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest

from umt_pipeline.datasets import TableDataset
from umt_pipeline.evaluation.evidence import evidence_rows, joined
from umt_pipeline.schemas import Evidence


@pytest.mark.parametrize("answers", [["a", None], [None, None]])
def test_rows_survive_a_file_of_several_blocks(tmp_path: Path, answers: list[str | None]) -> None:
    many = 40_000
    videos, said = ["v"] * many, answers * (many // 2)
    nothing_said = evidence_rows("a", "correct", range(many), videos, np.ones(many))
    table = joined([nothing_said, evidence_rows("b", "t2v_rank", range(many), videos, np.arange(many) + 1, said, said)])
    dataset = TableDataset(str(tmp_path / "evidence.parquet"))
    dataset.save(table)
    again = Evidence.validate(dataset.load())
    pd.testing.assert_frame_equal(again, table)
    assert again["value"].dtype == np.float32
    dataset.save(joined([]))
    assert Evidence.validate(dataset.load()).empty


@pytest.mark.parametrize(
    "change",
    [
        {"item": "1"},  # twice
        {"task": " "},
        {"video": ""},
        {"value": np.float32(np.nan)},
        {"value": np.float32(np.inf)},
        {"value": np.float32(-1)},
        {"answer": 3},
    ],
)
def test_wrong_rows(change: dict[str, Any]) -> None:
    table = evidence_rows("a", "correct", [1, 2], ["v", "w"], np.ones(2), ["x", "y"])
    Evidence.validate(table)
    column, value = next(iter(change.items()))
    values = table[column].astype(object)
    values.iloc[1] = value
    wrong = table.assign(**{column: values if column == "answer" else values.astype(table[column].dtype)})
    with pytest.raises(pa.errors.SchemaErrors):
        Evidence.validate(wrong, lazy=True)
