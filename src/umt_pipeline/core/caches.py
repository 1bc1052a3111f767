"""Where things are kept that can be made again: models that were converted, or fetched."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "UMT_CACHE"


def cache_folder(name: str) -> Path:
    """Return the folder for one kind of thing, which may not be there yet.

    It lies in the folder that the environment variable ``UMT_CACHE`` names, else where the user's caches are.

    Args:
        name: of the kind.
    """
    own = os.environ.get(VARIABLE)
    if own:
        return Path(own) / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "umt_pipeline" / name
