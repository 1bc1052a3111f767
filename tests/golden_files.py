"""Golden numbers: tensors and sizes computed with the reference implementation on small models.

Read from the folder named by ``UMT_GOLDEN_DIR``, by default the copies beside this file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors import safe_open
from torch import Tensor

GOLDEN_DIR = Path(os.environ.get("UMT_GOLDEN_DIR", Path(__file__).parent / "golden"))


def golden_tensors(stage: str, prefix: str) -> dict[str, Tensor]:
    """Return the tensors of ``<stage>.safetensors`` whose name starts with ``prefix``, without it."""
    with safe_open(GOLDEN_DIR / f"{stage}.safetensors", "pt") as file:
        return {key.removeprefix(prefix): file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118


def golden_interval(sizes: Mapping[str, Any], network: Literal["student", "teacher"]) -> float:
    """Return the interval between aligned blocks of a network: its own, if the sizes name one for each, or that of both.

    The names are those of the reference's options, with and without their prefix.
    """
    theirs = "clip_student_return_interval" if network == "student" else "clip_return_interval"
    names = (f"{network}_interval", f"{network}_return_interval", theirs, "interval", "return_interval", "clip_return_interval")
    return float(next((sizes[name] for name in names if name in sizes), 1.0))


def golden_meta(stage: str) -> dict[str, Any]:
    """Return the sizes of ``<stage>.safetensors``."""
    with safe_open(GOLDEN_DIR / f"{stage}.safetensors", "pt") as file:
        return dict(json.loads(file.metadata()["meta"]))
