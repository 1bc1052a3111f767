"""Model folders in the Hugging Face layout (config.json, model.safetensors, README.md) and strict loading of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import CheckpointError
from umt_pipeline.core.files import read_json, sha256_file, staged_file, write_json
from umt_pipeline.models.card import model_card

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
SKIPPED_FILE = "skipped.json"
CLASSES_FILE = "classes.json"

Sizes = TypeVar("Sizes", bound=Config)
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class LoadReport:
    """What a load did with each key; ``notes`` say for people what the keys alone do not."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return the counts, the keys that were allowed to stay away or to be left out, and the notes, for people."""
        groups = {"missing": self.missing, "unexpected": self.unexpected, "mis-shaped": self.misshaped}
        counts = ", ".join(f"{len(keys)} {name}" for name, keys in groups.items())
        named = [f"allowed: {_listed(name, list(keys))}" for name, keys in groups.items() if keys]
        return [f"{len(self.matched)} keys matched, {counts}", *named, *self.notes]


def save_model(folder: Path, model: nn.Module, config: Config, kind: str, extra: Mapping[str, Any] | None = None) -> None:
    """Write ``model.safetensors``, ``config.json`` and a model card into ``folder`` (which exists).

    Args:
        folder: where; callers write into a staged folder and move it into place.
        model: its state dict is saved, tensors made contiguous on the CPU.
        config: the configuration from which the model can be built again.
        kind: name of the architecture, checked when the folder is loaded.
        extra: further JSON-able facts (training summary, hashes) kept beside the configuration.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    sizes, facts = config.model_dump(mode="json"), dict(extra or {})
    write_json(folder / CONFIG_FILE, {"kind": kind, "model": sizes, "extra": facts})
    parameters = sum(parameter.numel() for parameter in model.parameters())
    with staged_file(folder / CARD_FILE) as staged:
        staged.write_text(model_card(kind, sizes, parameters, facts), encoding="utf-8")


def model_kind(folder: Path) -> str:
    """Return the kind of model in a folder.

    Raises:
        CheckpointError: no ``config.json`` there, or one that names no kind.
    """
    kind = _read_config(folder).get("kind")
    if not isinstance(kind, str):
        raise CheckpointError(f"{folder / CONFIG_FILE} names no kind of model: found {kind!r}")
    return kind


def load_config(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a model folder's configuration and its extra facts.

    Raises:
        CheckpointError: no ``config.json`` there, or one of another kind of model.
    """
    content = _read_config(folder)
    if content.get("kind") != kind:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} describes a model of kind {content.get('kind')!r}, expected {kind!r}"
        )
    return content["model"], content["extra"]


def load_model(folder: Path, kind: str, config: type[Sizes], build: Callable[[Sizes], Model]) -> Model:
    """Build the model of a folder, load its weights, and put it in eval mode.

    Args:
        folder: a model folder.
        kind: of the model.
        config: class of its configuration.
        build: makes the model.

    Raises:
        CheckpointError: the folder is not a complete model of this kind.
    """
    sizes, _ = load_config(folder, kind)
    model = build(config.model_validate(sizes))
    load_weights(model, read_weights(folder), source=str(folder))
    return model.eval()


def save_with_classes(
    folder: Path, model: nn.Module, config: Config, kind: str, classes: Sequence[str], extra: Mapping[str, Any] | None = None
) -> None:
    """Write a model folder (:func:`save_model`) with ``classes.json``, the labels in the order of the model's head.

    Raises:
        CheckpointError: ``classes`` are not as many different labels as the head has rows.
    """
    require_classes(classes, config.model_dump()["classes"], str(folder))
    save_model(folder, model, config, kind, extra)
    write_json(folder / CLASSES_FILE, list(classes))


def load_classes(folder: Path, kind: str) -> tuple[str, ...]:
    """Read the labels of a model folder, in the head's order.

    Args:
        folder: of a model with a head of ``classes``.
        kind: of the model.

    Raises:
        CheckpointError: ``classes.json`` is missing or is no list of C different labels.
    """
    path = folder / CLASSES_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{path}: expected a JSON list of the labels in the order of the model's head, found nothing. A model "
            "that was imported does not know them: write the list there"
        )
    config, _ = load_config(folder, kind)
    classes, count = read_json(path), int(config["classes"])
    if not isinstance(classes, list) or len(set(map(str, classes))) != count or len(classes) != count:
        found = f"{len(classes)} labels" if isinstance(classes, list) else type(classes).__name__
        raise CheckpointError(f"{path}: expected a JSON list of {count} different labels, found {found}")
    return tuple(str(name) for name in classes)


def require_classes(classes: Sequence[str], count: int, source: str) -> None:
    """Refuse labels that do not name each row of a head once.

    Raises:
        CheckpointError: they are not ``count`` different ones.
    """
    if len(classes) != count or len(set(classes)) != count:
        raise CheckpointError(f"{source}: expected {count} different labels, one per row of the head, found {len(classes)}")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read a model folder's ``model.safetensors``.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} is no model folder: {WEIGHTS_FILE} is missing")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error


def load_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    allow_missing: Iterable[str] = (),
    allow_unexpected: Iterable[str] = (),
) -> LoadReport:
    """Load a state dict and fail on any key that does not fit.

    Args:
        model: receives the weights.
        state: names and tensors, already in this project's names.
        source: file or folder, for messages.
        allow_missing: glob patterns of keys that may stay at their initial values.
        allow_unexpected: glob patterns of keys that may be left out.

    Returns:
        The matched, missing and unexpected keys (the latter two allowed ones only).

    Raises:
        CheckpointError: listing matched, missing, unexpected and mis-shaped keys.
    """
    own = model.state_dict()
    misshaped = {key: (tuple(state[key].shape), tuple(own[key].shape)) for key in own.keys() & state.keys()}
    misshaped = {key: shapes for key, shapes in misshaped.items() if shapes[0] != shapes[1]}
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    bad_missing = [key for key in missing if not _allowed(key, allow_missing)]
    bad_unexpected = [key for key in unexpected if not _allowed(key, allow_unexpected)]
    matched = sorted((own.keys() & state.keys()) - misshaped.keys())
    if misshaped or bad_missing or bad_unexpected:
        shapes = [f"{key} is {found}, expected {expected}" for key, (found, expected) in sorted(misshaped.items())]
        raise CheckpointError(
            f"{source} does not fit {type(model).__name__}: {len(matched)} keys matched; "
            f"{_listed('missing', bad_missing)}; {_listed('unexpected', bad_unexpected)}; {_listed('mis-shaped', shapes)}"
        )
    model.load_state_dict({key: state[key] for key in matched}, strict=False)
    return LoadReport(tuple(matched), tuple(missing), tuple(unexpected), ())


def weights_sha256(folder: Path) -> str:
    """Return the SHA-256 of a model folder's weights file."""
    return sha256_file(folder / WEIGHTS_FILE)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} is no model folder: {CONFIG_FILE} is missing")
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} describes no model: expected a mapping, found {type(content).__name__}")
    return content


def _allowed(key: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(key, pattern) for pattern in patterns)


def _listed(name: str, items: list[str]) -> str:
    shown = ", ".join(items[:20]) + (f" and {len(items) - 20} more" if len(items) > 20 else "")
    return f"{len(items)} {name}" + (f" ({shown})" if items else "")
