"""What `umt init` writes: a configuration, raw tables that DVC keeps, stages."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pandas as pd
import pytest
import yaml
from omegaconf import OmegaConf
from typer.testing import CliRunner

from tests.project_copies import set_a_parameter
from tests.raw_tables import read_tables
from umt_pipeline.commands import main as cli
from umt_pipeline.commands.corpus import Corpus
from umt_pipeline.commands.init import Given, init_corpus
from umt_pipeline.core.errors import ConfigError, TableError
from umt_pipeline.dvc_stages import project_pipelines
from umt_pipeline.evaluation.gate import GateParams
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.project_config import catalog_resolver, config_loader


def stages(project: Path) -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = yaml.safe_load((project / "corpora/mine/dvc.yaml").read_text())["stages"]
    return found


def test_init_writes_a_corpus_that_kedro_and_dvc_read(dvc_project: Path, media: Path) -> None:
    tables = ["--captions", str(media.parent / "captions.csv"), "--labels", str(media.parent / "labels.csv")]
    result = CliRunner().invoke(cli.app, ["init", "mine", "--videos", str(media), *tables])
    assert result.exit_code == 0, result.output
    for line in ("3 files: train", "2 of 3 captions name one of these files", "dvc repro corpora/mine/dvc.yaml"):
        assert line in result.output
    loader = config_loader(dvc_project, "mine")
    catalog = loader["catalog"]
    assert catalog["raw_media"]["filepath"] == str(media), "given once, in globals.yml"
    assert catalog["videos"]["filepath"] == "data/mine/03_primary/videos.parquet"
    assert catalog["headline"]["filepath"] == "corpora/mine/results/headline.json", "where git keeps it"
    videos = pd.read_csv(dvc_project / catalog["raw_videos"]["filepath"])
    assert videos["video"].tolist() == ["a.mp4", "b.MOV", "deep/ç 1.webm"]
    assert videos["video_id"].tolist() == ["a", "b", "deep/ç 1"]
    labels = pd.read_csv(dvc_project / catalog["raw_labels"]["filepath"])
    assert labels.to_dict("records") == [{"video": "a.mp4", "task": "label", "label": "cat"}]
    parameters = loader["parameters"]
    assert parameters["ingestion"]["dataset_id"] == "mine"
    assert parameters["classification"]["tasks"] == ["label"]
    for name in ("videos.csv", "captions.csv", "labels.csv", "media_manifest.csv"):
        assert (dvc_project / "data/mine/01_raw" / f"{name}.dvc").is_file()


@pytest.mark.slow
def test_all_that_a_corpus_makes_can_be_put_elsewhere(dvc_project: Path, media: Path) -> None:
    """A promotion trains other seeds beside the data, and measures other models there: no path of a result may be fixed."""
    init_corpus(dvc_project, "mine", Given(media, {"captions": media.parent / "captions.csv"}))
    resolver = catalog_resolver(config_loader(dvc_project, "mine", "data=there/data,results=there/results"))
    made = {name for stage in stages(dvc_project) for name in project_pipelines()[stage].all_outputs()}
    entries = {name: resolver.resolve_pattern(name) for name in sorted(made)}
    paths = {name: entry["filepath"] for name, entry in entries.items() if "filepath" in entry}
    assert paths["stage2_model"] == "there/data/06_models/stage2"
    assert not {name: path for name, path in paths.items() if not path.startswith("there/")}


def test_parameters_of_a_corpus_change_a_line_each_too(dvc_project: Path, media: Path) -> None:
    init_corpus(dvc_project, "mine", Given(media, {"captions": media.parent / "captions.csv"}))
    files = sorted((dvc_project / "conf/mine").glob("parameters*.yml"))
    assert len(files) == len(list((dvc_project / "conf/base").glob("parameters*.yml"))) - 1, "all but the demo's world"
    for file in files:
        set_a_parameter(file)


def test_stages_depend_on_hashes_of_media_that_stay_where_they_are(dvc_project: Path, media: Path) -> None:
    init_corpus(dvc_project, "mine", Given(media, {"captions": media.parent / "captions.csv"}))
    found = stages(dvc_project)
    assert list(found) == ["ingestion", "teacher_features", "stage1", "stage2", "retrieval", "evaluation"]
    raw = "data/mine/01_raw"
    assert found["ingestion"]["deps"][:3] == [f"{raw}/media_manifest.csv", f"{raw}/videos.csv", f"{raw}/captions.csv"]
    assert found["stage1"]["params"] == [
        {"conf/mine/parameters.yml": ["seed"]},
        {"conf/mine/parameters_teacher_features.yml": ["teacher_features", "teacher_features.view.size"]},
        {"conf/mine/parameters_stage1.yml": ["stage1"]},
    ]
    assert all(stage["wdir"] == "../.." for stage in found.values())
    assert found["stage2"]["cmd"] == "kedro run --env mine --pipelines stage2"
    assert all(str(media) not in dependency for stage in found.values() for dependency in stage["deps"])


def test_media_that_dvc_keeps_are_copies(dvc_project: Path, media: Path) -> None:
    (media / "a.txt").write_text("a sidecar\n")
    told = init_corpus(dvc_project, "mine", Given(media, media="add"))
    assert "1 of 1 captions name one of these files, found in the folder" in told
    copies = dvc_project / "data/mine/01_raw/media"
    assert sorted(path.name for path in copies.rglob("*") if path.is_file()) == ["a.mp4", "a.txt", "b.MOV", "ç 1.webm"]
    assert copies.with_suffix(".dvc").is_file()
    assert (media / "a.mp4").stat().st_nlink == 1
    assert stages(dvc_project)["stage1"]["deps"][0] == "data/mine/01_raw/media"
    assert config_loader(dvc_project, "mine")["globals"]["media"] == "data/mine/01_raw/media"


def test_a_file_that_cannot_be_copied_is_named(dvc_project: Path, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, copy: Path) -> None:  # a superuser can read everything
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("umt_pipeline.commands.init.shutil.copy2", refuse)
    with pytest.raises(ConfigError, match=r"a\.mp4: expected a file to copy, .*: Permission denied\. Make it readable"):
        init_corpus(dvc_project, "mine", Given(media, media="add"))
    assert not (dvc_project / "data/mine/01_raw/media").exists()


def test_without_captions_what_stands_on_them_is_left_out(dvc_project: Path, media: Path) -> None:
    for kind in ("cats", "dogs"):
        (media / kind).mkdir()
        (media / kind / "x.mp4").write_text(kind)
    for name in ("a.mp4", "b.MOV"):
        (media / name).unlink()
    told = init_corpus(dvc_project, "mine", Given(media, class_folders=True))
    assert [line for line in told if line.startswith("no captions: stage2, retrieval and evaluation are left out")]
    found = stages(dvc_project)
    assert list(found) == ["ingestion", "teacher_features", "stage1", "classification"]
    assert "data/mine/06_models/stage2" not in found["classification"]["deps"]
    parameters = config_loader(dvc_project, "mine")["parameters"]
    assert parameters["classification"]["start"] == "stage1"
    assert parameters["teacher_features"]["train_small"]["templates"] == ["a video of {label}"]
    assert parameters["teacher_features"]["teacher"]["source"] == "train_small", "the demo's teacher knows the demo's things"


def test_init_takes_the_images_that_captions_name(dvc_project: Path, media: Path) -> None:
    for name in ("photo.JPG", "deep/second.png", "thumbnail.jpg"):
        (media / name).touch()
    captions = media.parent / "captions.json"
    named = ["photo.JPG", "photo.JPG", "deep/second.png", "a.mp4", "lost.png"]
    captions.write_text(json.dumps([{"video": name, "caption": "x"} for name in named]))
    told = init_corpus(dvc_project, "mine", Given(media, {"captions": captions}, splits="0,50,50"))
    assert "4 of 5 captions name one of these files" in told
    table = pd.read_csv(dvc_project / "data/mine/01_raw/videos.csv").sort_values("video")
    images = table[table["video"].str.lower().str.endswith((".jpg", ".png"))]
    assert images["video"].tolist() == ["deep/second.png", "photo.JPG"]
    assert set(images["split"]) == {"train"}
    params = IngestionParams.model_validate(config_loader(dvc_project, "mine")["parameters"]["ingestion"])
    none = pd.DataFrame()
    listed, _, _ = read_tables(table, pd.read_json(captions), none, none, none, params=params)
    assert set(listed["corpus"]) == {"mine"}, "the demo's column of corpora is not asked for"
    assert listed["video_id"].tolist() == table["video_id"].tolist(), "the table names the files"


def test_parameter_files_are_complete_and_literal(dvc_project: Path, media: Path) -> None:
    """What DVC sees is what runs, and `-S` finds every key."""
    given = Given(media, {"captions": media.parent / "captions.csv"}, like="umt_b16")
    init_corpus(dvc_project, "mine", given)
    resolved = config_loader(dvc_project, "mine")["parameters"]
    for file in (dvc_project / "conf" / "mine").glob("parameters*.yml"):
        # As Kedro and DVC read it: of YAML 1.2, in which 1e-08 is a number.
        literal = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        assert literal == {name: resolved[name] for name in literal}, file.name
    started = config_loader(dvc_project, "umt_b16")["parameters"]
    assert resolved["stage1"] == started["stage1"]
    assert resolved["stage1"]["student"]["dim"] == 768
    assert resolved["ingestion"]["splits"] == ["train", "validation", "test"]
    weights = [resolved["evaluation"]["rerank_weight"], resolved["retrieval"]["test"]["rerank_weight"]]
    assert weights == ["match", "match"], "as published, and a corpus need not have captioned validation clips"


@pytest.mark.slow
def test_gates_are_of_numbers_that_the_corpus_has(dvc_project: Path, media: Path) -> None:
    tables = {name: media.parent / f"{name}.csv" for name in ("captions", "labels")}
    init_corpus(dvc_project, "mine", Given(media, tables))
    gates = config_loader(dvc_project, "mine")["parameters"]["gate"]
    for gate in gates.values():
        GateParams.model_validate(gate)
    assert gates["stage1"]["metrics"] == {"probe/linear/label/stage1": 0.0}
    assert gates["stage2"]["guards"] == {f"retrieval/test/stage2/{name}": 2.0 for name in ("dual/v2t_r1", "reranked/t2v_r5")}
    assert gates["classification"]["metrics"] == {"classification/label/stage2/top1": 0.0}
    init_corpus(dvc_project, "unlabelled", Given(media, {"captions": tables["captions"]}))
    gates = config_loader(dvc_project, "unlabelled")["parameters"]["gate"]
    assert set(gates) == {"teacher", "stage2", "retrieval", "question_answering", "detection"}
    assert gates["teacher"]["metrics"] == {"retrieval/test/teacher/dual/t2v_r1": 0.0}


def test_sidecars_are_copied_whatever_the_case_of_their_suffix(dvc_project: Path, media: Path) -> None:
    for name, text in {"a.TXT": "one\n", "a.Json": '{"caption": "two"}', "other.txt": "of no video\n"}.items():
        (media / name).write_text(text)
    told = init_corpus(dvc_project, "mine", Given(media, media="add"))
    assert "2 of 2 captions name one of these files, found in the folder" in told
    copies = dvc_project / "data/mine/01_raw/media"
    assert sorted(path.name for path in copies.iterdir()) == ["a.Json", "a.TXT", "a.mp4", "b.MOV", "deep"]


def test_files_are_not_replaced_by_copies(dvc_project: Path, media: Path) -> None:
    own = dvc_project / "data/mine/01_raw/media"
    own.mkdir(parents=True)
    (own / "own.mp4").write_text("own")
    with pytest.raises(ConfigError, match="expected an empty folder to copy to, found files"):
        init_corpus(dvc_project, "mine", Given(media, media="add"))
    assert [path.name for path in own.iterdir()] == ["own.mp4"]
    assert not (dvc_project / "conf/mine").exists()
    init_corpus(dvc_project, "mine", Given(own, media="add"))
    assert Corpus(dvc_project, "mine").record.source is None, "an absolute path, and nothing was brought"


def test_the_record_says_where_shards_lie_from_any_folder(
    dvc_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "a.mp4").write_text("a")
    with tarfile.open(tmp_path / "shards/0.tar", "w") as tar:
        tar.add(tmp_path / "a.mp4", "a.mp4")
    monkeypatch.chdir(tmp_path)
    init_corpus(dvc_project, "mine", Given("shards", media="add"))
    assert Corpus(dvc_project, "mine").record.source == str(tmp_path / "shards")


def test_tables_may_write_paths_otherwise_than_the_files_are_called(dvc_project: Path, media: Path) -> None:
    (media / "deep/e\u0301.png").touch()
    captions = media.parent / "written.csv"
    captions.write_text("video,caption\n./a.mp4,x\ndeep//\u00e9.png,y\n", encoding="utf-8")
    splits = media.parent / "splits.csv"
    splits.write_text("video,split\n./a.mp4,train\ndeep/c\u0327 1.webm,test\ndeep/\u00e9.png,train\n", encoding="utf-8")
    told = init_corpus(dvc_project, "mine", Given(media, {"captions": captions}, splits=str(splits)))
    assert "2 of 2 captions name one of these files" in told
    videos = pd.read_csv(dvc_project / "data/mine/01_raw/videos.csv")
    named = dict(zip(videos["video"], videos["split"], strict=True))
    assert named == {"a.mp4": "train", "deep/e\u0301.png": "train", "deep/\u00e7 1.webm": "test"}


@pytest.mark.slow
def test_what_is_left_of_a_corpus_is_not_taken_for_a_new_one(dvc_project: Path, media: Path) -> None:
    init_corpus(dvc_project, "mine", Given(media, {"labels": media.parent / "labels.csv"}))
    shutil.rmtree(dvc_project / "conf/mine")
    message = r"exists already: corpora/mine, .*labels\.csv\.dvc.*Delete conf/mine, data/mine .* and corpora/mine, or choose"
    with pytest.raises(ConfigError, match=message):
        init_corpus(dvc_project, "mine", Given(media))
    for folder in ("data/mine", "corpora/mine"):
        shutil.rmtree(dvc_project / folder)
    init_corpus(dvc_project, "mine", Given(media))
    assert "classification" not in stages(dvc_project)


def test_inputs_are_asked_for_before_anything_is_written(dvc_project: Path, media: Path) -> None:
    (dvc_project / "conf/.mine.1.part").mkdir()
    with pytest.raises(ConfigError, match=r"^--like: expected a folder of .*, one of base, .*; found 'typo'") as error:
        init_corpus(dvc_project, "mine", Given(media, media="add", like="typo"))
    assert ".part" not in str(error.value)
    with pytest.raises(TableError, match=r"typo\.csv: expected a table, found nothing\. Correct the path\."):
        init_corpus(dvc_project, "mine", Given(media, {"captions": media.parent / "typo.csv"}))
    splits = media.parent / "splits.csv"
    splits.write_text("video,split\nelsewhere/a.mp4,train\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"expected the splits of files of .*, such as 'a\.mp4'; found none"):
        init_corpus(dvc_project, "mine", Given(media, splits=str(splits)))
    assert not (dvc_project / "data").exists()


def test_init_refuses(dvc_project: Path, media: Path) -> None:
    captions = {"captions": media.parent / "captions.csv"}
    with pytest.raises(ConfigError, match="expected lower-case letters"):
        init_corpus(dvc_project, "../up", Given(media, captions))
    with pytest.raises(ConfigError, match="expected a folder"):
        init_corpus(dvc_project, "mine", Given(media / "none", captions))
    with pytest.raises(ConfigError, match="both say what the labels are"):
        init_corpus(dvc_project, "mine", Given(media, {"labels": media.parent / "labels.csv"}, class_folders=True))
    bad = media.parent / "bad.csv"
    bad.write_text("file,caption\na,b\n")
    with pytest.raises(TableError, match=r"bad\.csv: expected the columns video, caption; found file, caption; missing: video"):
        init_corpus(dvc_project, "mine", Given(media, {"captions": bad}))
    shutil.move(dvc_project / ".git", dvc_project / "git")
    with pytest.raises(ConfigError, match="expected a git repository beside"):
        init_corpus(dvc_project, "mine", Given(media, captions))
    shutil.move(dvc_project / ".dvc", dvc_project / "dvc")
    with pytest.raises(ConfigError, match=r"expected a DVC project, found no folder \.dvc"):
        init_corpus(dvc_project, "mine", Given(media, captions))
    assert not (dvc_project / "conf" / "mine").exists()
    assert not (dvc_project / "data").exists()
    (dvc_project / "conf" / "mine").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        init_corpus(dvc_project, "mine", Given(media, captions))
