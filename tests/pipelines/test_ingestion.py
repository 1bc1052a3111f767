from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from PIL import Image
from pydantic import ValidationError

from tests.video_files import write_video
from umt_pipeline.core.errors import TableError
from umt_pipeline.datasets import CorporaTableDataset
from umt_pipeline.demo_world.broken_files import write_broken_files
from umt_pipeline.executors import OfflineParams
from umt_pipeline.pipelines.ingestion import create_pipeline, nodes
from umt_pipeline.pipelines.ingestion.listing import video_ids
from umt_pipeline.pipelines.ingestion.params import IngestionParams
from umt_pipeline.schemas import Boxes, Captions, Labels, Questions, Rejects, Videos
from umt_pipeline.tables.blocks import Blocks
from umt_pipeline.video.media import Refusal, VideoInfo

Tables = dict[str, Any]


def params(**changes: Any) -> IngestionParams:
    return IngestionParams.model_validate(
        {"dataset_id": "t", "splits": ["train", "validation", "test"], "workers": 1, "max_rejected_share": 1.0} | changes
    )


def ingest(media: Path, videos: Any, captions: Any, labels: Any, settings: IngestionParams | None = None) -> Tables:
    """Run the nodes that make the tables and the report as Kedro does, without its files."""
    inputs = {
        "raw_media": media,
        "raw_videos": _frame(videos, ["video", "split"]),
        "raw_captions": _frame(captions, ["video", "caption"]),
        "raw_labels": _frame(labels, ["video", "task", "label"]),
        "raw_questions": pd.DataFrame(),
        "raw_boxes": pd.DataFrame(),
        "params:ingestion": settings or params(),
        "params:offline": OfflineParams(),
    }
    with TemporaryDirectory() as workspace:
        inputs["workspace"] = Path(workspace)
        catalog = DataCatalog({name: MemoryDataset(value) for name, value in inputs.items()})
        outputs = SequentialRunner().run(create_pipeline().to_nodes("report_ingestion", "write_clean_tables"), catalog)
        found = {name: dataset.load() for name, dataset in outputs.items()}
        return {name: value.read() if isinstance(value, Blocks) else value for name, value in found.items()}


def _frame(rows: Any, columns: list[str]) -> Blocks:
    """Return a table in blocks of two rows, so that what is about several rows is found in several blocks."""
    table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows, columns=columns)
    return Blocks(lambda: (table.iloc[start : start + 2] for start in range(0, max(1, len(table)), 2)))


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    media = tmp_path_factory.mktemp("media")
    write_video(media / "a.mp4")
    write_video(media / "012.mp4", first_number=1)
    write_video(media / "sub" / "été №1 100%.mp4", first_number=2)
    write_video(media / "held.mp4", first_number=3)
    shutil.copy(media / "a.mp4", media / "a copy.mp4")
    return media


VIDEOS = [["a.mp4", "train"], ["012.mp4", "train"], ["./sub//été №1 100%.mp4", "test"]]
CAPTIONS = [["sub/été №1 100%.mp4", " two words "], ["a.mp4", "007"], ["a.mp4", "NA"]]
LABELS = [["012.mp4", "colour", "red"]]


def test_good_tables_pass(media: Path) -> None:
    out = ingest(media, VIDEOS, CAPTIONS, LABELS)
    schemas = {
        "videos": Videos, "captions": Captions, "labels": Labels, "questions": Questions, "boxes": Boxes, "rejects": Rejects,
    }  # fmt: skip
    assert set(out) == {*schemas, "ingestion_report"}
    for name, schema in schemas.items():
        schema.validate(out[name], lazy=True)
    assert list(out["videos"]["video_id"]) == ["a", "012", "sub/été №1 100%"]
    assert list(out["videos"]["path"]) == ["a.mp4", "012.mp4", "sub/été №1 100%.mp4"]
    assert out["captions"].to_dict(orient="list") == {
        "caption_id": [0, 1, 2],
        "video_id": ["sub/été №1 100%", "a", "a"],
        "caption": ["two words", "007", "NA"],
    }
    assert out["labels"].to_dict(orient="records") == [{"video_id": "012", "task": "colour", "label": "red"}]
    assert out["rejects"].empty
    report = out["ingestion_report"]
    assert report["tables"]["videos"] == {
        "rows_in": 3,
        "accepted": 3,
        "rejected": 0,
        "reasons": {},
        "ignored_columns": [],
    }
    train = {"videos": 2, "images": 0, "captions": 2, "hours": pytest.approx(1 / 3600, abs=1e-5)}
    assert report["splits"]["train"] == train
    assert report["splits"]["validation"]["videos"] == 0
    assert set(out["videos"]["corpus"]) == {"t"}, "the data set's name, as nobody named a corpus"
    assert report["media"] == {"video": 3, "image": 0}
    assert list(report["corpora"]) == ["t"]
    assert report["codecs"] == {"h264": 3}


