"""An index of a folder: what changed costs itself, what cannot be read is said, and a killed build goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.serving.filmed import colour_embedder, write_film
from umt_pipeline.core.errors import ConfigError, IndexingError
from umt_pipeline.core.locking import only_writer
from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.serving.embedding import gathering
from umt_pipeline.serving.embedding.gathering import Asked, read_known
from umt_pipeline.serving.embedding.windows import WindowRule
from umt_pipeline.serving.index.building import Built, build_index
from umt_pipeline.serving.index.reading import Index
from umt_pipeline.serving.inputs import clip_of
from umt_pipeline.video import probing
from umt_pipeline.video.guarded import check_files

RULE = WindowRule(length_s=4, stride_s=2, snap_s=0.4)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    write_film(folder / "a.mp4", [("red", 2.0)], seed=1)
    write_film(folder / "b" / "long.mp4", [("green", 4.25), ("white", 5.75)], seed=2)
    write_film(folder / "c.avi", [("blue", 2.0)], codec="mpeg4", seed=3)
    return folder


def build(videos: Path, embedder: Embedder | None = None, name: str = "index", **asked: Any) -> Built:
    anew = asked.pop("anew", False)
    one = Asked(videos, RULE, workers=1, **asked)
    return build_index(videos.parent / name, one, embedder or colour_embedder(), "models/colours", anew)


def opened(videos: Path, name: str = "index") -> Index:
    return Index.open(videos.parent / name)


def names(index: Index) -> list[str]:
    return [Path(path).name for path in index.files["path"]]


def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which the number of windows of each batch is added when it is encoded."""
    counts: list[int] = []
    encode = Embedder.encode_clips

    def counted(self: Embedder, frames_BTHWC: Any) -> Any:
        counts.append(len(frames_BTHWC))
        return encode(self, frames_BTHWC)

    _ = colour_embedder().dim  # which encodes once
    monkeypatch.setattr(Embedder, "encode_clips", counted)
    monkeypatch.setattr(Embedder, "dim", 9)
    return counts


def test_windows_are_cut_at_scenes_and_embedded_as_anybody_would(videos: Path) -> None:
    built = build(videos)
    assert built.is_new
    with opened(videos) as index:
        assert names(index) == ["a.mp4", "long.mp4", "c.avi"]
        long = index.windows[index.windows["file"] == 1]
        assert list(zip(long["start_s"], long["end_s"], strict=True)) == [(0, 4.25), (2, 6), (4.25, 8), (6, 10)]
        embedder = colour_embedder()
        for number, window in index.windows.iterrows():
            path = Path(index.files["path"][window["file"]])
            frames = clip_of(path, embedder.view, (window["start_s"], window["end_s"]))
            expected = embedder.encode_clips(torch.from_numpy(frames[None])).numpy()
            np.testing.assert_allclose(index.vectors(np.array([number])), expected, atol=1e-6)
        assert index.facts["files"] == {"found": 3, "indexed": 3, "copies": 0, "failed": 0, "added": 3, "removed": 0}
        assert index.facts["windows"] == len(index.windows) == 6
        assert index.model.source == "models/colours"


