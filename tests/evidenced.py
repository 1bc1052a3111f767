"""What holds for the evidence of every test: its form, and that the numbers of the records follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest

from umt_pipeline.evaluation.evidence import aggregate
from umt_pipeline.evaluation.records import Record
from umt_pipeline.schemas import Evidence


def check_evidence(evidence: pd.DataFrame, records: Sequence[Record | dict[str, Any]]) -> None:
    """Check the form, and each value of each record but mean average precision, which is no mean over items."""
    Evidence.validate(evidence, lazy=True)
    measured = [record for record in map(Record.model_validate, records) if record.values]
    assert set(evidence["task"]) == {record.task for record in measured}
    for record in measured:
        for name, value in record.values.items():
            if not name.startswith("map"):
                found = aggregate(evidence, f"{record.task}/{name}" if name else record.task)
                assert found == pytest.approx(value, rel=1e-9), f"{record.task} {name}"
