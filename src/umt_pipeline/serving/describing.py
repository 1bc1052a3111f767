"""What a model is, in words and numbers: read from its files, without loading it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.core.files import read_json, sha256_file
from umt_pipeline.models.folders import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from umt_pipeline.models.teacher import CLIP_CONFIG_FILE, teacher_weights_file
from umt_pipeline.serving.sources import OPEN_CLIP, Found, classifier_folders, tower_sizes

_EMBEDS = ("attention", "videos")
_CAN = {
    "stage1": _EMBEDS,
    "encoder": _EMBEDS,
    "stage2": (*_EMBEDS, "match", "texts"),
    "retrieval": (*_EMBEDS, "match", "texts"),
    "classification": ("classify",),
    "question_answering": ("ask",),
    "detection": (),
}
_LIMITS = re.compile(r"^## Intended use and limits\n+(.+?)(?=\n## |\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Part:
    """A network of a model; only classifiers have several, one for each label task.

    Attributes:
        file: with its weights.
        bytes: of the file.
        sha256: of the file.
        parameters: numbers in it.
        sizes: its configuration.
        training: what was recorded when it was trained or imported.
        limits: what its card says of intended use and limits; "" without a card.
    """

    file: str
    bytes: int
    sha256: str
    parameters: int
    sizes: Mapping[str, Any]
    training: Mapping[str, Any]
    limits: str


@dataclass(frozen=True)
class Description:
    """What a model is.

    Attributes:
        source: what was asked for.
        kind: of the model.
        folder: with its files.
        frames: that it reads of a video.
        size: side of a frame in pixels.
        abilities: what :attr:`umt_pipeline.serving.models.Model.abilities` would be.
        parts: its networks, by label task; "" where there is one.
        facts: the version and its tags of a registered model, the file of an imported one.
    """

    source: str
    kind: str
    folder: str
    frames: int | None
    size: int
    abilities: tuple[str, ...]
    parts: Mapping[str, Part]
    facts: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """Yield it for people."""
        frames = f"{self.frames} frames" if self.frames else "frames"
        yield from _rows("", {"model": self.source, "kind": self.kind, "folder": self.folder})
        yield from _rows("", {"reads": f"{frames} of {self.size} x {self.size} pixels of a video", "can": _can(self.abilities)})
        yield from _rows("", self.facts)
        for name, part in self.parts.items():
            yield ""
            if name:
                yield f"label task {name}"
            weights = f"{part.file}, {part.bytes / 1e6:.1f} MB, {part.parameters:,} numbers"
            yield from _rows("  ", {"weights": weights, "SHA-256": part.sha256})
            yield from _rows("  ", _flat(part.sizes))
            yield from _rows("  ", _flat(part.training))
            if part.limits:
                yield f"  {part.limits}"


def describe(found: Found) -> Description:
    """Describe a model.

    Raises:
        CheckpointError: its files are not complete.
    """
    facts = found.facts or {}
    if found.kind in ("teacher", OPEN_CLIP):
        part, has_text = _tower(found.folder)
        view = (found.settings or {}).get("view", {})
        frames, size = view.get("frames"), view.get("size") or tower_sizes(found.folder)[0]
        can = (*_EMBEDS, "texts") if has_text else _EMBEDS
        return Description(found.source, found.kind, str(found.folder), frames, size, can, {"": part}, facts)
    parts = {folder.name: _part(folder) for folder in classifier_folders(found.folder)}
    if len(parts) == 1 and found.kind != "classification":
        parts = {"": next(iter(parts.values()))}
    vision = next(iter(parts.values())).sizes["vision"]
    shown = (found.settings or {}).get("clip") or {"frames": vision["frames"], "size": vision["image_size"]}
    return Description(
        found.source, found.kind, str(found.folder), shown["frames"], shown["size"], _CAN[found.kind], parts, facts
    )


def _part(folder: Path) -> Part:
    config = read_json(folder / CONFIG_FILE)
    card = folder / CARD_FILE
    told = _LIMITS.search(card.read_text(encoding="utf-8")) if card.is_file() else None
    return _weighed(folder / WEIGHTS_FILE, config["model"], config["extra"], told[1].strip() if told else "")


def _tower(folder: Path) -> tuple[Part, bool]:
    """Return an image tower, and whether it comes with a text tower."""
    weights = teacher_weights_file(folder)
    has_text = (folder / CLIP_CONFIG_FILE).is_file()
    config = read_json(folder / (CLIP_CONFIG_FILE if has_text else CONFIG_FILE))
    return _weighed(weights, config, {}, ""), has_text


def _weighed(file: Path, sizes: Mapping[str, Any], training: Mapping[str, Any], limits: str) -> Part:
    if not file.is_file():
        raise CheckpointError(f"{file.parent} is no model folder: {file.name} is missing")
    try:
        with safe_open(file, framework="pt") as weights:
            parameters = sum(prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{file} cannot be read as safetensors: {error}") from error
    return Part(file.name, file.stat().st_size, sha256_file(file), parameters, sizes, training, limits)


def _can(abilities: tuple[str, ...]) -> str:
    return ", ".join(abilities) or "nothing without boxes of people: register it, and let MLflow load it"


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values under names like ``vision.dim``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= (
            {f"{name}.{key}": inner for key, inner in _flat(value).items()} if isinstance(value, Mapping) else {name: value}
        )
    return found


def _rows(indent: str, values: Mapping[str, Any]) -> Iterator[str]:
    width = max(map(len, values), default=0)
    for name, value in values.items():
        yield f"{indent}{name:<{width}}  {value}"
