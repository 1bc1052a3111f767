from __future__ import annotations

import dataclasses
import functools
import platform
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import torch
import yaml
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from pydantic import ValidationError

from tests.evaluation.tiny import make_folders, make_tables
from tests.evidenced import check_evidence
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.datasets import JsonDataset, TableDataset
from umt_pipeline.evaluation import feature_cache
from umt_pipeline.evaluation.compare import compare_records
from umt_pipeline.evaluation.loading import ModelFolders, load_models
from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.evaluation.params import AttentiveConfig, EvaluationParams
from umt_pipeline.evaluation.records import Record
from umt_pipeline.evaluation.suite import evaluate
from umt_pipeline.evaluation.tables import Tables
from umt_pipeline.pipelines.evaluation import create_pipeline

PARAMS = EvaluationParams(
    tasks=("shape", "colour", "motion"), retrieval_sets=("test", "test_motion", "nowhere"), rerank_k=2, batch_size=4,
    workers=1, examples=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return make_tables(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def folders(tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> ModelFolders:
    return make_folders(tmp_path_factory.mktemp("models"), tables)


SAVED = ("metrics", "records", "evaluation_times")


def run(tables: Tables, folders: ModelFolders, results: Path, *, report: bool = False) -> dict[str, Any]:
    history = pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0], "lr": [0.1, 0.0]})
    data: dict[str, Any] = {
        "params:evaluation": PARAMS,
        "params:seed": 0,
        "parameters": {"seed": 0, "evaluation": PARAMS},
        "raw_media": tables.media_root,
        "videos": tables.videos.assign(duration_s=1.0, fps=10.0, size_bytes=1000, container="mp4", codec="h264"),
        "captions": tables.captions,
        "labels": tables.labels,
        "teacher": folders.teacher,
        "feature_store": folders.feature_store,
        "stage1_model": folders.stage1,
        "stage2_model": folders.stage2,
        "stage2_control_model": folders.control,
        "workspace": results,
        "rejects": pd.DataFrame(columns=["table", "row", "video", "reason", "detail"]),
        "ingestion_report": {},
        "feature_report": {},
    }
    for stage in ("teacher", "stage1", "stage2"):
        data |= {f"{stage}_history": history, f"{stage}_metrics": {"loss": 1.0}}
    # As where the files of times are not there.
    data |= {name: {} for name in ("teacher_features_times", "stage1_times", "stage2_times")}
    data["stage2_control_history"] = history
    catalog = DataCatalog({name: MemoryDataset(value, copy_mode="assign") for name, value in data.items()})
    for name in SAVED:
        catalog[name] = JsonDataset(filepath=str(results / f"{name}.json"))
    catalog["evaluation_evidence"] = TableDataset(str(results / "evaluation_evidence.parquet"))
    pipeline = create_pipeline() if report else create_pipeline().filter(to_nodes=["evaluate_models"])
    outputs = SequentialRunner().run(pipeline, catalog)
    return {name: catalog[name].load() for name in (*SAVED, "evaluation_evidence")} | {
        name: dataset.load() for name, dataset in outputs.items() if name in ("report", "headline", "evaluation_numbers")
    }


