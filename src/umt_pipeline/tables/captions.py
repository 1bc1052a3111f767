"""Captions of large corpora: WebVid, CC3M, CC12M, SBU, COCO, Visual Genome. Images are rows of the video table too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from umt_pipeline.core.errors import TableError
from umt_pipeline.tables.collect import Collector
from umt_pipeline.tables.sources import Files, Place, name_of, objects, texts_of, value_of

# img2dataset's layout with its default shards: 00012/000120034.jpg is row 120034 of the list of addresses.
_SHARD = 10_000
_SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}


def read_webvid(files: Files, out: Collector, suffix: str) -> None:
    """Read ``results_*_train.csv`` and ``results_*_val.csv``: ``videoid,contentUrl,duration,page_dir,name``.

    Args:
        files: ``train``, ``validation``.
        out: takes the rows; videos are ``<page_dir>/<videoid>``, as the public downloader writes them.
        suffix: of media files.

    Raises:
        TableError: a column is missing.
    """
    for split, path in files.splits():
        for place, row in files.table(path, "videoid", "page_dir", "name"):
            video = out.video(str(PurePosixPath(row["page_dir"], row["videoid"] + suffix)), split, place)
            out.caption(video, row["name"], place)


def read_conceptual(files: Files, out: Collector, suffix: str, *, columns: tuple[str, str]) -> None:
    """Read a file with tabs of captions and addresses, as of CC3M and CC12M, with or without a header.

    The files do not name images: an image is called by its row, as img2dataset writes it (``--output_format files``).

    Args:
        files: ``train``, ``validation``.
        out: takes the rows; in ``train`` and ``validation`` images lie in the folders of these names.
        suffix: of media files.
        columns: ``caption`` and ``url`` in the order that files without a header have.

    Raises:
        TableError: a row does not have two cells.
    """
    for split, path in files.splits():
        order, row = columns, 0
        for place, cells in files.tabbed(path):
            if row == 0 and sorted(cell.strip().lower() for cell in cells) == ["caption", "url"]:
                order = (cells[0].strip().lower(), cells[1].strip().lower())
                continue
            if len(cells) != 2:
                raise TableError(f"{place}: expected 2 cells with a tab between ({', '.join(order)}), found {len(cells)}.")
            out.caption(out.video(_by_row(split, row, suffix), split, place), cells[order.index("caption")], place)
            row += 1


def read_sbu(files: Files, out: Collector, suffix: str) -> None:
    """Read ``sbu-captions-all.json``: an object with the lists ``image_urls`` and ``captions``.

    Images are called by their rows, as by :func:`read_conceptual`.

    Args:
        files: ``train``.
        out: takes the rows.
        suffix: of media files.

    Raises:
        TableError: a list is missing, or they are not equally long.
    """
    for split, path in files.splits():
        record, place = files.json(path, dict), Place(path.name, "key", "captions")
        captions, addresses = texts_of(record, "captions", place), value_of(record, "image_urls", list, place)
        if len(captions) != len(addresses):
            raise TableError(f"{place}: expected as many captions as image_urls, found {len(captions)} and {len(addresses)}.")
        for row, caption in enumerate(captions):
            place = Place(path.name, "caption", row)
            out.caption(out.video(_by_row(split, row, suffix), split, place), caption, place)


def read_coco(files: Files, out: Collector, suffix: str) -> None:
    """Read ``captions_train2014.json`` and the like: an object with the lists ``images`` and ``annotations``.

    Args:
        files: ``train``, ``validation``.
        out: takes the rows; images are ``train2014/COCO_train2014_….jpg``, folder and name of ``coco_url``.
        suffix: not used; the files name whole files.

    Raises:
        TableError: a key is missing, or a caption is of an image that is not listed.
    """
    for split, path in files.splits():
        record, top = files.json(path, dict), Place(path.name, "item", "top")
        images = {}
        for place, image in objects(value_of(record, "images", list, top), path.name, "image"):
            name = _folder_and_name(image, "coco_url") or name_of(image, "file_name", place)
            images[name_of(image, "id", place)] = out.video(name, split, place)
        for place, item in objects(value_of(record, "annotations", list, top), path.name, "annotation"):
            key = name_of(item, "image_id", place)
            if key not in images:
                raise TableError(f"{place}, key 'image_id': expected one of the {len(images)} images, found {key}.")
            out.caption(images[key], value_of(item, "caption", str, place), place)


def read_karpathy(files: Files, out: Collector, suffix: str) -> None:
    """Read Karpathy's ``dataset_coco.json`` or ``dataset_flickr30k.json``; ``restval`` belongs to training.

    Args:
        files: ``data``.
        out: takes the rows; images are ``<filepath>/<filename>``.
        suffix: not used; the file names whole files.

    Raises:
        TableError: a key is missing, or a split has another name.
    """
    for path in files.all("data"):
        top = Place(path.name, "item", "top")
        for place, image in objects(value_of(files.json(path, dict), "images", list, top), path.name, "image"):
            split = _SPLITS.get(name_of(image, "split", place))
            if split is None:
                raise TableError(f"{place}, key 'split': expected one of {', '.join(_SPLITS)}, found '{image['split']}'.")
            name = str(PurePosixPath(image.get("filepath", ""), name_of(image, "filename", place)))
            video = out.video(name, split, place)
            for inner, sentence in _parts(image, "sentences", place):
                out.caption(video, value_of(sentence, "raw", str, inner), inner)


def read_visual_genome(files: Files, out: Collector, suffix: str) -> None:
    """Read ``region_descriptions.json``: every region's phrase is a caption of its image.

    Args:
        files: ``train``; ``images``, ``image_data.json``, which tells the folder of each image.
        out: takes the rows; images are ``VG_100K/1.jpg``, or ``1.jpg`` without ``image_data.json``.
        suffix: of media files, where the folder is not known.

    Raises:
        TableError: a key is missing.
    """
    path = files.get("images")
    folders = _visual_genome_images(files, path) if path else {}
    for split, path in files.splits():
        for place, item in files.items(path):
            key = name_of(item, "id" if "id" in item else "image_id", place)
            video = out.video(folders.get(key, key + suffix), split, place)
            for inner, region in _parts(item, "regions", place):
                out.caption(video, value_of(region, "phrase", str, inner), inner)


def _visual_genome_images(files: Files, path: Path) -> dict[str, str]:
    images = {}
    for place, image in files.items(path):
        name = _folder_and_name(image, "url")
        if name is None:
            raise TableError(f"{place}: expected the key 'url', found {', '.join(map(str, image))}.")
        images[name_of(image, "image_id" if "image_id" in image else "id", place)] = name
    return images


def _parts(item: dict[str, Any], key: str, place: Place) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield the objects of a list inside an object of a list."""
    yield from objects(value_of(item, key, list, place), place.file, f"{place.unit} {place.number}, {key}")


def _folder_and_name(image: dict[str, Any], key: str) -> str | None:
    address = image.get(key)
    return "/".join(address.split("/")[-2:]) if isinstance(address, str) and address.count("/") > 2 else None


def _by_row(split: str, row: int, suffix: str) -> str:
    return f"{split}/{row // _SHARD:05d}/{row:09d}{suffix}"