def test_broken_files_and_what_belongs_to_them_are_rejected(media: Path, tmp_path: Path) -> None:
    shutil.copytree(media, tmp_path / "media")
    broken = write_broken_files(tmp_path / "media", media / "a.mp4", seed=0)
    videos = [*VIDEOS, *([name, "train"] for name, _ in broken), ["gone.mp4", "test"], ["../a.mp4", "train"]]
    captions = [*CAPTIONS, [broken[0][0], "of a broken file"], ["never.mp4", "of no file"]]
    out = ingest(tmp_path / "media", videos, captions, [*LABELS, ["gone.mp4", "colour", "red"]])
    rejects = out["rejects"]
    of_videos = rejects[rejects["table"] == "videos"]
    expected = [*broken, ("gone.mp4", "missing_file"), ("../a.mp4", "outside_folder")]
    assert list(zip(of_videos["video"], of_videos["reason"], strict=True)) == expected
    assert list(of_videos["row"]) == list(range(3, 3 + len(expected)))
    others = rejects[rejects["table"] != "videos"][["table", "row", "video", "reason"]].to_numpy().tolist()
    assert others == [
        ["captions", 3, broken[0][0], "video_rejected"],
        ["captions", 4, "never.mp4", "unknown_video"],
        ["labels", 1, "gone.mp4", "video_rejected"],
    ]
    assert not rejects["detail"].str.contains(str(tmp_path)).any()
    assert len(out["videos"]) == 3


MIXED = pd.DataFrame(
    [
        ["a.mp4", "train", "webvid", "video"],
        ["stills/0.JPG", "train", "cc3m", "image"],
        ["stills/1.png", "test", "cc3m", "image"],
        ["stills/wrong.png", "train", "cc3m", "video"],
        ["held.mp4", "train", "webvid", "image"],
        ["stills/empty.jpg", "train", "coco", "image"],
        ["stills/page.jpg", "train", "coco", "image"],
    ],
    columns=["video", "split", "source", "kind"],
)


