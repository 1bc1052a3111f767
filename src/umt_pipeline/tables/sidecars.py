"""Files that stand beside a video and say something about it: ``x.txt`` and ``x.json`` beside ``x.mp4``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from umt_pipeline.core.errors import TableError
from umt_pipeline.tables.files import parse_json, read_text

SIDECAR_SUFFIXES = frozenset({".txt", ".json"})
CAPTION_KEYS = ("caption", "captions", "text")
# What is said about one video is shorter; a log that happens to have its name may not be.
MAX_BYTES = 1_000_000


class Said(NamedTuple):
    """What a sidecar says.

    Attributes:
        captions: without white space at their ends; none is blank, none is there twice.
        label: or None.
    """

    captions: tuple[str, ...] = ()
    label: str | None = None


def read_sidecar(path: Path) -> Said:
    """Read a sidecar.

    A text file has a caption in each line that is not blank. A JSON file is an object; captions are under ``caption``,
    ``captions`` and ``text`` (a text or a list of texts each), a text or a number under ``label``; other keys are left out.

    Raises:
        TableError: it is none of this, larger than a megabyte, or cannot be read.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise TableError(f"{path}: expected at most {MAX_BYTES:,} bytes about one video, found {size:,}.")
        text = read_text(path)
    except OSError as error:
        raise TableError(f"{path}: cannot be read: {error.strerror or error}.") from error
    if path.suffix.lower() == ".txt":
        # Not splitlines(), which also cuts at characters that stand within a sentence, such as U+2028 and U+0085.
        return Said(_cleaned(text.split("\n")))
    try:
        value = parse_json(text)
    except ValueError as error:
        raise TableError(f"{path}: not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise TableError(f"{path}: expected a JSON object, found {type(value).__name__}.")
    return Said(_captions(path, value), _label(path, value.get("label")))


def _captions(path: Path, record: dict[str, Any]) -> tuple[str, ...]:
    texts: list[str] = []
    for key in CAPTION_KEYS:
        value = record.get(key)
        for text in value if isinstance(value, list) else [] if value is None else [value]:
            if not isinstance(text, str):
                raise TableError(f"{path}, key '{key}': expected a text or a list of texts, found {type(text).__name__}.")
            texts.append(text)
    return _cleaned(texts)


def _label(path: Path, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return (value or "").strip() or None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TableError(f"{path}, key 'label': expected a text or a number, found {type(value).__name__}.")
    return str(value)


def _cleaned(texts: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))
