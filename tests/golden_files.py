"""Golden numbers: tensors and sizes computed with the reference implementation on small models.

Read from the folder named by ``UMT_GOLDEN_DIR``, by default the copies beside this file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

GOLDEN_DIR = Path(os.environ.get("UMT_GOLDEN_DIR", Path(__file__).parent / "golden"))


def golden_tensors(stage: str, prefix: str) -> dict[str, Tensor]:
    """Return the tensors of ``<stage>.safetensors`` whose name starts with ``prefix``, without it."""
    with safe_open(GOLDEN_DIR / f"{stage}.safetensors", "pt") as file:
        return {key.removeprefix(prefix): file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118


def golden_meta(stage: str) -> dict[str, Any]:
    """Return the sizes of ``<stage>.safetensors``."""
    with safe_open(GOLDEN_DIR / f"{stage}.safetensors", "pt") as file:
        return dict(json.loads(file.metadata()["meta"]))
