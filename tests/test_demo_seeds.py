"""The script that runs the demo's seeds: what it reads, what it makes of it, and, once, all of it in the smallest world."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT
from tests.project_copies import copy_project
from umt_pipeline.core.files import write_json


def load(folder: Path = ROOT) -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_seeds", folder / "benchmarks" / "demo_seeds.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up by name.
    sys.modules["demo_seeds"] = module
    spec.loader.exec_module(module)
    return module


def write_results(reports: Path, records: Path) -> None:
    sets, systems = ("test", "test_rare", "test_motion"), ("teacher", "stage2", "control")
    metrics = {f"retrieval/{name}/{system}/{score}/t2v_r1": 20.0
               for name in sets for system in systems for score in ("dual", "reranked")}  # fmt: skip
    probes = {f"probe/linear/{task}/stage1": value for task, value in (("shape", 80.0), ("colour", 100.0), ("size", 90.0))}
    own = {**probes, "probe/linear/shape/teacher_patch": 99.0, "retrieval/test_rare/stage2/dual/t2v_r1": 35.0}
    write_json(reports / "evaluation_metrics.json", {**metrics, **own})
    write_json(reports / "classification_metrics.json", {"test": {"motion": {"stage2": {"top1": 70.0}}}})
    asked = {"how does it move": {"stage2": 50.0, "control": 10.0, "majority": 11.0}, "what is it": {"stage2": 90.0}}
    write_json(reports / "question_answering_metrics.json", {"per_type": {"test_motion": asked}})
    boxes = [{"task": f"detection/test/{name}", "values": {"map": 1.0, "map_motion": 30.0}} for name in ("stage2", "chance")]
    write_json(records / "detection_records.json", boxes)
    write_json(reports / "stage1_metrics.json", {"tflops": 5.0})
    write_json(reports / "stage2_metrics.json", {"stage2": {"tflops": 10.0}, "control": {"tflops": 10.0}})
    write_json(reports / "stage1_times.json", {"seconds": 40.0})
    write_json(reports / "stage2_times.json", {"stage2": {"seconds": 80.0}, "control": {"seconds": 79.0}})


def test_numbers_of_a_seed_and_their_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = load()
    monkeypatch.setattr(seeds, "ROOT", tmp_path)
    write_results(tmp_path / "data/08_reporting", tmp_path / "data/07_model_output")
    found = seeds.with_gains(seeds.measured(seeds.Place(0, Path("data")), tasks=True))
    expected = {
        "gain/test": 0.0, "gain/test_rare": 15.0, "times/test_rare": 1.75, "questions/stage2": 50.0, "boxes/chance": 30.0,
        "top1/motion/stage2": 70.0, "seconds/control": 79.0, "tflops/stage1": 5.0, "appearance/stage1": 90.0,
    }  # fmt: skip
    assert found.items() >= expected.items()
    assert "appearance/teacher_patch" not in found, "a mean of all three, or none"
    other = {**found, "gain/test_rare": 5.0}
    page = seeds.page({0: found, 1: other}, None, True)
    assert "| from stage 1 less from scratch, equal steps (points) | 15.0 | 5.0 | 10.0 | 10.0 |" in page
    assert "| from stage 1 as a multiple of from scratch, equal steps | 1.75 | 1.75 | 1.75 | 0.00 |" in page
    assert "| “how does it move”, accuracy: from stage 2 | 50.0 | 50.0 | 50.0 | 0.0 |" in page
    assert "equal total cost |" not in page, "not measured, so not told"
    assert seeds.table("Nothing", [("of this", "was/measured")], {0: found}) == "", "nor a table of which nothing was"
    assert seeds.page({0: found}, 300, False).startswith("# The demo, with 300 epochs of stage 1")
    assert seeds.page_file(300) != seeds.page_file(None), "the demo's own page stays"
    assert seeds.measured(seeds.Place(0, Path("data")), tasks=False).keys().isdisjoint({"questions/stage2", "boxes/chance"})
    assert max(len(line) for line in page.splitlines() if not line.startswith("|")) <= 128


def test_scratch_at_equal_total_cost_has_as_many_epochs_more_as_stage_1_costs() -> None:
    seeds = load()
    assert seeds.lengthened(30, 24, stage1=5.0, stage2=10.0) == (45, 36)
    assert seeds.lengthened(30, 0, stage1=0.0, stage2=10.0) == (30, 0)


@pytest.mark.slow
def test_a_seed_of_the_smallest_world(tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    (project / "benchmarks").mkdir()
    script = (ROOT / "benchmarks" / "demo_seeds.py").read_text(encoding="utf-8")
    (project / "benchmarks" / "demo_seeds.py").write_text(script, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(project / "src"), "MLFLOW_TRACKING_URI": f"sqlite:///{project}/mlflow.db"}
    command = [sys.executable, "benchmarks/demo_seeds.py", "3", "--stage1-epochs", "5", "--tasks", "--env", "ci"]
    for _ in range(2):
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        for row in ("| frame teacher |", "| stage 2 from scratch, equal total cost, re-ranked |", "| stage 1: TFLOPs |"):
            assert row in done.stdout
    assert "Running node" not in done.stdout, "a seed that was run is not run again"
    assert not (project / "docs").exists()
    longer = list((project / "data/seeds/3_stage1_5/.checkpoints/stage2_control").glob("*/final/result.json"))
    assert len(longer) == 2, "the demo's, and the longer one, trained once"
