"""Reading of checkpoint files as plain weights: nothing in a file is imported or executed.

A trainer's file holds more than weights: the reference's stage-2 trainer puts a pickled configuration beside them, an
object of a class of its own. Such classes are never imported. Those known by name, and those that the caller names, are
read as plain dicts; any other one is refused.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from umt_pipeline.core.errors import CheckpointError, ConfigError

State = dict[str, Tensor]

# Classes of settings beside published weights. Stage 1 writes its command line. Stage 2 writes a dict whose keys are also
# attributes; where its class lived is not known for sure, so all its likely names are here.
KNOWN_CLASSES = ("argparse.Namespace", "utils.easydict.EasyDict", "easydict.EasyDict", "utils.config.Config")
_CLASS_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_TORCH_REFUSAL = re.compile(r"GLOBAL (\S+) was not an allowed global")


class _StandIn:
    """What is made in place of an object of a class that is not imported: an ordered dict that ignores its arguments.

    It is no dict subclass because torch's safe unpickler puts items into nothing but its own three dict types.
    """

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


def read_checkpoint(path: Path, allow_classes: Iterable[str] = ()) -> State:
    """Read the weights of a ``.safetensors`` or torch file: bare, or inside a ``model`` or ``module`` entry.

    Torch files are read with ``weights_only``, so nothing in them is executed, and what lies beside the weights (the state
    of an optimiser) is not read into memory.

    Args:
        path: the file.
        allow_classes: full names of further classes, ``module.Name``, of which the file may hold objects. They are not
            imported: a plain dict stands in for each object.

    Raises:
        CheckpointError: the file is missing, cannot be read safely, or holds no state dict.
        ConfigError: one of ``allow_classes`` is no full name.
    """
    if wrong := [name for name in allow_classes if not _CLASS_NAME.fullmatch(name)]:
        raise ConfigError(f"allowed class {wrong[0]!r}: expected a full name, module.Name, as in the message of the refusal")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except Exception as error:
            raise _unreadable(path, error) from error
    stand_ins: list[Any] = [(_StandIn, name) for name in (*KNOWN_CLASSES, *allow_classes)]
    with torch.serialization.safe_globals(stand_ins):
        try:
            # Files in torch's old format cannot be mapped. Mapped ones are copied below: the file may be replaced later.
            mapped = zipfile.is_zipfile(path)
            content = torch.load(str(path), map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as error:  # Pickle errors, and whatever a damaged file leads to.
            raise _refused_classes(path, error) or _unreadable(path, error) from error
    state = unwrap(content, str(path))
    return {name: tensor.clone() for name, tensor in state.items()} if mapped else state


def unwrap(content: Any, source: str) -> State:
    """Return the state dict itself or that in its ``model`` or ``module`` entry.

    Raises:
        CheckpointError: neither is a mapping of names to tensors.
    """
    for name in ("model", "module"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    entries = dict(content) if isinstance(content, Mapping) else {}
    if not entries or not all(isinstance(value, Tensor) for value in entries.values()):
        found = list(entries)[:8] or type(content).__name__
        raise CheckpointError(f"{source} holds no state dict, bare or under 'model' or 'module': found {found}")
    return entries


def _refused_classes(path: Path, error: Exception) -> CheckpointError | None:
    """Return a refusal that names the classes, if it was classes that the file was refused for."""
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # Only torch's present format can be searched; the error names the first class of an older file.
        found = _TORCH_REFUSAL.search(str(error))
        # torch leaves out the module of Python's own functions.
        names = [found[1] if "." in found[1] else f"builtins.{found[1]}"] if found else []
    if not names:
        return None
    options = " ".join(f"--allow-class {name}" for name in names)
    return CheckpointError(
        f"{path} holds objects of classes or functions that are not read: {', '.join(names)}. Nothing of them was imported or "
        f"executed. If they are settings beside the weights, go on with {options} (an empty dict then stands in for each "
        "object, still nothing is executed), or save the state dict alone as .safetensors where the file was made"
    )


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    # torch wraps the reason in advice to read the file unsafely; the first error is the reason alone.
    reason = error.__context__ if isinstance(error, pickle.UnpicklingError) and error.__context__ else error
    return CheckpointError(
        f"{path} cannot be read as plain weights: {reason}. If it comes from a source you trust, save its state "
        "dict alone as .safetensors and use that"
    )
