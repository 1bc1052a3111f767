"""Views of a file that follow each other are decoded together, and are what each alone would be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.video_files import write_video
from umt_pipeline.core.errors import VideoError
from umt_pipeline.video import decode
from umt_pipeline.video.decode import Decoder, decode_batches
from umt_pipeline.video.views import View, ViewConfig, load_view, load_views, make_view


def views_of(name: str, count: int, frames: int = 4) -> list[View]:
    config = ViewConfig(frames=frames, size=32)
    return [make_view(config, "demo", name, number, 12, 48, 64) for number in range(count)]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Which file was decoded for how many views, in order."""
    found: list[tuple[str, int]] = []

    def load(path: Path, views: list[View]) -> np.ndarray:
        found.append((path.stem, len(views)))
        return load_views(path, views)

    monkeypatch.setattr(decode, "load_views", load)
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_they_are_what_each_alone_would_be(tmp_path: Path, workers: int) -> None:
    files = [write_video(tmp_path / f"{name}.mp4", first_number=20 * number) for number, name in enumerate("abc")]
    paths = [path for path in files for _ in range(3)]
    views = [view for name in "abc" for view in views_of(name, 3)]
    for positions, frames_BTSS3 in decode_batches(paths, views, [range(2), range(2, 9)], workers):
        for position, frames in zip(positions, frames_BTSS3, strict=True):
            assert np.array_equal(frames, load_view(paths[position], views[position]))


def test_a_file_is_opened_once_in_a_batch(tmp_path: Path, asked: list[tuple[str, int]]) -> None:
    a, b = (write_video(tmp_path / f"{name}.mp4") for name in "ab")
    first, second = views_of("a", 2), views_of("b", 2)
    wanted = [(a, first[0]), (a, first[1]), (b, second[0]), (b, views_of("b", 1, frames=2)[0]), (b, second[1]), (a, first[0])]
    with Decoder(0) as decoder:
        [(_, answers)] = decoder.decode([(0, wanted)])
    assert asked == [("a", 2), ("b", 1), ("b", 1), ("b", 1), ("a", 1)], "views of another shape are not put together"
    for (path, view), answer in zip(wanted, answers, strict=True):
        assert np.array_equal(answer, load_view(path, view))


def test_only_so_many_pixels_are_held_at_once(
    tmp_path: Path, asked: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "_PIXELS_AT_ONCE", 5 * 48 * 48)
    path = write_video(tmp_path / "a.mp4")
    places = [(0, 1, 2), (1, 2, 3), (3, 4, 4), (4, 5, 6), (0, 10, 11)]
    views = [View(indices, (0, 0, 48, 48), False, 32) for indices in places]
    with Decoder(0) as decoder:
        list(decoder.decode([(0, [(path, view) for view in views])]))
    assert asked == [("a", 3), ("a", 1), ("a", 1)]


def test_a_view_that_cannot_be_read_costs_itself(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    good, bad = View((0, 1), (0, 0, 48, 48), False, 32), View((0, 99), (0, 0, 48, 48), False, 32)
    with Decoder(0) as decoder:
        [(_, answers)] = decoder.decode([(0, [(path, good), (path, bad), (path, good)])])
    assert [isinstance(answer, VideoError) for answer in answers] == [False, True, False]
    assert isinstance(answers[1], VideoError)
    assert answers[1].detail.startswith(f"{path}: ")


@pytest.mark.parametrize(("batch", "drawn"), [(1, 5), (4, 3)])
def test_enough_files_are_begun_for_all_workers(tmp_path: Path, batch: int, drawn: int) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=3)
    view = View((0,), (0, 0, 48, 48), False, 32)
    others = [path.with_name(f"{number}.mp4") for number in range(40)]
    for other in others:
        other.symlink_to(path)
    begun: list[int] = []

    def batches() -> Iterator[tuple[int, list[tuple[Path, View]]]]:
        for number in range(8):
            begun.append(number)
            yield number, [(other, view) for other in others[:batch]]

    with Decoder(2) as decoder:
        answers = decoder.decode(batches())
        next(answers)
        assert len(begun) == drawn
        assert len(list(answers)) == 7


def test_batches_of_nothing_are_handed_out_in_their_turn(tmp_path: Path) -> None:
    path, [view] = write_video(tmp_path / "a.mp4"), views_of("a", 1)
    with Decoder(2) as decoder:
        found = list(decoder.decode([(0, []), (1, [(path, view)]), (2, []), (3, [])]))
    assert [(key, len(answers)) for key, answers in found] == [(0, 0), (1, 1), (2, 0), (3, 0)]


def test_views_that_do_not_fit_into_memory_together_are_decoded_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(path: Path, views: list[View]) -> np.ndarray:
        if len(views) > 1:
            raise MemoryError
        return load_views(path, views)

    monkeypatch.setattr(decode, "load_views", load)
    path, views = write_video(tmp_path / "a.mp4"), views_of("a", 3)
    with Decoder(0) as decoder:
        [(_, answers)] = decoder.decode([(0, [(path, view) for view in views])])
    for view, answer in zip(views, answers, strict=True):
        assert np.array_equal(answer, load_view(path, view))