@pytest.fixture(scope="module")
def mixed(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(media, tmp_path_factory.mktemp("mixed") / "media")
    (folder / "stills").mkdir()
    for shade, name in enumerate(("0.JPG", "1.png", "wrong.png")):
        Image.new("RGB", (40, 50), (shade, 0, 0)).save(folder / "stills" / name)
    (folder / "stills/empty.jpg").touch()
    (folder / "stills/page.jpg").write_text("<html>Not found</html>")
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_videos_and_images_of_several_corpora_in_one_table(mixed: Path, workers: int) -> None:
    columns = {"videos": {"corpus": "source", "media": "kind"}}
    captions = [["stills/0.JPG", "one"], ["stills/0.JPG", "two"], ["stills/page.jpg", "lost"], ["a.mp4", "three"]]
    out = ingest(mixed, MIXED, captions, [], params(columns=columns, workers=workers))
    table = Videos.validate(out["videos"], lazy=True).set_index("video_id")
    assert list(table["media"]) == ["video", "image", "image"]
    assert list(table["corpus"]) == ["webvid", "cc3m", "cc3m"]
    still = table.loc["stills/0"]
    assert (still["container"], still["codec"], still["width"], still["height"]) == ("jpeg", "jpeg", 40, 50)
    assert (still["num_frames"], still["fps"], still["duration_s"]) == (1, 0.0, 0.0)
    rejects = out["rejects"][["row", "reason"]].to_numpy().tolist()
    assert rejects == [
        [3, "wrong_media"], [4, "wrong_media"], [5, "empty_file"], [6, "not_an_image"], [2, "video_rejected"]
    ]  # fmt: skip
    assert out["rejects"]["detail"][0] == "expected video, as the table says, found image (png)"
    report = out["ingestion_report"]
    assert report["media"] == {"video": 1, "image": 2}
    counts = {name: tuple(corpus.values())[:-1] for name, corpus in report["corpora"].items()}
    assert counts == {"cc3m": (3, 2, 1, 0, 2, 2), "coco": (2, 0, 2, 0, 0, 0), "webvid": (2, 1, 1, 1, 0, 1)}
    assert list(report["corpora"]["coco"]) == ["rows_in", "accepted", "rejected", "videos", "images", "captions", "hours"]
    assert (report["splits"]["train"]["videos"], report["splits"]["train"]["images"]) == (1, 1)
    assert report["hours"] == pytest.approx(0.5 / 3600, abs=1e-6)


def test_annotation_files_of_several_corpora_become_one_clean_table(mixed: Path, tmp_path: Path) -> None:
    clips = [{"video": "a.mp4", "caption": "one"}, {"video": "held.mp4", "caption": "two"}]
    stills = [{"image": "0.JPG", "caption": f"wording {number}"} for number in range(5)]
    corpora: dict[str, Any] = {"webvid": {"columns": {"video": "video"}}, "coco": {"columns": {"video": "image"}}}
    corpora["coco"]["folder"] = "stills"
    for name, rows in (("webvid", clips), ("coco", stills)):
        corpora[name]["filepath"] = str(tmp_path / f"{name}.json")
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))

    def read(distinct: bool, **columns: Any) -> pd.DataFrame:
        tables = {name: {**entry, "columns": {**entry["columns"], **columns}} for name, entry in corpora.items()}
        return CorporaTableDataset(tables, distinct).load()

    videos, captions = read(True, split={"constant": "train"}), read(False, caption="caption")
    out = ingest(mixed, videos, captions, [], params(columns={"videos": {"corpus": "corpus"}}))
    assert out["videos"][["video_id", "corpus", "media"]].to_numpy().tolist() == [
        ["a", "webvid", "video"], ["held", "webvid", "video"], ["stills/0", "coco", "image"]
    ]  # fmt: skip
    assert out["captions"]["video_id"].value_counts().to_dict() == {"stills/0": 5, "a": 1, "held": 1}
    assert out["rejects"].empty
    assert out["ingestion_report"]["corpora"]["coco"]["captions"] == 5


def test_an_unknown_media_type_is_named(mixed: Path) -> None:
    columns = {"videos": {"corpus": {"constant": "x"}, "media": "kind"}}
    table = MIXED.assign(kind=["video", "picture", *MIXED["kind"][2:]])
    message = r"raw_videos(?s:.*)row 1, column 'media' \(your 'kind'\): expected 'video' or 'image', found 'picture'"
    with pytest.raises(TableError, match=message):
        ingest(mixed, table, [], [], params(columns=columns, on_bad_row="error"))


def test_result_does_not_depend_on_workers(media: Path) -> None:
    videos = [*VIDEOS, *([f"gone{number}.mp4", "train"] for number in range(10))]
    one, two = (ingest(media, videos, CAPTIONS, LABELS, params(workers=workers)) for workers in (1, 2))
    for name in ("videos", "captions", "labels", "rejects"):
        pd.testing.assert_frame_equal(one[name], two[name])
    assert one["ingestion_report"] == two["ingestion_report"]


def test_columns_of_other_names_are_mapped_and_the_rest_reported(media: Path) -> None:
    videos = pd.DataFrame({"file": ["a.mp4"], "licence": ["?"]})
    captions = pd.DataFrame({"file": ["a.mp4"], "text": ["hello"]})
    columns = {
        "videos": {"video": "file", "split": {"constant": "train"}},
        "captions": {"video": "file", "caption": "text"},
    }
    out = ingest(media, videos, captions, [], params(columns=columns))
    assert list(out["videos"]["split"]) == ["train"]
    assert list(out["captions"]["caption"]) == ["hello"]
    assert out["labels"].empty
    assert out["ingestion_report"]["tables"]["videos"]["ignored_columns"] == ["licence"]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"videos": pd.DataFrame({"file": ["a"], "split": ["train"]})}, "raw_videos: expected a column 'video'"),
        ({"videos": []}, "raw_videos: expected at least one row"),
        ({"captions": pd.DataFrame([["a.mp4", "x", "y"]], columns=["video", *["caption"] * 2])}, "more than one of: caption"),
    ],
)
def test_wrong_tables_end_in_one_message(media: Path, tables: dict[str, Any], message: str) -> None:
    tables = {"videos": VIDEOS, "captions": CAPTIONS, "labels": LABELS} | tables
    with pytest.raises(TableError, match=message):
        ingest(media, tables["videos"], tables["captions"], tables["labels"])


