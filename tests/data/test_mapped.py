"""Tables in mapped files: what was written is read, in any process, without a copy."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from umt_pipeline.core.errors import TableError
from umt_pipeline.data.mapped import MappedTable, write_mapped

TABLE = pd.DataFrame({"name": ["a", "ä", "", "d"], "kind": ["x", "y", "x", "x"], "count": [3, 1, 4, 1]})


@pytest.fixture
def mapped(tmp_path: Path) -> MappedTable:
    write_mapped(tmp_path / "table.arrow", TABLE)
    return MappedTable(tmp_path / "table.arrow")


def test_rows_and_columns_are_those_written(mapped: MappedTable) -> None:
    assert len(mapped) == 4
    assert mapped.row(1) == {"name": "ä", "kind": "y", "count": 1}
    assert mapped.texts("name", np.array([3, 0, 3])) == ["d", "a", "d"]
    assert mapped.numbers("count").tolist() == [3, 1, 4, 1]
    assert mapped.where(kind="x").tolist() == [0, 2, 3]
    assert mapped.where(kind="x", name="d").tolist() == [3]


def test_nothing_is_copied_when_a_table_is_opened_or_pickled(tmp_path: Path) -> None:
    captions = pd.DataFrame({"caption": ["a caption of some length"] * 200_000, "number": range(200_000)})
    write_mapped(tmp_path / "table.arrow", captions)
    before = pa.total_allocated_bytes()
    mapped = MappedTable(tmp_path / "table.arrow")
    assert mapped.row(123_456)["number"] == 123_456
    assert mapped.numbers("number")[-1] == 199_999
    assert mapped.texts("caption", np.array([7])) == ["a caption of some length"]
    assert np.shares_memory(mapped.numbers("number"), mapped.numbers("number")), "both are the mapped file"
    assert pa.total_allocated_bytes() - before < 10_000
    assert len(pickle.dumps(mapped)) < 1000
    assert pickle.loads(pickle.dumps(mapped)).row(5)["number"] == 5


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.arrow").write_bytes(b"not Arrow")
    for name in ("broken.arrow", "missing.arrow"):
        with pytest.raises(TableError, match=rf"{name}: expected an Arrow file"):
            len(MappedTable(tmp_path / name))
