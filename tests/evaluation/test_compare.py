from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from umt_pipeline.commands.main import app
from umt_pipeline.core.errors import UmtError
from umt_pipeline.evaluation.compare import TOLERANCE, compare_machines, compare_protocols, compare_records, load_records
from umt_pipeline.evaluation.records import Protocol, Record

PROTOCOL = Protocol(
    split="test",
    annotation_sha256="ab" * 32,
    clips=100,
    queries=100,
    frames=4,
    resolution=224,
    pool="frame",
    k=128,
    score_type="reranked",
    caption="first",
    settings={"distinct_texts": 99},
    chosen={"validation_accuracy": 50.0},
    model="stage2",
    checkpoint_sha256="cd" * 32,
    seed=0,
    version="1",
)
TASK = "retrieval/test/stage2/reranked"


def record(task: str = TASK, value: float = 35.2, **changes: Any) -> Record:
    protocol = Protocol.model_validate({**PROTOCOL.model_dump(), **changes})
    return Record(task=task, values={"t2v_r1": value}, protocol=protocol)


def write(path: Path, records: list[Record]) -> Path:
    path.write_text(json.dumps([item.model_dump(mode="json") for item in records]), encoding="utf-8")
    return path


def test_another_model_is_the_subject_not_a_difference() -> None:
    changes = {"model": "control", "checkpoint_sha256": None, "seed": 3, "chosen": {"validation_accuracy": 1.0}}
    assert compare_protocols(PROTOCOL, PROTOCOL.model_copy(update=changes)) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"frames": 12}, "frames is 4 in the first run, 12 in the second"),
        ({"resolution": 336}, "resolution is 224 in the first run, 336 in the second"),
        ({"pool": "clip"}, "pool is frame in the first run, clip in the second"),
        ({"k": None}, "k is 128 in the first run, not applicable in the second"),
        ({"caption": "all"}, "caption is first in the first run, all in the second"),
        ({"version": "2"}, "version is 1 in the first run, 2 in the second"),
        ({"failures": ("a",)}, "0 clips failed in the first run, 1 in the second"),
        ({"settings": {"distinct_texts": 98}}, "distinct texts is 99 in the first run, 98 in the second"),
        ({"settings": {}}, "distinct texts is 99 in the first run, not applicable in the second"),
        ({"annotation_sha256": "ef" * 32},
         "the annotation rows differ: SHA-256 abababababab in the first run, efefefefefef in the second"),
    ],
)  # fmt: skip
def test_each_difference_is_one_sentence(change: dict[str, Any], sentence: str) -> None:
    assert compare_protocols(PROTOCOL, PROTOCOL.model_copy(update=change)) == [sentence]


def test_every_field_is_compared_or_the_subject_or_the_machine() -> None:
    other = {
        "split": "x", "annotation_sha256": "x", "clips": 1, "queries": 1, "failures": ("x",), "frames": 1, "views": 2,
        "resolution": 1, "pool": "clip", "k": 1, "score_type": "dual", "other_queries": True, "caption": "all",
        "settings": {}, "version": "x", "precision": "bf16",
    }  # fmt: skip
    machine = {"processor", "threads"}
    assert set(Protocol.model_fields) - set(other) - machine == {"model", "checkpoint_sha256", "seed", "chosen"}
    for name, value in other.items():
        assert len(compare_protocols(PROTOCOL, PROTOCOL.model_copy(update={name: value}))) == 1, name
    dsl = PROTOCOL.model_copy(update={"score_type": "dsl", "other_queries": True})
    assert "other queries is no in the first run, yes in the second" in compare_protocols(PROTOCOL, dsl)


def test_another_machine_is_reported_and_no_other_protocol() -> None:
    here = {"processor": "x86_64 avx512", "threads": 2}
    first = [record(**here), record("retrieval/b/stage2/dual", **here)]
    second = [record(value=36.0, **{**here, "processor": "NVIDIA H200"}), record("retrieval/b/stage2/dual", **here)]
    result = compare_records(first, second)
    assert result.warnings == ()
    assert result.machines == (f"processor is x86_64 avx512 in the first run, NVIDIA H200 in the second ({TASK})",)
    assert compare_records(first, first).machines == ()
    earlier = PROTOCOL
    assert compare_machines(earlier, PROTOCOL.model_copy(update=here))[1] == (
        "threads is not applicable in the first run, 2 in the second"
    )