def test_too_many_unusable_videos_end_the_run(media: Path) -> None:
    videos = [["a.mp4", "train"], ["gone.mp4", "train"], ["lost.mp4", "test"]]
    with pytest.raises(TableError) as caught:
        ingest(media, videos, [], [], params(max_rejected_share=0.5))
    for part in ("2 of 3 videos (67%)", "at most 50%", "missing_file 2", "row 1, gone.mp4", "max_rejected_share"):
        assert part in str(caught.value)
    assert len(ingest(media, videos, [], [], params(max_rejected_share=0.67))["videos"]) == 1
    with pytest.raises(TableError, match="one usable video"):
        ingest(media, videos[1:], [], [])


def test_same_content_in_one_split(media: Path) -> None:
    videos = [["a.mp4", "train"], ["a copy.mp4", "train"], ["held.mp4", "test"]]
    captions = [["a copy.mp4", "a caption"]]
    kept = ingest(media, videos, captions, [])
    assert len(kept["videos"]) == 3
    duplicates = kept["ingestion_report"]["duplicates"]
    assert duplicates["files"] == 2
    assert duplicates["groups"][0]["files"] == ["a.mp4", "a copy.mp4"]
    out = ingest(media, videos, captions, [], params(on_duplicate_content="reject"))
    assert list(out["videos"]["path"]) == ["a.mp4", "held.mp4"]
    assert list(out["rejects"]["reason"]) == ["duplicate_content", "video_rejected"]
    assert out["ingestion_report"]["duplicates"] == duplicates
    with pytest.raises(TableError, match=r"a.mp4 \(train, row 0\), a copy.mp4 \(train, row 1\)"):
        ingest(media, videos, [], [], params(on_duplicate_content="error"))


def test_same_content_in_two_splits(media: Path) -> None:
    videos = [["a copy.mp4", "test"], ["a.mp4", "train"], ["held.mp4", "test"]]
    with pytest.raises(TableError, match=r"same content is in two splits.*on_content_in_two_splits"):
        ingest(media, videos, [], [])
    out = ingest(media, videos, [], [], params(on_content_in_two_splits="reject"))
    assert list(out["videos"]["path"]) == ["a copy.mp4", "held.mp4"]
    assert out["rejects"][["row", "reason", "detail"]].to_numpy().tolist() == [
        [1, "content_in_two_splits", "same bytes as a copy.mp4 of split test"]
    ]


def test_orphans_can_be_errors_but_broken_videos_are_not(media: Path) -> None:
    strict = params(on_bad_row="error")
    with pytest.raises(TableError, match=r"raw_captions(?s:.*)row 0, column 'video'.*found 'never.mp4' \(unknown_video\)"):
        ingest(media, VIDEOS, [["never.mp4", "x"]], [], strict)
    out = ingest(media, [*VIDEOS, ["gone.mp4", "train"]], [["gone.mp4", "x"]], [], strict)
    assert list(out["rejects"]["reason"]) == ["missing_file", "video_rejected"]


@pytest.mark.parametrize(
    ("paths", "ids"),
    [
        (["a/b.mp4", "a/c.d.mp4"], ["a/b", "a/c.d"]),
        (["x.mp4", "x.avi", "y.mp4"], ["x.mp4", "x.avi", "y"]),
        (["x.mp4", "x.avi", "x.mp4.avi"], ["x.mp4", "x.avi", "x.mp4.avi"]),
        ([".mp4", "noSuffix"], [".mp4", "noSuffix"]),
    ],
)
def test_video_ids(paths: list[str], ids: list[str]) -> None:
    assert video_ids(paths) == ids


