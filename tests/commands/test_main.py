from __future__ import annotations

import io
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner as ClickRunner
from rich.console import Console
from typer.testing import CliRunner

from tests.conftest import ROOT
from umt_pipeline.commands import main as cli
from umt_pipeline.commands.summary import grouped, print_summary
from umt_pipeline.core.errors import TableError, UmtError
from umt_pipeline.core.files import write_json
from umt_pipeline.evaluation.evidence import evidence_rows, joined
from umt_pipeline.evaluation.records import Record
from umt_pipeline.pipelines.numbers import numbers_table

METRICS = {
    "retrieval/test/stage2/dual/t2v_r1": 48.4,
    "retrieval/test/stage2/dual/v2t_r1": 47.0,
    "retrieval/test/control/dual/t2v_r1": 30.1,
    "probe/linear/shape/stage1": 51.0,
    "clips": 128.0,
}


def test_metrics_are_grouped_into_tables() -> None:
    assert grouped(METRICS) == {
        "retrieval/test": {"stage2/dual": {"t2v_r1": 48.4, "v2t_r1": 47.0}, "control/dual": {"t2v_r1": 30.1}},
        "probe/linear": {"shape": {"stage1": 51.0}},
        "metrics": {"": {"clips": 128.0}},
    }


def test_the_demo_is_a_corpus_by_its_name_too(project: Path) -> None:
    (project / "dvc.yaml").unlink(missing_ok=True)
    told = CliRunner().invoke(cli.app, ["stages", "demo"])
    assert told.exit_code == 0, told.output
    assert (project / "dvc.yaml").read_text(encoding="utf-8") == (ROOT / "dvc.yaml").read_text(encoding="utf-8")


def write_numbers(project: Path) -> None:
    (project / "results").mkdir(exist_ok=True)
    numbers_table(METRICS).to_csv(project / "results" / "evaluation.csv", index=False)


def test_summary_says_what_training_took_where_that_is_known(project: Path) -> None:
    write_numbers(project)
    run = {"seconds": 34.4, "median_clips_per_s": 1270.8, "median_data_wait": 0.038, "peak_memory_mib": 1357.8, "rows": {}}
    write_json(project / "data/08_reporting/stage1_times.json", {**run, "median_mfu": 0.331})
    write_json(project / "data/08_reporting/classification_times.json", {"training": {"stage2": {"motion": run}}, "test": {}})
    console = Console(file=io.StringIO(), width=100)
    print_summary(console, project, None, everything=True)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    row = next(line for line in text.splitlines() if line.startswith("│ stage1 "))
    for shown in ("34", "1271", "33%", "3.8%", "1358"):
        assert f" {shown} " in row
    assert "classification/stage2/motion" in text


def test_summary_prints_numbers_and_where_things_are(project: Path) -> None:
    write_numbers(project)
    console = Console(file=io.StringIO(), width=100)
    print_summary(console, project, None, everything=True)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for expected in ("48.4", "30.1", "stage2/dual", str(project / "data/08_reporting/report.html"), "make mlflow"):
        assert expected in text


def test_the_headlines_are_at_most_twelve_lines_with_intervals_where_they_are(project: Path) -> None:
    sets, systems = ("other", "test", "test_motion", "test_rare"), ("stage2/dual", "stage2/reranked", "control/dual")
    metrics = {f"retrieval/{name}/{system}/t2v_r1": 25.0 for name in sets for system in systems}
    metrics |= {f"probe/linear/{task}/stage1": value for task, value in (("shape", 50.0), ("colour", 90.0), ("motion", 9.0))}
    (project / "results").mkdir(exist_ok=True)
    numbers_table(metrics).to_csv(project / "results" / "evaluation.csv", index=False)
    clips = [f"clip{n}" for n in range(400)]
    evidence = joined(
        evidence_rows(f"retrieval/{name}/{system}", "t2v_rank", clips, clips, np.where(np.arange(400) % 4, 2, 1))
        for name in sets
        for system in systems
    )
    (project / "data/07_model_output").mkdir(parents=True, exist_ok=True)
    evidence.to_parquet(project / "data/07_model_output/evaluation_evidence.parquet")
    for task, values in {
        "classification": {"classification/motion/stage2": {"top1": 77.0}, "classification/motion/control": {"top1": 11.0}},
        "detection": {"detection/test/stage2": {"map": 47.1}},
        "question_answering": {"question_answering/test/stage2": {"accuracy": 60.0}},
        "retrieval": {"retrieval/test/fine_tuned/dual": {"t2v_r1": 67.0}, "retrieval/test/fine_tuned/dsl": {"t2v_r1": 99.0}},
    }.items():
        records = [Record(task=name, values=found, note="made up").model_dump(mode="json") for name, found in values.items()]
        write_json(project / f"data/07_model_output/{task}_records.json", records)
        (project / "data/08_reporting").mkdir(exist_ok=True)
        (project / f"data/08_reporting/{task}.html").touch()
    console = Console(file=io.StringIO(), width=80)
    print_summary(console, project, None)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    table, links = text.split("\n\n", 1)
    lines = [" ".join(line.split()) for line in table.splitlines()]
    assert len(lines) <= 12
    assert "text→video R@1, test 25.0 ±4.2 25.0 ±4.2 25.0 ±4.2" in lines
    assert "stage 1, probes of appearance 70.0" in lines
    assert "classification, top1 77.0 11.0" in lines
    assert "retrieval, R@1 67.0" in lines
    assert "detection, mAP 47.1" in lines
    assert f"Report   {project}/data/08_reporting/report.html" in links
    assert f"Task     {project}/data/08_reporting/detection.html" in links


def test_summary_names_the_pages_of_the_tasks_that_were_run(project: Path) -> None:
    write_numbers(project)
    folder = project / "data" / "08_reporting"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("question_answering", "classification"):
        (folder / f"{name}.html").touch()
    record = Record(task="classification/motion/stage2", values={"top1": 77.75}, protocol=None, note="made up")
    write_json(project / "data/07_model_output/classification_records.json", [record.model_dump(mode="json")])
    console = Console(file=io.StringIO(), width=100)
    print_summary(console, project, None, everything=True)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Pipeline classification" in text
    assert "77.8" in text
    (project / "results" / "evaluation.csv").unlink()
    print_summary(console, project, None)
    assert [line for line in text.splitlines() if line.startswith("Task")] == [
        f"Task     {folder}/classification.html", f"Task     {folder}/question_answering.html"
    ]  # fmt: skip


def test_summary_without_results(project: Path) -> None:
    with pytest.raises(UmtError, match=r"evaluation\.csv: expected the metrics of an evaluation, found nothing"):
        print_summary(Console(), project, None)


def test_kedro_run_shows_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise TableError("captions.csv, row 3: expected a caption, found an empty cell")

    command = click.Command("run", callback=cli._with_short_errors(fails))
    result = ClickRunner().invoke(command)
    assert result.exit_code == 1
    assert "captions.csv, row 3: expected a caption" in result.output
    assert "Traceback" not in result.output
    monkeypatch.setenv("UMT_TRACEBACK", "1")
    assert isinstance(ClickRunner().invoke(command).exception, TableError)