def test_numbers_side_by_side_and_one_warning_per_difference() -> None:
    first = [record(), record("retrieval/b/stage2/dual"), record("retrieval/only/stage2/dual")]
    second = [record(value=40.0, frames=12), record("retrieval/b/stage2/dual", frames=12), Record(task="x", note="skipped")]
    result = compare_records(first, second)
    assert [(n.name, n.first, n.second) for n in result.numbers] == [
        (f"{TASK}/t2v_r1", 35.2, 40.0),
        ("retrieval/b/stage2/dual/t2v_r1", 35.2, 35.2),
        ("retrieval/only/stage2/dual/t2v_r1", 35.2, None),
    ]
    assert result.numbers[0].change == pytest.approx(4.8)
    assert result.numbers[2].change is None
    assert result.warnings == (
        f"frames is 4 in the first run, 12 in the second ({TASK}, retrieval/b/stage2/dual)",
        "only the first run measured it (retrieval/only/stage2/dual)",
    )


def test_the_command_warns_and_is_strict_on_demand(tmp_path: Path) -> None:
    first, same, other = (
        write(tmp_path / name, [item])
        for name, item in (("a.json", record()), ("b.json", record(value=40.0)), ("c.json", record(k=16)))
    )
    runner = CliRunner()
    fine = runner.invoke(app, ["compare", str(first), str(same), "--strict"])
    assert fine.exit_code == 0
    assert "+4.8" in fine.stdout
    assert "in the same way" in fine.stdout
    warned = runner.invoke(app, ["compare", str(first), str(other)])
    assert warned.exit_code == 0
    assert "Warning: k is 128 in the first run, 16 in the second" in warned.stdout
    assert runner.invoke(app, ["compare", str(first), str(other), "--strict"]).exit_code == 1


def test_the_command_marks_what_another_machine_does_not_explain(tmp_path: Path) -> None:
    other = "retrieval/b/stage2/dual"
    here, there = {"processor": "x86_64 avx512"}, {"processor": "x86_64 avx2"}
    first = write(tmp_path / "a.json", [record(**here), record(other, **here)])
    second = write(tmp_path / "b.json", [record(value=33.2, **there), record(other, 45.2, **there)])
    runner = CliRunner()

    def changes(*options: str) -> tuple[list[str], str]:
        result = runner.invoke(app, ["compare", str(first), str(second), "--strict", *options])
        assert result.exit_code == 0, "another machine is no other protocol"
        lines = [line for line in result.stdout.splitlines() if "t2v_r1" in line]
        return [re.findall(r"[+-]\d+\.\d(?: !)?", line)[0] for line in lines], result.stdout

    marked, text = changes()
    assert marked == ["-2.0", "+10.0 !"]
    assert "Machine: processor is x86_64 avx512 in the first run, x86_64 avx2 in the second" in text
    assert f"Of 2, 2 differ, 1 of them by more than {TOLERANCE:g} points (marked !)." in text
    marked, text = changes("--tolerance", "12")
    assert marked == ["-2.0", "+10.0"]
    assert "0 of them by more than 12 points: no more than another kind of machine does by itself." in text


def test_files_that_are_no_records(tmp_path: Path) -> None:
    good = write(tmp_path / "good.json", [record()])
    assert load_records(good) == [record()]
    with pytest.raises(UmtError, match="cannot be read"):
        load_records(tmp_path / "missing.json")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(UmtError, match="cannot be read"):
        load_records(broken)
    broken.write_text('{"retrieval/test/stage2/dual/t2v_r1": 1.0}')
    with pytest.raises(UmtError, match=r"found dict; give data/07_model_output/\*_records\.json"):
        load_records(broken)
    content = json.loads(good.read_text())
    content[0]["protocol"]["framse"] = 4
    broken.write_text(json.dumps(content))
    with pytest.raises(UmtError, match=r"'retrieval/test/stage2/reranked' is not valid at protocol\.framse: Extra inputs"):
        load_records(broken)