@pytest.fixture(scope="module")
def result(tables: Tables, folders: ModelFolders, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(tables, folders, tmp_path_factory.mktemp("results"), report=True)


def test_what_was_evaluated_is_not_evaluated_again(
    tables: Tables, folders: ModelFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tables, folders, tmp_path)
    evidence = first.pop("evaluation_evidence")

    def no_evaluation(*_: object) -> None:
        raise AssertionError("nothing changed")

    monkeypatch.setattr("umt_pipeline.pipelines.evaluation.nodes.evaluate", no_evaluation)
    again = run(tables, folders, tmp_path)
    pd.testing.assert_frame_equal(again.pop("evaluation_evidence"), evidence)
    assert again == first
    other = Tables(tables.videos, tables.captions.iloc[1:], tables.labels, tables.media_root)
    with pytest.raises(AssertionError, match="nothing changed"):
        run(other, folders, tmp_path)


def test_every_number_is_there(result: dict[str, Any]) -> None:
    encoders = ("teacher_cls", "teacher_patch", "untrained", "stage1", "stage2")
    systems = ("teacher/dual", "teacher/dsl", *(f"{model}/{score}" for model in ("stage2", "control")
               for score in ("dual", "dsl", "reranked")))  # fmt: skip
    columns = [f"{way}_{name}" for way in ("t2v", "v2t") for name in ("r1", "r5", "r10", "medr", "meanr")]
    expected = {f"probe/{kind}/{task}/{encoder}" for kind in ("knn", "linear") for task in ("shape", "motion")
                for encoder in encoders}  # fmt: skip
    for name in ("test", "test_motion"):
        expected |= {f"retrieval/{name}/{system}/{column}" for system in systems for column in columns}
        expected |= {f"agreement/{name}/{system.replace('/', '_')}/{task}" for system in systems
                     for task in ("shape", "motion")}  # fmt: skip
    assert set(result["metrics"]) == expected
    assert all(value >= 0 for value in result["metrics"].values())


def test_every_number_follows_from_what_was_found_item_by_item(result: dict[str, Any], tables: Tables) -> None:
    evidence = result["evaluation_evidence"]
    check_evidence(evidence, result["records"])
    agreement = evidence[evidence["task"] == "agreement/test/stage2_dual/shape"]
    queries = evidence[evidence["task"].eq("retrieval/test/stage2/dual") & evidence["metric"].eq("t2v_rank")]
    assert agreement["item"].tolist() == queries["item"].tolist()
    assert agreement["answer"].tolist() == [tables.label_of("shape")[clip] for clip in queries["answer"]]
    probe = evidence[evidence["task"] == "probe/linear/motion/stage1"]
    assert probe["item"].tolist() == tables.clips("test")
    assert (probe["value"].eq(1) == probe["answer"].eq(probe["truth"])).all()


def test_every_number_carries_its_protocol(result: dict[str, Any]) -> None:
    records = {record["task"]: Record.model_validate(record) for record in result["records"]}
    reranked = records["retrieval/test/stage2/reranked"].protocol
    assert reranked is not None
    assert (reranked.split, reranked.clips, reranked.queries, reranked.frames, reranked.resolution) == (
        "test",
        4,
        4,
        2,
        32,
    )
    assert (reranked.k, reranked.score_type, reranked.caption, reranked.views) == (2, "reranked", "first", 1)
    assert reranked.checkpoint_sha256 is not None
    assert len({reranked.checkpoint_sha256, reranked.annotation_sha256}) == 2
    untrained = records["probe/knn/shape/untrained"].protocol
    assert untrained is not None
    assert (untrained.checkpoint_sha256, untrained.seed, untrained.pool) == (None, 0, "clip")
    assert (untrained.settings["k"], untrained.chosen["k"]) == ("1, 5, 10, 20", 1)
    for name in ("teacher", "stage2", "control"):
        dual, dsl = (records[f"retrieval/test/{name}/{score}"].protocol for score in ("dual", "dsl"))
        assert dual is not None
        assert dsl is not None
        assert (dual.pool, dual.score_type, dual.other_queries) == ("clip", "dual", False)
        assert (dsl.pool, dsl.score_type, dsl.other_queries) == ("clip", "dsl", True)
        assert dsl.settings["dsl_temperature"] == "the model's own"
        assert dsl.chosen["dsl_temperature"] == pytest.approx(0.07, rel=1e-3)
        assert "dsl_temperature" not in dual.chosen
    assert {(one.protocol.processor, one.protocol.threads) for one in records.values() if one.protocol} == {
        (f"{platform.machine()} {torch.backends.cpu.get_cpu_capability().lower()}", torch.get_num_threads())
    }
    costs = result["evaluation_times"]["reranking"]
    assert set(costs) == {f"retrieval/{name}/{model}/reranked" for name in ("test", "test_motion")
                          for model in ("stage2", "control")}  # fmt: skip
    assert all(0 < cost["pairs"] <= 16 and cost["seconds"] > 0 for cost in costs.values())
    control = records["agreement/test/control_dual/motion"].protocol
    assert control is not None
    assert control.model == "control"
    notes = {task: record.note for task, record in records.items() if record.note}
    assert set(notes) == {"probe/colour", "retrieval/nowhere"}
    assert "motion, shape" in notes["probe/colour"]


def test_the_report_shows_it(result: dict[str, Any]) -> None:
    page = result["report"]
    HTMLParser().feed(page)
    assert "retrieval/nowhere" in page
    assert "data:image" in page


def test_the_same_again(tables: Tables, folders: ModelFolders, result: dict[str, Any], tmp_path: Path) -> None:
    again = run(tables, folders, tmp_path)
    assert again["records"] == result["records"]
    assert again["metrics"] == result["metrics"]


def test_a_few_numbers_are_the_headline_and_git_has_them_all(result: dict[str, Any]) -> None:
    metrics, linear = result["metrics"], "probe/linear/{}/stage1"
    mean = (metrics[linear.format("shape")] + metrics[linear.format("motion")]) / 2
    assert result["headline"]["s1_probe"] == pytest.approx(mean, abs=1e-3)
    assert result["headline"]["r1_test"] == pytest.approx(metrics["retrieval/test/stage2/dual/t2v_r1"], abs=1e-3)
    found = {"s1_probe", "s2_probe", "r1_test", "r1_test_motion"}
    assert set(result["headline"]) == found, "nothing of what is not there"
    assert result["evaluation_numbers"]["name"].tolist() == sorted(metrics)


def test_pooling_by_frame_reaches_every_system(tables: Tables, folders: ModelFolders, tmp_path: Path) -> None:
    params = PARAMS.model_copy(update={"pool": "frame", "dsl_temperature": 0.5, "tasks": (), "retrieval_sets": ("test",)})
    found = evaluate(params, 0, tables, functools.partial(load_models, folders, 0, "fp32"), tmp_path)
    protocols = {record.task: record.protocol for record in found.records}
    assert len(protocols) == 8
    for protocol in protocols.values():
        assert protocol is not None
        assert protocol.pool == "frame"
        if protocol.score_type == "dsl":
            assert protocol.settings["dsl_temperature"] == protocol.chosen["dsl_temperature"] == 0.5


def test_another_text_length_is_in_the_protocol_and_warned_of(tables: Tables, folders: ModelFolders, tmp_path: Path) -> None:
    load = functools.partial(load_models, folders, 0, "fp32")
    base = PARAMS.model_copy(update={"tasks": (), "retrieval_sets": ("test",)})
    found = [
        evaluate(base.model_copy(update={"text_length": length}), 0, tables, load, tmp_path).records for length in (None, 12, 4)
    ]
    lengths = [{record.protocol.settings.get("text_length") for record in part if record.protocol} for part in found]
    assert lengths == [{None, 12}, {None, 12}, {None, 4}], "none for the teacher, which has its own"
    assert compare_records(found[0], found[1]).warnings == (), "null is the model's own"
    (warning,) = compare_records(found[0], found[2]).warnings
    assert warning.startswith("text length is 12 in the first run, 4 in the second (retrieval/test/stage2/dual")
    with pytest.raises(EvaluationError, match=r"text_length is 13, but the model 'stage2' has 12 positions for tokens"):
        evaluate(base.model_copy(update={"text_length": 13}), 0, tables, load, tmp_path)


def test_the_weight_of_re_ranking_is_chosen_on_validation_and_said(
    tables: Tables, folders: ModelFolders, tmp_path: Path
) -> None:
    load = functools.partial(load_models, folders, 0, "fp32")
    base = PARAMS.model_copy(update={"tasks": ()})
    found = {
        rule: evaluate(base.model_copy(update={"rerank_weight": rule}), 0, tables, load, tmp_path)
        for rule in ("match", "validation", 0.0, 0.5)
    }
    protocols = {
        rule: {record.task: record.protocol for record in part.records if record.protocol} for rule, part in found.items()
    }
    for model in ("stage2", "control"):
        weights = set()
        for name in ("test", "test_motion"):
            task, dual = f"retrieval/{name}/{model}/reranked", f"retrieval/{name}/{model}/dual"
            protocol = protocols["validation"][task]
            assert (protocol.settings["rerank_weight"], protocol.settings["validation_split"]) == ("validation", "validation")
            assert protocol.settings["validation_queries"] == 4, "two clips and their texts"
            assert protocol.chosen["rerank_temperature"] == pytest.approx(0.07, rel=1e-3)
            assert 0 <= protocol.chosen["validation_r1"] <= 100
            assert protocol.annotation_sha256 != protocols["validation"][dual].annotation_sha256, "of both splits"
            weights.add(protocol.chosen["rerank_weight"])
            published = protocols["match"][task]
            assert (published.settings["rerank_weight"], published.chosen) == ("match", {})
            assert published.annotation_sha256 == protocols["match"][dual].annotation_sha256
            assert protocols[0.5][task].settings["rerank_weight"] == protocols[0.5][task].chosen["rerank_weight"] == 0.5
            for column in ("t2v_r1", "v2t_r1", "t2v_meanr", "v2t_meanr"):
                assert found[0.0].metrics[f"{task}/{column}"] == found["match"].metrics[f"{dual}/{column}"]
        assert len(weights) == 1, "one for all sets"
    assert set(found["validation"].costs) - set(found["match"].costs) == {
        f"retrieval/validation/{model}/reranked" for model in ("stage2", "control")
    }
    warnings = compare_records(found["match"].records, found["validation"].records).warnings
    assert any(warning.startswith("rerank weight is match in the first run, validation in the second") for warning in warnings)


def test_a_weight_cannot_be_chosen_without_captions_or_on_what_is_reported(
    tables: Tables, folders: ModelFolders, tmp_path: Path
) -> None:
    params = PARAMS.model_copy(update={"rerank_weight": "validation", "tasks": ()})
    silent = tables.captions[~tables.captions["video_id"].isin(tables.clips("validation"))]
    own = dataclasses.replace(tables, captions=silent)

    def load() -> Any:
        raise AssertionError("before anything is loaded")

    asked = r"`evaluation\.rerank_weight` is `validation`, but "
    with pytest.raises(ConfigError, match=asked + ".*none of its 2 clips has a caption"):
        evaluate(params, 0, own, load, tmp_path)
    for splits in ({"retrieval_sets": ["test", "validation"]}, {"validation_split": "train"}):
        with pytest.raises(ValidationError, match=r"chooses on `validation_split`, .*which is trained on or reported on"):
            EvaluationParams.model_validate({"rerank_weight": "validation", **splits})
    for odd in (1.5, "best"):
        with pytest.raises(ValidationError, match="rerank_weight"):
            EvaluationParams.model_validate({"rerank_weight": odd})
    unread = dataclasses.replace(tables, media_root=tmp_path)
    with pytest.raises(ConfigError, match=asked + ".*none of its 2 clips could be read"):
        evaluate(params, 0, unread, functools.partial(load_models, folders, 0, "fp32"), tmp_path / "features")


def test_without_control_labels_and_validation(tables: Tables, tmp_path: Path) -> None:
    videos = tables.videos.assign(split=tables.videos["split"].replace({"validation": "train", "test_motion": "train"}))
    own = dataclasses.replace(tables, videos=videos, labels=tables.labels.iloc[:0])
    folders = make_folders(tmp_path, own, control=False)
    bare = run(own, folders, tmp_path)
    assert {key.split("/")[0] for key in bare["metrics"]} == {"retrieval"}
    assert not any("control" in key for key in bare["metrics"])
    notes = {record["task"]: record["note"] for record in bare["records"] if record["note"]}
    assert set(notes) == {"retrieval/control", "probe/shape", "probe/colour", "probe/motion", "retrieval/test_motion",
                          "retrieval/nowhere"}  # fmt: skip
    assert "stage2.control is false" in notes["retrieval/control"]
    labelled = run(dataclasses.replace(own, labels=tables.labels), folders, tmp_path)
    records = {record["task"]: record for record in labelled["records"]}
    assert "no validation clip" in records["probe/linear/shape/stage1"]["note"]
    assert records["probe/linear/shape/stage1"]["values"]


def test_a_teacher_without_text_is_probed_but_not_searched(tables: Tables, tmp_path: Path) -> None:
    folders = make_folders(tmp_path, tables)
    shutil.rmtree(folders.teacher)
    timm.models.save_for_hf(timm.create_model("test_vit2", num_classes=0), str(folders.teacher), safe_serialization=True)
    found = run(tables, folders, tmp_path, report=True)
    assert {key for key in found["metrics"] if "teacher" in key} == {
        f"probe/{kind}/{task}/{feature}"
        for kind in ("knn", "linear") for task in ("shape", "motion") for feature in ("teacher_cls", "teacher_patch")
    }  # fmt: skip
    assert "retrieval/test/stage2/dual/t2v_r1" in found["metrics"]
    notes = {record["task"]: record["note"] for record in found["records"] if record["note"]}
    assert set(notes) == {"probe/colour", "retrieval/nowhere", "retrieval/test/teacher/dual",
                          "retrieval/test_motion/teacher/dual"}  # fmt: skip
    assert "has no text tower" in notes["retrieval/test/teacher/dual"]
    assert "has no text tower" in found["report"]


def test_probes_on_fewer_training_clips(tables: Tables, folders: ModelFolders, tmp_path: Path) -> None:
    params = PARAMS.model_copy(update={"max_train_clips": 3, "retrieval_sets": ()})
    result = evaluate(params, 0, tables, functools.partial(load_models, folders, 0, "fp32"), tmp_path)
    protocol = next(record.protocol for record in result.records if record.task == "probe/knn/shape/stage1")
    assert protocol is not None
    assert protocol.settings["train_clips"] == 3
    assert protocol.settings["validation_clips"] == 2


def test_attentive_probes_of_every_encoder_that_has_tokens(tables: Tables, folders: ModelFolders, tmp_path: Path) -> None:
    attentive = AttentiveConfig(lr=(0.01, 0.001), heads=2, epochs=2, batch_size=4)
    params = PARAMS.model_copy(update={"attentive": attentive, "tasks": ("shape",), "retrieval_sets": ()})
    result = evaluate(params, 0, tables, functools.partial(load_models, folders, 0, "fp32"), tmp_path)
    found = {record.task: record.protocol for record in result.records if "attentive" in record.task}
    assert set(found) == {f"probe/attentive/shape/{name}" for name in ("teacher_cls", "untrained", "stage1", "stage2")}
    for protocol in found.values():
        assert protocol is not None
        assert protocol.pool == "tokens"
        assert (protocol.settings["lr"], protocol.settings["train_clips"], protocol.settings["heads"]) == ("0.01, 0.001", 5, 2)
        assert protocol.chosen["lr"] in (0.01, 0.001)
        assert protocol.chosen["validation_accuracy"] is not None
    again = evaluate(params, 0, tables, functools.partial(load_models, folders, 0, "fp32"), tmp_path)
    assert again.metrics == result.metrics


def test_another_scoring_reads_the_features_of_the_run_before(tables: Tables, folders: ModelFolders, tmp_path: Path) -> None:
    load = functools.partial(load_models, folders, 0, "fp32")
    first = evaluate(PARAMS, 0, tables, load, tmp_path / "kept")
    kept = sorted((tmp_path / "kept").iterdir())
    (tmp_path / "kept" / "stage2-of-another-run").mkdir()
    no_media = dataclasses.replace(tables, media_root=tmp_path / "nowhere")
    again = evaluate(PARAMS, 0, no_media, load, tmp_path / "kept")
    assert again.metrics == first.metrics
    changed = PARAMS.model_copy(update={"rerank_k": 3, "dsl_temperature": 0.5, "caption": "all"})
    other = evaluate(changed, 0, no_media, load, tmp_path / "kept")
    protocols = [record.protocol for record in other.records if record.protocol and record.protocol.score_type == "reranked"]
    assert {protocol.k for protocol in protocols} == {3}
    assert not any(record.protocol.failures for record in other.records if record.protocol)
    assert sorted((tmp_path / "kept").iterdir()) == kept


@pytest.mark.slow
def test_two_processes_measure_the_same_as_one(
    tables: Tables, folders: ModelFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "_SHARD_CLIPS", 4)  # so that there is a shard for each
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    load = functools.partial(load_models, folders, 0, "fp32")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as each of two has; sums over more threads are rounded elsewhere
    one = evaluate(PARAMS, 0, tables, load, tmp_path / "one")
    torch.set_num_threads(threads)
    two = evaluate(PARAMS.model_copy(update={"nproc": 2}), 0, tables, load, tmp_path / "two")
    assert two.metrics == one.metrics
    for file in (tmp_path / "one").rglob("*.safetensors"):
        assert (tmp_path / "two" / file.relative_to(tmp_path / "one")).read_bytes() == file.read_bytes()


def test_the_parameter_file_is_what_the_node_takes(root: Path) -> None:
    content = yaml.safe_load((root / "conf" / "base" / "parameters_evaluation.yml").read_text())
    params = EvaluationParams.model_validate(content["evaluation"])
    assert params.model_dump(mode="json") == content["evaluation"]  # every key is there to be seen


def test_a_test_clip_that_fails_counts_as_wrong(tables: Tables, folders: ModelFolders, tmp_path: Path) -> None:
    for path in tables.videos["path"]:
        (tmp_path / path).symlink_to(tables.media_root / path)
    tested = tables.clips("test")
    for video_id in tested[1:]:
        (tmp_path / f"{video_id}.mp4").unlink()
    found = run(dataclasses.replace(tables, media_root=tmp_path), folders, tmp_path / "results")
    records = {record["task"]: record for record in found["records"]}
    for task in ("probe/knn/shape/stage1", "retrieval/test/stage2/dual", "agreement/test/teacher_dual/shape"):
        assert records[task]["protocol"]["failures"] == tested[1:]
        assert records[task]["protocol"]["clips"] == 4
    check_evidence(found["evaluation_evidence"], found["records"])
    unread = found["evaluation_evidence"][found["evaluation_evidence"]["video"].isin(tested[1:])]
    assert unread.loc[unread["task"].str.startswith("probe/"), "answer"].isna().all()
    assert not unread.loc[unread["metric"] == "correct", "value"].any()
    assert found["metrics"]["retrieval/test/stage2/dual/t2v_r1"] == 25.0
    assert found["metrics"]["agreement/test/teacher_dual/shape"] == 25.0
    assert found["metrics"]["probe/linear/shape/stage1"] <= 25.0