@given(st.lists(st.from_regex(r"[ab]{1,2}(\.[ab]){0,3}", fullmatch=True), unique=True, max_size=12))
def test_video_ids_are_unique(paths: list[str]) -> None:
    assert len(set(video_ids(paths))) == len(paths)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_counts_reconcile_whatever_breaks(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(["mp4", "png"]), min_size=1, max_size=12))
    names = [f"v{number}.{kind}" for number, kind in enumerate(kinds)]
    cells = st.tuples(*(st.sampled_from(pair) for pair in (["train", "test"], ["webvid", "cc3m"], ["video", "image"])))
    rows = [[name, *data.draw(cells)] for name in names]
    videos = pd.DataFrame(rows, columns=["video", "split", "corpus", "media"])
    # The first one is sound, so that a table is left.
    videos.loc[0, "media"] = "video" if kinds[0] == "mp4" else "image"
    contents = {name: data.draw(st.sampled_from("0123x")) for name in names[1:]} | {names[0]: "0"}
    named = st.sampled_from([*names, "unknown.mp4"])
    captions = data.draw(st.lists(st.tuples(named, st.sampled_from(["x", "y"])), max_size=15))
    labels = data.draw(st.lists(st.tuples(named, st.sampled_from("rs"), st.just("z")), max_size=9, unique_by=lambda r: r[:2]))
    duplicates = data.draw(st.sampled_from(["keep", "reject"]))

    def probe(root: Path, names: list[str], *_: Any) -> list[VideoInfo | Refusal]:
        infos = {
            name: VideoInfo("image", "png", "png", 64, 48, 0.0, 1, 0.0, 9, content.replace("0", "a") * 64)
            if name.endswith("png")
            else VideoInfo("video", "mp4", "h264", 64, 48, 24.0, 12, 0.5, 9, content * 64)
            for name, content in contents.items()
        }
        return [Refusal("corrupt_frame", "") if contents[name] == "x" else infos[name] for name in names]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nodes, "probe_all", probe)
        columns = {"videos": {"corpus": "corpus", "media": "media"}}
        settings = params(on_content_in_two_splits="reject", on_duplicate_content=duplicates, columns=columns)
        out = ingest(Path("media"), videos, captions, labels, settings)
    for name, rows in {"videos": videos, "captions": captions, "labels": labels}.items():
        counts = out["ingestion_report"]["tables"][name]
        rejected = (out["rejects"]["table"] == name).sum()
        assert counts["rows_in"] == len(rows) == len(out[name]) + rejected
        assert (counts["accepted"], counts["rejected"]) == (len(out[name]), rejected)
        assert sum(counts["reasons"].values()) == rejected
    report = out["ingestion_report"]
    assert sum(report["media"].values()) == sum(split["videos"] + split["images"] for split in report["splits"].values())
    for corpus, listed in videos.groupby("corpus"):
        counts = report["corpora"][corpus]
        assert counts["rows_in"] == len(listed) == counts["accepted"] + counts["rejected"]
        assert counts["accepted"] == counts["videos"] + counts["images"] == (out["videos"]["corpus"] == corpus).sum()
    assert sum(counts["captions"] for counts in report["corpora"].values()) == len(out["captions"])
    Videos.validate(out["videos"], lazy=True)
    per_content = out["videos"].groupby("sha256")["split"]
    assert (per_content.nunique() == 1).all()
    assert duplicates == "keep" or (per_content.size() == 1).all()
    known = set(out["videos"]["video_id"])
    assert set(out["captions"]["video_id"]) | set(out["labels"]["video_id"]) <= known


def test_a_lost_row_is_noticed(media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes.RejectsWriter, "add", lambda *_: None)
    with pytest.raises(TableError, match="raw_videos: 4 rows were read, 3 accepted and 0 rejected"):
        ingest(media, [*VIDEOS, ["gone.mp4", "train"]], [], [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"splits": []}, "splits"),
        ({"splits": ["train", "train"]}, "each once"),
        ({"worker": 2}, "worker"),
        ({"workers": 0}, "workers"),
        ({"columns": {"videos": {"vidoe": "file"}}}, "vidoe"),
        ({"on_bad_row": "ignore"}, "'reject' or 'error'"),
        ({"max_rejected_share": 2}, "max_rejected_share"),
        ({"dataset_id": ""}, "dataset_id"),
    ],
)
def test_wrong_parameters_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        params(**change)


def test_base_parameters_are_valid() -> None:
    file = Path(__file__).parents[2] / "conf" / "base" / "parameters_ingestion.yml"
    IngestionParams.model_validate(yaml.safe_load(file.read_text())["ingestion"])
