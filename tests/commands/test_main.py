from __future__ import annotations

import io
import json
from pathlib import Path

import click
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner as ClickRunner
from hypothesis import given
from hypothesis import strategies as st
from kedro.config import OmegaConfigLoader
from rich.console import Console
from typer.testing import CliRunner

from umt_pipeline.commands import main as cli
from umt_pipeline.commands.init import assign_splits, init_environment, parse_shares
from umt_pipeline.commands.summary import grouped, print_summary
from umt_pipeline.core.errors import ConfigError, TableError, UmtError
from umt_pipeline.core.files import write_json
from umt_pipeline.evaluation.records import Record
from umt_pipeline.pipelines.ingestion.nodes import read_raw_tables
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.project_config import config_loader

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


def test_summary_prints_numbers_and_where_things_are(project: Path) -> None:
    write_json(project / "results" / "metrics.json", METRICS)
    console = Console(file=io.StringIO(), width=100)
    print_summary(console, project, None)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for expected in ("48.4", "30.1", "stage2/dual", str(project / "data/08_reporting/report.html"), "make mlflow"):
        assert expected in text


def test_summary_names_the_pages_of_the_tasks_that_were_run(project: Path) -> None:
    write_json(project / "results" / "metrics.json", METRICS)
    folder = project / "data" / "08_reporting"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("question_answering", "classification"):
        (folder / f"{name}.html").touch()
    record = Record(task="classification/motion/stage2", values={"top1": 77.75}, protocol=None, note="made up")
    write_json(project / "results" / "classification_records.json", [record.model_dump(mode="json")])
    console = Console(file=io.StringIO(), width=100)
    print_summary(console, project, None)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Pipeline classification" in text
    assert "77.8" in text
    (project / "results" / "metrics.json").unlink()
    print_summary(console, project, None)
    assert [line for line in text.splitlines() if line.startswith("Task")] == [
        f"Task     {folder}/classification.html", f"Task     {folder}/question_answering.html"
    ]  # fmt: skip


