from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import ValidationError

from umt_pipeline.compute.machine import Machine
from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.evaluation.records import Protocol, Record, dumped, flat_metrics, rows_sha256

PROTOCOL = Protocol(
    split="test",
    annotation_sha256="00",
    clips=3,
    frames=8,
    resolution=48,
    model="stage1",
    checkpoint_sha256=None,
    seed=0,
    version="1",
)


def test_flat_metrics() -> None:
    records = [
        Record(task="probe/linear/shape/stage1", values={"": 51.0}, protocol=PROTOCOL),
        Record(task="retrieval/test/stage2/dual", values={"t2v_r1": 48.0, "t2v_medr": 2.0}, protocol=PROTOCOL),
        Record(task="probe/linear/size/stage1", note="one class only"),
    ]
    assert flat_metrics(records) == {
        "probe/linear/shape/stage1": 51.0,
        "retrieval/test/stage2/dual/t2v_r1": 48.0,
        "retrieval/test/stage2/dual/t2v_medr": 2.0,
    }
    for record in records:
        assert Record.model_validate(json.loads(json.dumps(record.model_dump(mode="json")))) == record
    with pytest.raises(EvaluationError, match="twice"):
        flat_metrics(records[:1] * 2)


def test_a_number_without_protocol_is_refused() -> None:
    with pytest.raises(ValidationError, match="protocol"):
        Record(task="probe/linear/shape/stage1", values={"": 51.0})
    with pytest.raises(ValidationError, match="note"):
        Record(task="probe/linear/shape/stage1")


def test_a_number_that_cannot_be_repeated_is_refused() -> None:
    with pytest.raises(ValidationError, match="annotation_sha256"):
        Protocol.model_validate(PROTOCOL.model_dump(exclude={"annotation_sha256"}))


def test_rows_hash() -> None:
    rows = [{"caption_id": np.int64(3), "caption": "ein Stern ✶"}, {"caption_id": 4, "caption": "x"}]
    plain = [{"caption": "ein Stern ✶", "caption_id": 3}, {"caption_id": 4, "caption": "x"}]
    assert rows_sha256(rows) == rows_sha256(plain)
    assert rows_sha256(rows) != rows_sha256(rows[::-1])


def test_scores_that_use_other_queries_must_say_so() -> None:
    for changes in ({"score_type": "dsl"}, {"score_type": "dual", "other_queries": True}, {"other_queries": True}):
        with pytest.raises(ValidationError, match="other_queries"):
            Protocol.model_validate({**PROTOCOL.model_dump(), **changes})
    assert Protocol.model_validate({**PROTOCOL.model_dump(), "score_type": "dsl", "other_queries": True}).other_queries


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Protocol.model_validate({**PROTOCOL.model_dump(), "framse": 8})


def test_records_say_which_machine_measured_them() -> None:
    records = [Record(task="probe/x", values={"": 51.0}, protocol=PROTOCOL), Record(task="probe/y", note="one class only")]
    measured, skipped = dumped(records, Machine("x86_64 avx512", 2))
    protocol = Record.model_validate(measured).protocol
    assert protocol == PROTOCOL.model_copy(update={"processor": "x86_64 avx512", "threads": 2})
    assert Record.model_validate(skipped) == records[1]
