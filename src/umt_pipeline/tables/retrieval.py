"""Retrieval benchmarks in the files of their authors: MSR-VTT, DiDeMo, ActivityNet Captions, LSMDC, MSVD."""

from __future__ import annotations

from pathlib import Path

from umt_pipeline.core.errors import TableError
from umt_pipeline.tables.collect import Collector, with_suffix
from umt_pipeline.tables.sources import Files, Place, name_of, objects, texts_of, value_of

_MSRVTT_SPLITS = {"train": "train", "validate": "validation", "test": "test"}
_LSMDC_CELLS = 6


def read_msrvtt(files: Files, out: Collector, suffix: str) -> None:
    """Read ``*videodatainfo.json``, with the lists of the 9k / 1k-A protocol or without.

    With a list of training videos, these have all their captions. With a test list (``MSRVTT_JSFUSION_test.csv``), its
    videos have the one sentence that stands there. Without lists the split is the JSON's own (6,513 / 497 / 2,990).

    Args:
        files: ``data``, one or more; ``train_list`` (column ``video_id``); ``test_list`` (``video_id``, ``sentence``).
        out: takes the rows.
        suffix: of media files.

    Raises:
        TableError: a key or column is missing, or a listed training video is not in the data.
    """
    train_list, test_list = files.get("train_list"), files.get("test_list")
    listed: dict[str, Place] = {}
    sentences: list[tuple[Place, str, str]] = []
    for path in files.all("data"):
        record, top = files.json(path, dict), Place(path.name, "item", "top")
        for place, video in objects(value_of(record, "videos", list, top), path.name, "video"):
            split = _MSRVTT_SPLITS.get(name_of(video, "split", place))
            if split is None:
                raise TableError(
                    f"{place}, key 'split': expected one of {', '.join(_MSRVTT_SPLITS)}, found '{video['split']}'."
                )
            name = name_of(video, "video_id", place)
            listed[name] = place
            if train_list is None and test_list is None:
                out.video(name + suffix, split, place)
        for place, sentence in objects(value_of(record, "sentences", list, top), path.name, "sentence"):
            sentences.append((place, name_of(sentence, "video_id", place), value_of(sentence, "caption", str, place)))
    if train_list is not None:
        for place, row in files.table(train_list, "video_id"):
            if row["video_id"] not in listed:
                raise TableError(f"{place}: expected a video of the JSON files, found '{row['video_id']}'.")
            out.video(row["video_id"] + suffix, "train", place)
    for place, name, caption in sentences:
        if out.knows(name + suffix):
            out.caption(name + suffix, caption, place)
    if test_list is not None:
        for place, row in files.table(test_list, "video_id", "sentence"):
            out.caption(out.video(row["video_id"] + suffix, "test", place), row["sentence"], place)
    for name, place in listed.items():
        if not out.knows(name + suffix):
            out.notes.add("videos in none of the lists were left out", place)


def read_didemo(files: Files, out: Collector, suffix: str) -> None:
    """Read ``train_data.json``, ``val_data.json``, ``test_data.json``: a list of described moments.

    A video's caption is the paragraph of all its descriptions, in the order of the file.

    Args:
        files: ``train``, ``validation``, ``test``.
        out: takes the rows.
        suffix: of media files that are named without one.

    Raises:
        TableError: a key is missing.
    """
    for split, path in files.splits():
        paragraphs: dict[str, tuple[Place, list[str]]] = {}
        for place, moment in files.items(path):
            video = out.video(with_suffix(name_of(moment, "video", place), suffix), split, place)
            paragraphs.setdefault(video, (place, []))[1].append(value_of(moment, "description", str, place))
        for video, (place, sentences) in paragraphs.items():
            out.paragraph(video, sentences, place)


def read_activitynet(files: Files, out: Collector, suffix: str) -> None:
    """Read ``train.json`` and ``val_1.json``: an object from videos to their sentences, which make one paragraph.

    Args:
        files: ``train``, ``validation``, ``test``.
        out: takes the rows.
        suffix: of media files.

    Raises:
        TableError: a key is missing or of another type.
    """
    for split, path in files.splits():
        for name, value in files.json(path, dict).items():
            place = Place(path.name, "key", name)
            ((_, item),) = objects([value], path.name, f"key {name}, item")
            out.paragraph(out.video(name + suffix, split, place), texts_of(item, "sentences", place), place)


def read_lsmdc(files: Files, out: Collector, suffix: str) -> None:
    """Read ``LSMDC16_annos_*.csv`` and ``LSMDC16_challenge_1000_publictect.csv``.

    Six cells with tabs between, no header, quotes mean nothing: clip, four times, sentence.

    Args:
        files: ``train``, ``validation``, ``test``.
        out: takes the rows; videos are ``<film>/<clip>``.
        suffix: of media files.

    Raises:
        TableError: a row has another number of cells, or a clip's name does not end in its times.
    """
    for split, path in files.splits():
        for place, cells in files.tabbed(path):
            film, _, times = cells[0].strip().rpartition("_")
            if len(cells) != _LSMDC_CELLS:
                raise TableError(f"{place}: expected {_LSMDC_CELLS} cells with tabs between, found {len(cells)}.")
            if not film or "-" not in times:
                raise TableError(f"{place}: expected a clip such as FILM_00.00.51.926-00.00.54.129, found '{cells[0]}'.")
            out.caption(out.video(f"{film}/{cells[0].strip()}{suffix}", split, place), cells[-1], place)


def read_msvd(files: Files, out: Collector, suffix: str) -> None:
    """Read ``AllVideoDescriptions.txt`` (``clip sentence`` per line, comments after #) and the lists of the splits.

    Every sentence is a caption of its own; no paragraph is made of them.

    Args:
        files: ``descriptions``; ``train``, ``validation``, ``test``, a clip per line.
        out: takes the rows.
        suffix: of media files.

    Raises:
        TableError: a line has no sentence.
    """
    for split, path in files.splits():
        for place, line in files.lines(path):
            out.video(_clip(line, suffix), split, place)
    for path in files.all("descriptions"):
        for place, line in files.lines(path):
            if line.startswith("#"):
                continue
            clip, _, sentence = line.partition(" ")
            if not sentence.strip():
                raise TableError(f"{place}: expected a clip and a sentence with a space between, found {line!r}.")
            if out.knows(clip + suffix):
                out.caption(clip + suffix, sentence, place)
            else:
                out.notes.add("captions of clips in no list were left out", place)


def _clip(line: str, suffix: str) -> str:
    return line.strip().removesuffix(suffix) + suffix


def read_msvd_mapping(files: Files, path: Path) -> dict[str, str]:
    """Read ``youtube_mapping.txt``: ``clip vidN`` per line.

    Returns:
        Clips by ``N``.

    Raises:
        TableError: a line has another form.
    """
    clips = {}
    for place, line in files.lines(path):
        fields = line.split()
        if len(fields) != 2 or not fields[1].startswith("vid") or not fields[1][3:].isdigit():
            raise TableError(f"{place}: expected a clip and its name such as vid12, found {line!r}.")
        clips[fields[1][3:]] = fields[0]
    return clips