def test_what_changed_costs_itself(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(videos)
    counts = encoded(monkeypatch)
    assert not build(videos).is_new
    assert opened(videos).generation == 1
    (videos / "a.mp4").rename(videos / "b" / "moved.mp4")
    assert build(videos).is_new
    assert names(opened(videos)) == ["long.mp4", "moved.mp4", "c.avi"]
    assert counts == [], "a moved file is known by its content"
    write_film(videos / "c.avi", [("white", 2.0)], codec="mpeg4", seed=4)
    write_film(videos / "new.mp4", [("white", 1.0)], seed=5)
    (videos / "b" / "moved.mp4").unlink()
    build(videos)
    with opened(videos) as index:
        assert names(index) == ["long.mp4", "c.avi", "new.mp4"]
        assert counts == [2]
        white = index.vectors(np.flatnonzero(index.windows["file"] != 0))
        assert (white > 0).all(), "nothing of the blue content is left"


def test_what_another_build_left_is_removed_when_it_is_old(videos: Path) -> None:
    build(videos)
    known = videos.parent / "index" / "known"
    for name, days in (("old", 40), ("new", 2)):
        (known / f"{name}.sqlite").touch()
        os.utime(known / f"{name}.sqlite", (0, time.time() - days * 86400))
    build(videos)
    assert sorted(path.stem for path in known.glob("*.sqlite")) == ["looked", "new", "probed"]


def test_another_model_or_rule_is_built_beside(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(videos)
    with opened(videos) as old:
        assert build(videos, colour_embedder("other")).is_new
        assert old.changed()
        assert len(old.vectors(np.arange(len(old.windows)))) == 6
        with opened(videos) as new, pytest.raises(IndexingError, match=r"expected the model whose vectors it holds"):
            new.require_model(old.model.key, old.model.source)
    counts = encoded(monkeypatch)
    build(videos)
    assert sum(counts) == 6


def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the name of each file is added that a guarded process opens."""
    seen: list[str] = []

    def noted(check: Any, paths: Any, *arguments: Any) -> Any:
        seen.extend(path.name for path in paths)
        return check_files(check, paths, *arguments)

    for module in (gathering, probing):
        monkeypatch.setattr(module, "check_files", noted)
    return seen


def settle(videos: Path) -> None:
    """Let files be as old as they have to be to be known again."""
    for path in videos.rglob("*.*"):
        os.utime(path, (1e9, 1e9))


def test_an_index_of_another_model_knows_the_files_that_one_beside_it_knows(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(videos)
    build(videos)
    (videos / "b" / "long.mp4").rename(videos / "long.mp4")
    write_film(videos / "new.mp4", [("white", 1.0)], seed=5)
    settle(videos)
    (videos.parent / "damaged").mkdir()
    (videos.parent / "damaged" / "current.json").write_text("{}")
    seen = looked_at(monkeypatch)
    built = build(videos, colour_embedder("other"), "other")
    assert sorted(set(seen)) == ["long.mp4", "new.mp4"], "one that was moved is hashed, a new one is looked at"
    assert seen.count("long.mp4") == 1, "and not decoded again"
    assert built.manifest.facts["files"]["added"] == 4
    with opened(videos, "other") as other, opened(videos) as one:
        assert other.model.key != one.model.key
    seen.clear()
    assert not build(videos, colour_embedder("other"), "other").is_new
    assert seen == [], "it has knowledge of its own"


@pytest.mark.parametrize("why", ["another folder", "anew", "damaged"])
def test_what_cannot_be_taken_over_is_found_out(videos: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    settle(videos)
    build(videos)
    if why == "another folder":
        videos = videos.rename(videos.parent / "elsewhere")
    if why == "damaged":
        for name in ("probed", "looked"):
            (videos.parent / "index" / "known" / f"{name}.sqlite").write_bytes(b"no database" * 100)
    seen = looked_at(monkeypatch)
    build(videos, colour_embedder("other"), "other", anew=why == "anew")
    assert sorted(seen) == sorted(["a.mp4", "c.avi", "long.mp4"] * 2), "what each is, and what is seen in it"


def test_what_cannot_be_read_is_left_out_with_its_reason(videos: Path) -> None:
    (videos / "empty.mp4").write_bytes(b"")
    (videos / "text.mp4").write_text("no video")
    (videos / "copy.mp4").write_bytes((videos / "a.mp4").read_bytes())
    built = build(videos)
    assert built.gathered.failed["reason"].tolist() == ["empty_file", "not_a_video"]
    with opened(videos) as index:
        found = {Path(path).name: reason for path, reason in zip(index.left_out["path"], index.left_out["reason"], strict=True)}
        assert found == {"copy.mp4": "same_content", "empty.mp4": "empty_file", "text.mp4": "not_a_video"}
        counts = index.facts["files"]
        assert counts["found"] == 6 == counts["indexed"] + counts["copies"] + counts["failed"]
    assert not build(videos).is_new


def test_a_folder_without_a_good_video_leaves_the_index_as_it_is(videos: Path) -> None:
    build(videos)
    for path in [*videos.rglob("*.mp4"), *videos.rglob("*.avi")]:
        path.unlink()
    with pytest.raises(ConfigError, match=r"expected files ending in"):  # a drive that is not mounted looks like this
        build(videos)
    (videos / "bad.mp4").write_text("no video")
    with pytest.raises(IndexingError, match=r"found 1 files of which none can; the first: .*bad.mp4"):
        build(videos)
    assert opened(videos).generation == 1


def test_labels_splits_and_dates_come_along(videos: Path) -> None:
    (videos / "a.json").write_text('{"label": "beside"}')
    (videos / "c.json").write_text('{"label": "beside"}')
    table = videos.parent / "known.csv"
    pd.DataFrame({"video": ["a.mp4", "b/long.mp4"], "label": ["said", "said too"], "split": ["test", None]}).to_csv(table)
    known = read_known(table, videos)
    build(videos, known=known)
    with opened(videos) as index:
        assert index.files["label"].tolist() == ["said", "said too", "beside"]
        assert index.files["split"].fillna("none").tolist() == ["test", "none", "none"]
        changed = pd.to_datetime(index.files["date"]).astype("int64") // 10**9
        assert pd.Timestamp(index.files["date"][0]).timestamp() == int((videos / "a.mp4").stat().st_mtime)
        assert len(changed) == 3
    assert build(videos).is_new, "a label changed"


def test_two_builders_are_kept_apart(videos: Path) -> None:
    with only_writer(videos.parent / "index"), pytest.raises(ConfigError, match=r"another process fills this folder"):
        build(videos)


def test_a_damaged_index_is_built_anew_when_that_is_said(videos: Path) -> None:
    build(videos)
    (segment,) = (videos.parent / "index").rglob("segment-*.npy")
    segment.write_bytes(segment.read_bytes()[:-1] + b"?")
    with pytest.raises(IndexingError, match=r"damaged.*--anew"):
        build(videos)
    assert build(videos, anew=True).is_new
    assert len(opened(videos).windows) == 6


def test_a_folder_of_other_things_is_not_filled(videos: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected an index, or a folder to be made, found other things"):
        build_index(videos, Asked(videos, RULE, workers=1), colour_embedder(), "models/colours")


_BUILD = """
import sys, time
from pathlib import Path
from tests.serving.filmed import colour_embedder
from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.serving.embedding.gathering import Asked
from umt_pipeline.serving.index.building import build_index
from umt_pipeline.serving.embedding.windows import WindowRule
encode = Embedder.encode_clips
def slowly(self, frames):
    if len(frames) == 1 and frames.shape[1] > 1:
        print("encoding", flush=True)
        time.sleep(float(sys.argv[3]))
    return encode(self, frames)
Embedder.encode_clips = slowly
Embedder.dim = 9
asked = Asked(Path(sys.argv[1]), WindowRule(length_s=4, stride_s=2, snap_s=0.4), workers=1, batch_size=1)
build_index(Path(sys.argv[2]), asked, colour_embedder(), "models/colours")
print("built", flush=True)
"""


@pytest.mark.slow  # three processes, one after the other
def test_a_killed_build_goes_on_with_the_file_that_it_was_at(tmp_path: Path, root: Path) -> None:
    videos, out = tmp_path / "videos", tmp_path / "index"
    for number in range(5):
        write_film(videos / f"{number}.mp4", [("red", 1.0)], seed=number)
    build(videos)  # of these five; then five more come
    for number in range(5, 10):
        write_film(videos / f"{number}.mp4", [("red", 1.0)], seed=number)

    def run(seconds: float, kill_at: int | None) -> list[str]:
        arguments = [sys.executable, "-c", _BUILD, str(videos), str(out), str(seconds)]
        with subprocess.Popen(arguments, cwd=root, stdout=subprocess.PIPE, text=True) as process:
            said: list[str] = []
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line.strip())
                if len(said) == kill_at:
                    time.sleep(0.05)
                    process.send_signal(signal.SIGKILL)
        return said

    first = run(30.0, kill_at=1)  # killed while the first file is encoded
    assert first == ["encoding"]
    third = run(0.3, kill_at=3)
    assert opened(videos).generation == 1
    assert len(opened(videos).files) == 5, "the old generation serves"
    rest = run(0.0, kill_at=None)
    assert rest[-1] == "built"
    assert 5 <= len(third) - 1 + len(rest) - 1 <= 6, "at most the file in work is done again"
    with opened(videos) as index:
        assert (index.generation, len(index.files), len(index.windows)) == (2, 10, 10)
        assert index.facts["files"]["added"] == 5
    assert not list(out.rglob("*.part"))