def test_summary_without_results(project: Path) -> None:
    with pytest.raises(UmtError, match=r"metrics\.json: expected the metrics of an evaluation, found nothing"):
        print_summary(Console(), project, None)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "my videos"
    for name in ("a.mp4", "b.MOV", "deep/ç 1.webm", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    pd.DataFrame({"video": ["a.mp4", "b.MOV", "gone.mp4"], "caption": ["x", "y", "z"]}).to_csv(
        tmp_path / "captions.csv", index=False
    )
    pd.DataFrame({"video": ["a.mp4"], "label": ["cat"]}).to_csv(tmp_path / "labels.csv", index=False)
    return folder


def test_init_writes_an_overlay_that_kedro_reads(project: Path, media: Path) -> None:
    result = CliRunner().invoke(
        cli.app,
        ["init", "mine", "--videos", str(media), "--captions", str(media.parent / "captions.csv"),
         "--labels", str(media.parent / "labels.csv")],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "3 video files" in result.output
    assert "left out: 1 files of other kinds" in result.output
    assert "2 of 3 captions name one of these files" in result.output
    assert "kedro run --env mine" in result.output
    loader = OmegaConfigLoader(
        conf_source=str(project / "conf"), env="mine", base_env="base", default_run_env="local",
        merge_strategy={"globals": "soft", "parameters": "soft"},
    )  # fmt: skip
    catalog = loader["catalog"]
    assert catalog["raw_media"]["filepath"] == str(media)
    assert catalog["videos"]["filepath"] == "data/mine/03_primary/videos.parquet"
    assert catalog["metrics"]["filepath"] == "data/mine/08_reporting/results/metrics.json"
    videos = pd.read_csv(project / catalog["raw_videos"]["filepath"])
    assert videos["video"].tolist() == ["a.mp4", "b.MOV", "deep/ç 1.webm"]
    labels = pd.read_csv(project / catalog["raw_labels"]["filepath"])
    assert labels.to_dict("records") == [{"video": "a.mp4", "task": "label", "label": "cat"}]
    assert loader["parameters"]["ingestion"]["dataset_id"] == "mine"


def test_init_takes_the_images_that_captions_name(project: Path, media: Path) -> None:
    for name in ("photo.JPG", "deep/second.png", "thumbnail.jpg"):
        (media / name).touch()
    captions = media.parent / "captions.json"
    named = ["photo.JPG", "photo.JPG", "deep/second.png", "a.mp4", "lost.png"]
    captions.write_text(json.dumps([{"video": name, "caption": "x"} for name in named]))
    told = init_environment(project, "mine", media, captions, None, "0,50,50")
    for line in (
        "2 image files with a caption, all in split train",
        "left out: 1 files of other kinds",
        "left out: 1 images without a caption",
        "4 of 5 captions name one of these files",
        "warning: no video in split 'train'; change --splits",
    ):
        assert line in told
    table = pd.read_csv(project / "data/mine/01_raw/videos.csv")
    assert table["video"].tolist() == ["a.mp4", "b.MOV", "deep/ç 1.webm", "deep/second.png", "photo.JPG"]
    assert table["split"].tolist()[3:] == ["train", "train"]
    loader = config_loader(project, "mine")
    params = IngestionParams.model_validate(loader["parameters"]["ingestion"])
    none = pd.DataFrame()
    listed, *_ = read_raw_tables(table, pd.read_json(captions), none, none, none, params)
    assert set(listed["corpus"]) == {"mine"}, "the demo's column of corpora is not asked for"


def test_init_overlay_names_only_parameters_that_exist(project: Path, media: Path) -> None:
    init_environment(project, "mine", media, media.parent / "captions.csv", None, "80,10,10")
    for file in (project / "conf" / "mine").glob("parameters_*.yml"):
        base = yaml.safe_load((project / "conf" / "base" / file.name).read_text())
        for name, values in yaml.safe_load(file.read_text()).items():
            assert set(values) <= set(base[name]), file.name


def test_init_refuses(project: Path, media: Path) -> None:
    captions = media.parent / "captions.csv"
    with pytest.raises(ConfigError, match="expected lower-case letters"):
        init_environment(project, "../up", media, captions, None, "80,10,10")
    with pytest.raises(ConfigError, match="expected a folder of videos, found nothing"):
        init_environment(project, "mine", media / "none", captions, None, "80,10,10")
    (media.parent / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"expected files ending in .*; found nothing at all"):
        init_environment(project, "mine", media.parent / "empty", captions, None, "80,10,10")
    with pytest.raises(ConfigError, match="sum to 100"):
        init_environment(project, "mine", media, captions, None, "80,10,20")
    bad = media.parent / "bad.csv"
    bad.write_text("file,caption\na,b\n")
    with pytest.raises(
        TableError, match=r"bad\.csv: expected the columns video, caption; found file, caption; missing: video"
    ):
        init_environment(project, "mine", media, bad, None, "80,10,10")
    assert not (project / "conf" / "mine").exists()
    assert not (project / "data").exists()
    init_environment(project, "mine", media, captions, None, "80,10,10")
    with pytest.raises(ConfigError, match="exists already"):
        init_environment(project, "mine", media, captions, None, "80,10,10")


@given(st.sets(st.text(min_size=1, max_size=12), min_size=1, max_size=30), st.data())
def test_a_split_depends_on_the_name_alone(videos: set[str], data: st.DataObject) -> None:
    shares = parse_shares("60,20,20")
    some = data.draw(st.lists(st.sampled_from(sorted(videos)), min_size=1, unique=True))
    of_all = assign_splits(sorted(videos), shares).set_index("video")["split"]
    of_some = assign_splits(some, shares).set_index("video")["split"]
    assert of_some.to_dict() == of_all.loc[some].to_dict()


def test_shares_are_met() -> None:
    counts = assign_splits([f"{n}.mp4" for n in range(4000)], (80, 10, 10))["split"].value_counts(normalize=True)
    assert counts["train"] == pytest.approx(0.8, abs=0.02)
    assert counts["test"] == pytest.approx(0.1, abs=0.02)


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
