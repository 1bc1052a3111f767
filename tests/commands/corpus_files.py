"""A folder of files that are called videos, and tables about them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

NAMES = ("a.mp4", "b.MOV", "deep/ç 1.webm")


def write_media(folder: Path) -> Path:
    """Write three files that differ, and beside the folder captions.csv and labels.csv; return the folder."""
    for name in (*NAMES, "notes.log"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, encoding="utf-8")
    pd.DataFrame({"video": ["a.mp4", "b.MOV", "gone.mp4"], "caption": ["x", "y", "z"]}).to_csv(
        folder.parent / "captions.csv", index=False
    )
    pd.DataFrame({"video": ["a.mp4"], "label": ["cat"]}).to_csv(folder.parent / "labels.csv", index=False)
    return folder
