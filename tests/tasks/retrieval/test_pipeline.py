"""The retrieval pipeline on a tiny world: both models are searched and recorded, and what is refused before training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from pydantic import ValidationError

from tests.evaluation.tiny import VISION, make_tables, make_video_text
from tests.evidenced import check_evidence
from tests.tasks.running import run_task
from umt_pipeline.core.errors import CheckpointError, ConfigError
from umt_pipeline.data.mapped import MappedTable
from umt_pipeline.evaluation.compare import compare_records
from umt_pipeline.evaluation.records import Record
from umt_pipeline.models.folders import save_model, weights_sha256
from umt_pipeline.models.student import KIND, StudentConfig, untrained_student
from umt_pipeline.models.video_text import load_video_text
from umt_pipeline.tasks.retrieval.params import RetrievalParams
from umt_pipeline.tasks.retrieval.task import TASK, RetrievalData

SPLITS = ("train",) * 5 + ("test",) * 3 + ("test_motion",) * 3 + ("validation",) * 3
LOOP = {"steps": 2, "batch_size": 4, "lr": 1e-3, "device": "cpu", "log_every": 1}
VIEW = {"frames": 4, "size": 32, "flip": False}


def params(test: dict[str, Any] | None = None, tuning: dict[str, Any] | None = None, **changes: Any) -> RetrievalParams:
    values = {
        "fine_tuning": {"view": VIEW, "max_length": 8, "train": LOOP, **(tuning or {})},
        "test": {"sets": ["test", "test_motion"], "rerank_k": 2, "workers": 1, **(test or {})},
    }
    return RetrievalParams.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("retrieval")
    tables = make_tables(folder / "media", SPLITS)
    (folder / "stage2").mkdir()
    make_video_text(folder / "stage2", tables, seed=2)
    return {
        "videos": tables.videos,
        "captions": tables.captions,
        "raw_media": tables.media_root,
        "stage2_model": folder / "stage2",
        "workspace": folder / "workspace",
    }


def run(settings: RetrievalParams, world: dict[str, Any]) -> dict[str, Any]:
    tables = {name: value for name, value in world.items() if name != "workspace"}
    return run_task(TASK, settings, tables, world["workspace"])


@pytest.fixture(scope="module")
def result(world: dict[str, Any]) -> dict[str, Any]:
    return run(params(), world)


def gather(settings: RetrievalParams, world: dict[str, Any], **changes: Any) -> RetrievalData:
    return TASK.gather(settings, {**world, **changes}, world["workspace"])


def test_both_models_are_searched_in_both_directions_and_recorded(world: dict[str, Any], result: dict[str, Any]) -> None:
    records = {record["task"]: Record.model_validate(record) for record in result["records"]}
    scores = ("dual", "dsl", "reranked")
    assert list(records) == [
        f"retrieval/{name}/{model}/{score}"
        for name in ("test", "test_motion") for model in ("zero_shot", "fine_tuned") for score in scores
    ]  # fmt: skip
    columns = {f"{way}_{name}" for way in ("t2v", "v2t") for name in ("r1", "r5", "r10", "medr", "meanr")}
    for task, record in records.items():
        _, name, model, score = task.split("/")
        protocol = record.protocol
        assert protocol is not None
        assert set(record.values) == columns
        assert record.values == result["metrics"]["test"][name][model][score]
        expected = (2, "stage2_model") if model == "zero_shot" else (4, None)
        folder = world["stage2_model"] if expected[1] else result["model"]
        assert (protocol.split, protocol.clips, protocol.queries, protocol.frames) == (name, 3, 3, expected[0])
        assert (protocol.checkpoint_sha256, protocol.score_type) == (weights_sha256(folder), score)
        assert protocol.k == (2 if score == "reranked" else None)
        assert protocol.settings["text_length"] == (12 if model == "zero_shot" else 8)
        assert protocol.processor
        assert protocol.threads
    check_evidence(result["evidence"], result["records"])
    costs = result["times"]["test"]["reranking"]
    assert set(costs) == {task for task in records if task.endswith("reranked")}
    assert all(0 < cost["pairs"] <= 9 and cost["seconds"] > 0 for cost in costs.values())
    assert result["metrics"]["training"]["fine_tuned"]["steps"] == 2
    assert result["times"]["training"]["fine_tuned"]["median_mfu"] > 0
    found = [record.values["t2v_r1"] for task, record in records.items() if task.endswith("fine_tuned/dual")]
    assert result["headline"] == {"ft_r1": pytest.approx(sum(found) / 2, abs=1e-3)}
    assert result["report"].count("Fine-tuned, re-ranked<br>") == 6, "three queries of each set, with what was found"
    assert {"contrastive", "matching", "temperature"} <= set(result["history"])
    assert not {"masked_language", "alignment"} & set(result["history"])


def test_the_fine_tuned_model_reads_clips_and_texts_as_it_was_trained(world: dict[str, Any], result: dict[str, Any]) -> None:
    model, tokenizer = load_video_text(result["model"])
    vision = model.config.vision
    assert (vision.frames, vision.position_frames, vision.drop_path, tokenizer.model_max_length) == (4, 2, 0.0, 8)
    before, _ = load_video_text(world["stage2_model"])
    state = before.state_dict()
    changed = {name for name, tensor in model.state_dict().items() if not tensor.equal(state[name])}
    assert {"temp", "match_head.weight", "vision_proj.weight", "text_proj.weight"} <= changed
    assert not any("mlm" in name for name in changed), "no objective trains it"


def test_other_text_lengths_make_other_records(world: dict[str, Any], result: dict[str, Any]) -> None:
    runs = result, run(params(test={"text_length": 5}), world)
    first, second = ([Record.model_validate(record) for record in found["records"]] for found in runs)
    warnings = compare_records(first, second).warnings
    assert [warning.partition(" (")[0] for warning in warnings] == [
        "text length is 12 in the first run, 5 in the second", "text length is 8 in the first run, 5 in the second"
    ]  # fmt: skip
    same = run(params(test={"text_length": 8}, tuning={"view": {**VIEW, "frames": 2}}), world)["records"]
    assert {record["protocol"]["settings"]["text_length"] for record in same} == {8}, "whatever each was trained with"


@pytest.mark.slow
def test_another_search_reads_the_features_of_the_one_before_in_any_number_of_processes(
    world: dict[str, Any], result: dict[str, Any], tmp_path: Path
) -> None:
    data = gather(params(), world)
    gone = dataclasses.replace(data, media=tmp_path / "nowhere")

    def search_again(test: dict[str, Any], retrieval_data: RetrievalData) -> list[dict[str, Any]]:
        models = {"fine_tuned": result["model"]}
        found = TASK.test(params(test=test), 0, retrieval_data, models, tmp_path)
        return [record.model_dump(mode="json") for record in found.records]

    first = search_again({"nproc": 2}, data)
    assert [record["values"] for record in first] == [record["values"] for record in result["records"]]
    one = search_again({}, gone)
    assert [(record["values"], record["protocol"]) for record in one] == [(r["values"], r["protocol"]) for r in first]
    assert {record["protocol"]["k"] for record in search_again({"rerank_k": 1}, gone)} == {None, 1}


def test_each_model_has_the_weight_that_finds_most_on_validation(world: dict[str, Any], result: dict[str, Any]) -> None:
    found = run(params(test={"rerank_weight": "validation"}), world)
    records = {record["task"]: record["protocol"] for record in found["records"]}
    for model in ("zero_shot", "fine_tuned"):
        of_sets = [records[f"retrieval/{name}/{model}/reranked"] for name in ("test", "test_motion")]
        for protocol in of_sets:
            assert protocol["settings"]["rerank_weight"] == "validation"
            assert protocol["settings"]["validation_queries"] == 6
        assert len({protocol["chosen"]["rerank_weight"] for protocol in of_sets}) == 1
        assert f"retrieval/validation/{model}/reranked" in found["times"]["test"]["reranking"]
    assert found["metrics"]["test"]["test"]["fine_tuned"]["dual"] == result["metrics"]["test"]["test"]["fine_tuned"]["dual"]
    assert "validation" not in found["metrics"]["test"]


def test_all_captions_may_ask(world: dict[str, Any]) -> None:
    found = run(params(test={"caption": "all", "sets": ["test"]}), world)
    for record in found["records"]:
        assert (record["protocol"]["queries"], record["protocol"]["caption"]) == (6, "all")


def test_clips_that_cannot_be_read_count_as_wrong(world: dict[str, Any], tmp_path: Path) -> None:
    for path in world["raw_media"].iterdir():
        (tmp_path / path.name).symlink_to(path)
    clips = world["videos"][world["videos"]["media"] == "video"].set_index("path")["split"]
    tested = [path for path, split in clips.items() if split == "test"]
    for path in [*tested[1:], *(path for path, split in clips.items() if split == "test_motion")]:
        (tmp_path / path).unlink()
    found = run(params(), {**world, "raw_media": tmp_path, "workspace": tmp_path / "workspace"})
    records = {record["task"]: record for record in found["records"]}
    assert records["retrieval/test_motion"]["note"].endswith("none of its 3 clips could be read")
    assert "none of its 3 clips could be read." in found["report"]
    assert set(found["metrics"]["test"]) == {"test"}
    for task in ("retrieval/test/zero_shot/dual", "retrieval/test/fine_tuned/reranked"):
        assert records[task]["values"]["t2v_r1"] == pytest.approx(100 / 3)
        assert len(records[task]["protocol"]["failures"]) == 2


def test_images_and_other_splits_are_not_trained_on(world: dict[str, Any]) -> None:
    data = gather(params(), world)
    assert MappedTable(data.train.samples).values("video_id").to_pylist() == [f"clip{number}" for number in range(5)]
    assert len(MappedTable(data.train.captions)) == 10
    with pytest.raises(ConfigError, match=r"retrieval\.fine_tuning\.corpora names films, .*split 'train' has tiny"):
        gather(params(tuning={"corpora": {"films": 2.0}}), world)


def test_null_is_the_length_that_the_start_model_was_trained_with(world: dict[str, Any]) -> None:
    assert gather(params(tuning={"max_length": None}), world).train.max_length == 12, "no more than it has positions"


def test_refused_before_anything_is_trained(world: dict[str, Any], tmp_path: Path) -> None:
    videos, captions = world["videos"], world["captions"]
    training = set(videos.loc[videos["split"] == "train", "video_id"])
    with pytest.raises(ConfigError, match=r"retrieval\.fine_tuning: none of the media of split 'train' has a caption"):
        gather(params(), world, captions=captions[~captions["video_id"].isin(training)])
    with pytest.raises(ConfigError, match=r"set 'later': no clip has this split, so there is no query\. Name another"):
        gather(params(test={"sets": ["test", "later"]}), world)
    with pytest.raises(ConfigError, match=r"set 'test': none of its 3 clips has a caption, so there is no query"):
        gather(params(), world, captions=captions[captions["video_id"].isin(training)])
    silent = captions[~captions["video_id"].isin(videos.loc[videos["split"] == "validation", "video_id"])]
    with pytest.raises(ConfigError, match=r"`retrieval\.test\.rerank_weight` is `validation`, but .*none of its 3 clips has a"):
        gather(params(test={"rerank_weight": "validation"}), world, captions=silent)
    with pytest.raises(ConfigError, match=r"test\.text_length is 13, but the model in .*stage2 has 12 positions"):
        gather(params(test={"text_length": 13}), world)
    with pytest.raises(ConfigError, match=r"fine_tuning\.max_length is 13, but the start model has 12 positions"):
        gather(params(tuning={"max_length": 13}), world)
    with pytest.raises(ConfigError, match=r"clips of 36 pixels \(view\.size .* patches of 8 pixels"):
        gather(params(tuning={"view": {**VIEW, "size": 36}}), world)
    student = untrained_student(StudentConfig(vision=VISION, align_layers=1, target_dim=16), seed=1)
    save_model(tmp_path, student, student.config, KIND)
    with pytest.raises(CheckpointError, match=r"of kind 'umt_student', expected 'umt_video_text'"):
        gather(params(), world, stage2_model=tmp_path)


def test_settings_that_are_refused() -> None:
    with pytest.raises(ValidationError, match="a test is of other videos"):
        params(test={"sets": ["train"]})
    with pytest.raises(ValidationError, match="chooses on `validation_split`, 'test_motion', which is trained on or reported"):
        params(test={"rerank_weight": "validation", "validation_split": "test_motion"})
    with pytest.raises(ValidationError, match="names one more than once: test, test"):
        params(test={"sets": ["test", "test"]})
    with pytest.raises(ValidationError, match="expected contrastive or matching with a weight above 0"):
        params(tuning={"weights": {"contrastive": 0.0, "matching": 0.0}})
    with pytest.raises(ValidationError, match=r"corpora\.films\s+Input should be greater than or equal to 0"):
        params(tuning={"corpora": {"films": -1.0}})


def test_the_parameter_file_names_everything(root: Path) -> None:
    content = yaml.safe_load((root / "conf" / "base" / "parameters_retrieval.yml").read_text(encoding="utf-8"))["retrieval"]
    found = RetrievalParams.model_validate(content).model_dump(mode="json")
    assert found["test"] == content["test"]
    for part in ("view", "weights"):
        assert found["fine_tuning"][part] == content["fine_tuning"][part]
    assert set(found["fine_tuning"]) == set(content["fine_tuning"])


def test_a_caption_of_another_video_is_no_query(world: dict[str, Any]) -> None:
    """A query always has a ground truth: captions of videos outside a set, and images, are not asked."""
    stray = pd.DataFrame([[99, "nobody", "a lonely star"]], columns=["caption_id", "video_id", "caption"])
    data = gather(params(test={"caption": "all"}), world, captions=pd.concat([world["captions"], stray]))
    for found in data.sets.values():
        assert found.truth_UC[found.query_text_Q].any(axis=1).all()
        assert "a lonely star" not in found.texts
        assert not any("still" in text for text in found.texts)
