"""`umt update`: known files keep their split and their name, whatever comes, goes, moves or changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.tables.test_webdataset import write_shard
from umt_pipeline.commands.corpus import Corpus, edited, existing_corpus
from umt_pipeline.commands.init import Given, init_corpus, scan
from umt_pipeline.commands.media_hashes import HashCache
from umt_pipeline.commands.splits import read_splits
from umt_pipeline.commands.status import folder_news
from umt_pipeline.commands.update import Renames, compare_manifests, update_corpus, updated_videos
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.tables.folders import FolderTables


def manifest(**hashes: str) -> pd.DataFrame:
    return pd.DataFrame({"video": [f"{name}.mp4" for name in hashes], "sha256": list(hashes.values())}, dtype=str)


def test_changes_between_two_lists_of_hashes() -> None:
    changes = compare_manifests(manifest(a="1", b="2", c="3", d="4"), manifest(a="1", b="9", e="3", f="4", g="4", h="8"))
    assert changes.changed == ["b.mp4"]
    assert changes.moved == {"c.mp4": "e.mp4", "d.mp4": "f.mp4"}
    assert changes.new == ["g.mp4", "h.mp4"], "of two copies one is the old file, moved"
    assert changes.vanished == []
    assert compare_manifests(manifest(a="1"), manifest(a="1", b="1")).new == ["b.mp4"], "a copy is no move"
    lost = compare_manifests(manifest(a=""), manifest(b=""))
    assert (lost.new, lost.vanished) == (["b.mp4"], ["a.mp4"]), "what cannot be read is not known by its content"


def test_known_rows_stay_as_they_are() -> None:
    videos = pd.DataFrame(
        {"video": ["a.mp4", "b.mp4", "c.mp4"], "split": ["test", "train", "test"], "video_id": ["a", "b", "c"], "by": ["x"] * 3}
    )
    changes = compare_manifests(manifest(a="1", b="2", c="3"), manifest(c="1", b="5", a="6"))
    assert changes.changed == ["a.mp4", "b.mp4", "c.mp4"]
    changes = compare_manifests(manifest(a="1", b="2", c="3"), manifest(b="5", d="1", a2="7"))
    assign, _ = read_splits("0,0,100")
    after = updated_videos(videos, changes, assign)
    assert after.to_dict("records") == [
        {"video": "d.mp4", "split": "test", "video_id": "a", "by": "x"},
        {"video": "b.mp4", "split": "train", "video_id": "b", "by": "x"},
        {"video": "a2.mp4", "split": "test", "video_id": "a2", "by": ""},
    ]
    pd.testing.assert_frame_equal(updated_videos(after, changes, assign), after)
    # A new file where a moved one was takes another name than that one has kept.
    again = compare_manifests(manifest(d="1"), manifest(d="1", a="8"))
    assert updated_videos(after, again, assign)["video_id"].tolist() == ["a", "b", "a2", "a.mp4"]


def test_files_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_text("one")
    (tmp_path / "b.mp4").write_text("two")
    os.utime(tmp_path / "a.mp4", (1e9, 1e9))
    first = HashCache(tmp_path / "cache.jsonl").table(tmp_path, ["a.mp4", "b.mp4"])
    with (tmp_path / "cache.jsonl").open("a") as log:
        log.write('["b.mp4", 3')  # a kill
    (tmp_path / "b.mp4").write_text("three")
    os.utime(tmp_path / "b.mp4", (1e9, 1e9))
    read: list[str] = []
    monkeypatch.setattr(
        "umt_pipeline.commands.media_hashes.sha256_file", lambda path: read.append(path.name) or "f" * 64
    )
    again = HashCache(tmp_path / "cache.jsonl").table(tmp_path, ["a.mp4", "b.mp4"])
    assert read == ["b.mp4"]
    assert again["sha256"].tolist() == [first["sha256"][0], "f" * 64]
    assert HashCache(tmp_path / "cache.jsonl").known(tmp_path, "b.mp4") == "f" * 64


def test_a_file_that_changed_just_now_is_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_text("one")
    time = (tmp_path / "a.mp4").stat().st_mtime_ns
    first = HashCache(tmp_path / "cache.jsonl").table(tmp_path, ["a.mp4"])
    (tmp_path / "a.mp4").write_text("two")
    os.utime(tmp_path / "a.mp4", ns=(time, time))  # as where the clock is coarse
    assert HashCache(tmp_path / "cache.jsonl").is_touched(tmp_path, "a.mp4")
    again = HashCache(tmp_path / "cache.jsonl").table(tmp_path, ["a.mp4"])
    assert again["sha256"][0] != first["sha256"][0]

    def changes(path: Path) -> str:
        path.write_text("three")
        os.utime(path, (1.1e9, 1.1e9))
        return "f" * 64

    os.utime(tmp_path / "a.mp4", (1e9, 1e9))
    monkeypatch.setattr("umt_pipeline.commands.media_hashes.sha256_file", changes)
    HashCache(tmp_path / "cache.jsonl").table(tmp_path, ["a.mp4"])
    assert HashCache(tmp_path / "cache.jsonl").known(tmp_path, "a.mp4") is None


@pytest.mark.slow
def test_files_that_vanish_while_the_folder_is_read(dvc_project: Path, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanishing(folder: Path, *options: Any) -> FolderTables:
        found = scan(folder, *options)
        (folder / "a.mp4").unlink(missing_ok=True)
        return found

    with monkeypatch.context() as patch:
        patch.setattr("umt_pipeline.commands.init.scan", vanishing)
        init_corpus(dvc_project, "mine", Given(media))
    listed = pd.read_csv(dvc_project / "data/mine/01_raw/media_manifest.csv", keep_default_na=False).set_index("video")
    assert listed.loc["a.mp4"].tolist() == [0, ""]
    (media / "a.mp4").write_text("again")
    with monkeypatch.context() as patch:
        patch.setattr("umt_pipeline.commands.status.scan", vanishing)
        news = folder_news(existing_corpus(dvc_project, "mine"))
    assert news[0] == f"1 files in {media.resolve()} are vanished: a.mp4"
    (media / "a.mp4").write_text("again")
    with monkeypatch.context() as patch:
        patch.setattr("umt_pipeline.commands.update.scan", vanishing)
        update_corpus(dvc_project, "mine", {}, None)
    assert update_corpus(dvc_project, "mine", {}, None)[0] == "2 files: 0 new, 0 changed, 0 moved, 1 vanished"
    assert "a.mp4" not in set(pd.read_csv(dvc_project / "data/mine/01_raw/videos.csv")["video"])


@pytest.mark.slow
def test_shards_that_became_videos_are_no_silent_loss(dvc_project: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    write_shard(shards / "0.tar", {"1.mp4": b"one", "2.mp4": b"two"})
    init_corpus(dvc_project, "mine", Given(shards))
    write_shard(shards / "1.tar", {"1.mp4": b"three"})
    (shards / "stray.mp4").touch()
    with pytest.raises(ConfigError, match="found both"):
        update_corpus(dvc_project, "mine", {}, None)
    (shards / "stray.mp4").unlink()
    assert "3 files: 1 new, 0 changed, 0 moved, 0 vanished" in update_corpus(dvc_project, "mine", {}, None)
    for shard in shards.glob("*.tar"):
        shard.rename(shard.with_suffix(".mp4"))
    with pytest.raises(ConfigError, match=r"shards: expected what becomes files in .*media, found that they are in .*shards"):
        update_corpus(dvc_project, "mine", {}, None)


@pytest.mark.slow
def test_update_takes_in_the_folder_and_the_tables(dvc_project: Path, media: Path) -> None:
    init_corpus(dvc_project, "mine", Given(media, {"captions": media.parent / "captions.csv"}, splits="0,100,0"))
    raw = dvc_project / "data/mine/01_raw"
    known = pd.read_csv(raw / "videos.csv").set_index("video")
    (media / "a.mp4").rename(media / "deep" / "renamed.mp4")
    (media / "b.MOV").write_text("other content")
    (media / "deep" / "ç 1.webm").unlink()
    (media / "new.mp4").write_text("new")
    told = update_corpus(dvc_project, "mine", {"labels": media.parent / "labels.csv"}, None)
    assert told[0] == "3 files: 1 new, 1 changed, 1 moved, 1 vanished"
    assert "2 rows of tables name the new paths of moved files" in told, "a caption and a label"
    assert "stages: ingestion, teacher_features, stage1, stage2, retrieval, evaluation, classification" in told
    after = pd.read_csv(raw / "videos.csv").set_index("video")
    assert after.loc["deep/renamed.mp4"].to_dict() == known.loc["a.mp4"].to_dict()
    assert after.loc["b.MOV"].to_dict() == known.loc["b.MOV"].to_dict()
    assert sorted(after.index) == ["b.MOV", "deep/renamed.mp4", "new.mp4"]
    assert pd.read_csv(raw / "captions.csv")["video"].tolist() == ["deep/renamed.mp4", "b.MOV", "gone.mp4"]
    assert update_corpus(dvc_project, "mine", {}, None)[0] == "3 files: 0 new, 0 changed, 0 moved, 0 vanished"


@pytest.mark.slow
def test_captions_of_the_folder_are_read_again(dvc_project: Path, media: Path) -> None:
    init_corpus(dvc_project, "mine", Given(media))
    raw = dvc_project / "data/mine/01_raw"
    assert not (raw / "captions.csv").exists()
    (media / "a.txt").write_text("a cat")
    assert any("stage2" in line for line in update_corpus(dvc_project, "mine", {}, None))
    assert pd.read_csv(raw / "captions.csv").to_dict("records") == [{"video": "a.mp4", "caption": "a cat"}]
    (media / "a.txt").unlink()
    assert "stages: ingestion, teacher_features, stage1" in update_corpus(dvc_project, "mine", {}, None)
    assert not (raw / "captions.csv.dvc").exists()


@pytest.mark.slow
def test_new_files_wait_for_a_split_where_a_table_says_it(dvc_project: Path, media: Path) -> None:
    table = media.parent / "splits.csv"
    table.write_text("video,split\na.mp4,test\n", encoding="utf-8")
    told = init_corpus(dvc_project, "mine", Given(media, {"captions": media.parent / "captions.csv"}, splits=str(table)))
    assert any(line.startswith("2 files of which") for line in told)
    assert any(line.startswith("2 new files have no split") for line in update_corpus(dvc_project, "mine", {}, None))
    assert update_corpus(dvc_project, "mine", {}, "100,0,0")[0].startswith("3 files: 2 new")
    assert len(pd.read_csv(dvc_project / "data/mine/01_raw/videos.csv")) == 3


def test_only_corpora_are_updated(dvc_project: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a corpus that `umt init` made, found no corpus\.yml"):
        update_corpus(dvc_project, "ci", {}, None)


@pytest.mark.slow
def test_parameters_follow_the_tables(dvc_project: Path, media: Path) -> None:
    init_corpus(dvc_project, "mine", Given(media))
    labels, captions = media.parent / "labels.csv", media.parent / "captions.csv"
    labels.write_text("video,label\na.mp4,cat\nb.MOV,dog\ndeep/ç 1.webm,cat\n", encoding="utf-8")

    def now() -> dict[str, object]:
        parameters = Corpus(dvc_project, "mine").loader["parameters"]
        gates = [parameters["gate"].get(kind, {}) for kind in ("stage1", "classification")]
        return {
            "templates": parameters["teacher_features"]["train_small"]["templates"],
            "probed": parameters["evaluation"]["tasks"],
            **{key: parameters["classification"][key] for key in ("tasks", "start")},
            "detection": parameters["detection"]["start"],
            "gates": [name for gate in gates for name in gate.get("metrics", ())],
        }

    assert now()["gates"] == [], "nothing of them is measured without labels"
    told = update_corpus(dvc_project, "mine", {"labels": labels}, None)
    assert "parameter classification.tasks: ['motion'] became ['label']" in told
    assert "gate of stage1: probe/linear/label/stage1 must rise now" in told
    assert now() == {
        "templates": ["a video of {label}"],
        "probed": ["label"],
        "tasks": ["label"],
        "start": "stage1",
        "detection": "stage1",
        "gates": ["probe/linear/label/stage1", "classification/label/stage1/top1"],
    }
    labels.write_text("video,task,label\na.mp4,animal,cat\n", encoding="utf-8")
    update_corpus(dvc_project, "mine", {"labels": labels, "captions": captions}, None)
    assert now() == {
        "templates": [],
        "probed": ["animal"],
        "tasks": ["animal"],
        "start": "stage2",
        "detection": "stage2",
        "gates": ["probe/linear/animal/stage1", "classification/animal/stage2/top1"],
    }
    assert not any(line.startswith(("parameter", "gate")) for line in update_corpus(dvc_project, "mine", {}, None))

    with edited(dvc_project / "conf/mine/parameters_evaluation.yml") as blocks:
        blocks["evaluation"]["tasks"] = []
    with edited(dvc_project / "conf/mine/parameters_gate.yml") as blocks:
        blocks["gate"]["stage1"]["metrics"]["probe/linear/animal/stage1"] = 1.0
    labels.write_text("video,task,label\na.mp4,place,home\n", encoding="utf-8")
    told = update_corpus(dvc_project, "mine", {"labels": labels}, None)
    assert "parameter evaluation.tasks stays [], as somebody set it; the tables say ['place']" in told
    assert any(line.startswith("gate of stage1 stays, as somebody set it") for line in told)
    assert (now()["probed"], now()["tasks"]) == ([], ["place"])


@pytest.mark.slow
def test_a_moved_image_keeps_its_caption_and_its_row(dvc_project: Path, media: Path) -> None:
    (media / "p.jpg").write_text("a picture")
    (media / "thumbnail.jpg").write_text("another 1")
    captions = media.parent / "captions.csv"
    captions.write_text("video,caption\n./p.jpg,a still\np.jpg,a picture\na.mp4,a film\n", encoding="utf-8")
    (media.parent / "plain.csv").write_text("video,caption\np.jpg,a picture\na.mp4,a film\n", encoding="utf-8")
    init_corpus(dvc_project, "mine", Given(media, {"captions": media.parent / "plain.csv"}))
    raw = dvc_project / "data/mine/01_raw"
    known = pd.read_csv(raw / "videos.csv").set_index("video")
    (media / "p.jpg").rename(media / "deep/q.jpg")
    told = update_corpus(dvc_project, "mine", {"captions": captions}, None)
    assert told[0] == "4 files: 0 new, 0 changed, 1 moved, 0 vanished"
    after = pd.read_csv(raw / "videos.csv").set_index("video")
    assert after.loc["deep/q.jpg"].to_dict() == known.loc["p.jpg"].to_dict()
    assert pd.read_csv(raw / "captions.csv")["video"].tolist() == ["deep/q.jpg", "deep/q.jpg", "a.mp4"]
    assert update_corpus(dvc_project, "mine", {}, None)[0] == "4 files: 0 new, 0 changed, 0 moved, 0 vanished"


def test_rows_are_renamed_however_they_write_the_path() -> None:
    composed, apart = "\u00e9.mp4", "e\u0301.mp4"
    table = pd.DataFrame({"video": ["./a.mp4", "x//b.mp4", apart, "c.mp4", ""]})
    moved = {"a.mp4": "new a.mp4", "x/b.mp4": "b.mp4", composed: "e.mp4"}
    renamed, count = Renames(["a.mp4", "x/b.mp4", composed, "c.mp4"], moved).apply(table)
    assert (renamed["video"].tolist(), count) == (["new a.mp4", "b.mp4", "e.mp4", "c.mp4", ""], 3)


@pytest.mark.slow
def test_a_table_of_labels_takes_the_place_of_class_folders(dvc_project: Path, media: Path) -> None:
    init_corpus(dvc_project, "mine", Given(media, class_folders=True))
    (media / "deep" / "ç 1.json").write_text('{"label": "other than the folder"}')
    update_corpus(dvc_project, "mine", {"labels": media.parent / "labels.csv"}, None)
    assert Corpus(dvc_project, "mine").record.class_folders is False
    update_corpus(dvc_project, "mine", {}, None)
    assert pd.read_csv(dvc_project / "data/mine/01_raw/labels.csv")["label"].tolist() == ["cat"]


def test_dvc_keeps_no_notes_of_ours(dvc_project: Path, media: Path) -> None:
    init_corpus(dvc_project, "mine", Given(media, media="add"))
    kept = dvc_project / "data/mine/01_raw/media"
    for name in (".lock", ".staged.jsonl", "deep/.shard.json"):
        (kept / name).write_text("{}")
    (kept / "new.mp4").write_text("new")
    update_corpus(dvc_project, "mine", {}, None)
    assert "nfiles: 4" in (dvc_project / "data/mine/01_raw/media.dvc").read_text(encoding="utf-8")
    assert (kept / ".staged.jsonl").exists()
