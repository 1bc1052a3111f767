"""Vectors as files: whole, in step with the folder, and in both forms the same."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

from tests.serving.filmed import colour_embedder, write_film
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import read_json, sha256_file
from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.serving.embedding import vector_files
from umt_pipeline.serving.embedding.gathering import Asked
from umt_pipeline.serving.embedding.vector_files import Form, Written, write_vectors
from umt_pipeline.serving.embedding.windows import WindowRule

RULE = WindowRule(length_s=4, stride_s=2, snap_s=0)


def write(videos: Path, form: Form = "parquet", name: str = "colours") -> Written:
    asked = Asked(videos, RULE, workers=1, trust=True)
    return write_vectors(videos.parent / "out", asked, colour_embedder(name), "models/colours", form)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    write_film(tmp_path / "videos" / "a.mp4", [("red", 2.0)], seed=1)
    write_film(tmp_path / "videos" / "b.mp4", [("green", 3.0), ("white", 5.0)], seed=2)
    (tmp_path / "videos" / "bad.mp4").write_bytes(b"no video")
    return tmp_path / "videos"


def test_both_forms_say_the_same(videos: Path) -> None:
    written = write(videos)
    out = videos.parent / "out"
    table = pd.read_parquet(out / "windows.parquet")
    assert table[["path", "start_s", "end_s"]].values.tolist() == [
        [str(videos / "a.mp4"), 0.0, 2.0],
        [str(videos / "b.mp4"), 0.0, 4.0],
        [str(videos / "b.mp4"), 2.0, 6.0],
        [str(videos / "b.mp4"), 4.0, 8.0],
    ]
    assert table["file_id"].tolist() == [sha256_file(Path(path)) for path in table["path"]]
    vectors_NE = np.stack(table["vector"].tolist())
    np.testing.assert_allclose(np.linalg.norm(vectors_NE, axis=1), 1, rtol=1e-5)
    assert written.manifest["files"] == {"found": 3, "embedded": 2, "failed": 1}
    assert written.gathered.failed["reason"].tolist() == ["not_a_video"]
    assert write(videos, "npy").is_new
    assert np.array_equal(np.load(out / "vectors.npy"), vectors_NE)
    assert pd.read_parquet(out / "windows.parquet").equals(table.drop(columns="vector"))
    manifest = read_json(out / "manifest.json")
    assert manifest["sha256"] == {name: sha256_file(out / name) for name in manifest["sha256"]}
    assert "vectors.npy" in manifest["sha256"]


def test_only_what_is_new_is_embedded(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(videos)
    counts = []
    encode = Embedder.encode_clips
    monkeypatch.setattr(Embedder, "encode_clips", lambda self, frames: counts.append(len(frames)) or encode(self, frames))
    monkeypatch.setattr(Embedder, "dim", 9)
    assert not write(videos).is_new
    (videos / "a.mp4").rename(videos / "z.mp4")
    assert write(videos).is_new
    assert counts == []
    write_film(videos / "new.mp4", [("blue", 1.0)], seed=7)
    (videos / "b.mp4").unlink()
    write(videos)
    assert counts == [1]
    table = pd.read_parquet(videos.parent / "out" / "windows.parquet")
    assert [Path(path).name for path in table["path"]] == ["new.mp4", "z.mp4"]
    write(videos, name="other")
    assert counts == [1, 2], "another model embeds all"


def test_what_is_not_whole_is_written_again(videos: Path) -> None:
    write(videos)
    file = videos.parent / "out" / "windows.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert write(videos).is_new
    assert file.read_bytes() == whole


def test_what_an_error_leaves_half_written_does_not_say_that_it_is_whole(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(videos)
    write_film(videos / "new.mp4", [("blue", 1.0)], seed=7)
    with monkeypatch.context() as disk:
        disk.setattr(vector_files.pq, "ParquetWriter", Mock(side_effect=OSError("the disk is full")))
        with pytest.raises(OSError, match="the disk is full"):
            write(videos)
    assert len(pd.read_parquet(videos.parent / "out" / "files.parquet")) == 3
    assert not (videos.parent / "out" / "manifest.json").exists()
    assert write(videos).manifest["windows"] == 5


def test_a_folder_of_other_things_is_not_filled(videos: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a folder that `umt embed` wrote, or none, found other things"):
        write_vectors(videos, Asked(videos, RULE, workers=1), colour_embedder(), "models/colours", "npy")
