from __future__ import annotations

import io
from typing import Any

import pandas as pd
import pandera.pandas as pa
import pytest
from kedro.io import DataCatalog
from kedro.validation.exceptions import DataValidationError

from umt_pipeline import schemas

VIDEO = {
    "video_id": "a",
    "path": "a.mp4",
    "split": "train",
    "media": "video",
    "corpus": "webvid",
    "container": "mp4",
    "codec": "h264",
    "width": 64,
    "height": 48,
    "fps": 24.0,
    "num_frames": 12,
    "duration_s": 0.5,
    "size_bytes": 1000,
    "sha256": "0" * 64,
    "rotation": 90,
    "mirrored": False,
    "sample_aspect": 1.0,
    "stream": 0,
    "perceptual_hash": "0a" * 24,
}
IMAGE = {"media": "image", "container": "jpeg", "codec": "jpeg", "fps": 0.0, "num_frames": 1, "duration_s": 0.0}
ROWS: dict[str, dict[str, Any]] = {
    "RawVideos": {"video": "a.mp4", "split": "train", "corpus": "webvid", "media": "video"},
    "RawCaptions": {"video": "a.mp4", "caption": "a red ball"},
    "RawLabels": {"video": "a.mp4", "task": "colour", "label": "red"},
    "Videos": VIDEO,
    "Captions": {"caption_id": 0, "video_id": "a", "caption": "a red ball"},
    "Labels": {"video_id": "a", "task": "colour", "label": "red"},
    "Rejects": {"table": "videos", "row": 0, "video": "a.mp4", "reason": "too_short", "detail": ""},
}


@pytest.mark.parametrize("name", ROWS)
def test_good_row_empty_table_and_round_trip_through_parquet(name: str) -> None:
    schema: type[pa.DataFrameModel] = getattr(schemas, name)
    table = schema.validate(pd.DataFrame([ROWS[name]]))
    assert table.to_dict(orient="records") == [ROWS[name]]
    for rows in (table, schema.validate(table.iloc[:0])):
        file = io.BytesIO()
        rows.to_parquet(file, index=False)
        pd.testing.assert_frame_equal(schema.validate(pd.read_parquet(file)), rows)


@pytest.mark.parametrize("name", ROWS)
def test_columns_are_exactly_the_ones_named(name: str) -> None:
    schema: type[pa.DataFrameModel] = getattr(schemas, name)
    table = pd.DataFrame([ROWS[name]])
    for wrong in (table.assign(more=1), table.iloc[:, 1:]):
        with pytest.raises(pa.errors.SchemaErrors):
            schema.validate(wrong, lazy=True)


def test_what_the_media_of_raw_files_should_be_need_not_be_said() -> None:
    table = pd.DataFrame([ROWS["RawVideos"]]).drop(columns="media")
    pd.testing.assert_frame_equal(schemas.RawVideos.validate(table), table)


def test_an_image_has_one_frame_and_no_time() -> None:
    table = pd.DataFrame([VIDEO, VIDEO | IMAGE | {"video_id": "b", "path": "b.jpg"}])
    assert list(schemas.Videos.validate(table)["media"]) == ["video", "image"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("RawVideos", {"media": "picture"}),
        ("RawVideos", {"corpus": ""}),
        ("Videos", {"media": "audio"}),
        ("Videos", {"corpus": " "}),
        ("Videos", {"fps": 0.0}),
        ("Videos", {"duration_s": 0.0}),
        ("Videos", IMAGE | {"num_frames": 2}),
        ("Videos", IMAGE | {"fps": 25.0}),
        ("Videos", IMAGE | {"duration_s": 1.0}),
        ("Videos", {"width": 0}),
        ("Videos", {"num_frames": 0}),
        ("Videos", {"fps": -1.0}),
        ("Videos", {"fps": float("nan")}),
        ("Videos", {"height": "tall"}),
        ("Videos", {"sha256": "no hash"}),
        ("Videos", {"rotation": 45}),
        ("Videos", {"sample_aspect": 0.0}),
        ("Videos", {"stream": -1}),
        ("Videos", {"perceptual_hash": "0a"}),
        ("Videos", {"split": " "}),
        ("Videos", {"video_id": None}),
        ("Captions", {"caption": " \t\n"}),
        ("Captions", {"caption_id": -1}),
        ("Labels", {"task": ""}),
        ("Rejects", {"table": "clips"}),
        ("Rejects", {"reason": ""}),
    ],
)
def test_bad_value_is_refused(name: str, change: dict[str, Any]) -> None:
    schema: type[pa.DataFrameModel] = getattr(schemas, name)
    with pytest.raises(pa.errors.SchemaErrors):
        schema.validate(pd.DataFrame([ROWS[name] | change]), lazy=True)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("RawVideos", {"split": "test"}),
        ("RawLabels", {"label": "blue"}),
        ("Videos", {"path": "b.mp4"}),
        ("Videos", {"video_id": "b"}),
        ("Captions", {"caption": "another"}),
        ("Labels", {"label": "blue"}),
        ("Rejects", {"reason": "another"}),
    ],
)
def test_ids_are_unique(name: str, change: dict[str, Any]) -> None:
    schema: type[pa.DataFrameModel] = getattr(schemas, name)
    with pytest.raises(pa.errors.SchemaErrors, match="unique"):
        schema.validate(pd.DataFrame([ROWS[name], ROWS[name] | change]), lazy=True)


def test_the_catalog_refuses_a_bad_table_by_name_column_expectation_and_value() -> None:
    catalog = DataCatalog.from_config(
        {"captions": {"type": "MemoryDataset", "validator": "umt_pipeline.schemas.Captions"}}
    )
    catalog.save("captions", pd.DataFrame([ROWS["Captions"]]))
    bad = pd.DataFrame([ROWS["Captions"], {"caption_id": 0, "video_id": "b", "caption": " "}])
    with pytest.raises(DataValidationError) as caught:
        catalog.save("captions", bad)
    message = str(caught.value)
    for part in ("'captions'", "caption_id: field_uniqueness", "caption: text that is not blank", "1 case"):
        assert part in message
