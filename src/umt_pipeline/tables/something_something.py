"""Something-Something V2."""

from __future__ import annotations

from umt_pipeline.core.errors import TableError
from umt_pipeline.tables.collect import Collector
from umt_pipeline.tables.sources import Files, name_of, value_of

TASK = "ssv2"


def read_ssv2(files: Files, out: Collector, suffix: str) -> None:
    """Read the official JSON files.

    The label is the template without brackets, as ``labels.json`` writes it: ``Holding something next to something``. The
    caption is the sentence with the objects that people named. Test videos have neither.

    Args:
        files: ``train``, ``validation``, ``test``; ``labels``, an object from labels to numbers.
        out: takes the rows.
        suffix: of media files, which are called by their ids.

    Raises:
        TableError: a key is missing, or a template is not among the labels.
    """
    path = files.get("labels")
    known = set(files.json(path, dict)) if path else None
    for split, path in files.splits():
        for place, item in files.items(path):
            video = out.video(name_of(item, "id", place) + suffix, split, place)
            if split == "test" and "template" not in item:
                continue
            label = value_of(item, "template", str, place).replace("[", "").replace("]", "")
            if known is not None and label not in known:
                raise TableError(f"{place}, key 'template': expected one of the {len(known)} labels, found '{label}'.")
            out.label(video, TASK, label, place)
            out.caption(video, value_of(item, "label", str, place), place)
