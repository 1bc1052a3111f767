"""Parameters of a corpus that follow from its tables: `umt init` writes them, `umt update` keeps them in step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from umt_pipeline.commands.corpus import edited
from umt_pipeline.core.nested import leaves


def derived_parameters(tables: Mapping[str, pd.DataFrame], videos: pd.DataFrame, start: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters by block, nested as in the files.

    Args:
        tables: captions (video, caption) and labels (video, task, label); one without rows may be missing.
        videos: column video: all media.
        start: the parameters that a corpus starts from, which say what tasks start from where there are captions.
    """
    captioned, labels = len(tables.get("captions", ())) > 0, tables.get("labels", pd.DataFrame())
    tasks = sorted(set(labels["task"])) if len(labels) else []
    # What the small teacher reads in place of captions where there are none: labels, if every clip has one.
    templates = [
        f"a video of {{{task}}}"
        for task in tasks
        if not captioned and set(videos["video"]) <= set(labels.loc[labels["task"] == task, "video"])
    ]
    return {
        "teacher_features": {"train_small": {"templates": templates}},
        "evaluation": {"tasks": tasks},
        "classification": {
            "tasks": tasks or start["classification"]["tasks"],
            "start": start["classification"]["start"] if captioned else "stage1",
        },
        "detection": {"start": start["detection"]["start"] if captioned else "stage1"},
    }


def derived_gates(gates: Mapping[str, Any], derived: Mapping[str, Any]) -> dict[str, Any]:
    """Return the gates of a corpus: the demo's are of labels and of a test set that others do not have.

    The first label task must rise, the others must not fall. Without labels nothing is measured of stage 1 and of
    classification, and they have no gate.

    Args:
        gates: by kind, of the parameters that a corpus starts from: what else they say stays.
        derived: of :func:`derived_parameters`.
    """
    searched, probed, told = "retrieval/test/{}", "probe/linear/{}/{}", "classification/{}/{}/top1"
    numbers: dict[str, list[str]] = {
        "teacher": [searched.format("teacher/dual/t2v_r1")],
        "stage2": [searched.format(f"stage2/{name}") for name in ("dual/t2v_r1", "dual/v2t_r1", "reranked/t2v_r5")],
        "retrieval": [searched.format(f"fine_tuned/dual/{name}") for name in ("t2v_r1", "v2t_r1")],
        "question_answering": ["question_answering/test/stage2/accuracy"],
        "detection": [f"detection/test/{derived['detection']['start']}/top1"],
    }
    if tasks := derived["evaluation"]["tasks"]:
        numbers["teacher"] = [probed.format(task, "teacher_patch") for task in tasks]
        numbers["stage1"] = [probed.format(task, "stage1") for task in tasks]
        numbers["classification"] = [told.format(task, derived["classification"]["start"]) for task in tasks]
    return {
        kind: {**gate, "metrics": {numbers[kind][0]: 0.0}, "guards": dict.fromkeys(numbers[kind][1:], 2.0)}
        for kind, gate in gates.items()
        if kind in numbers
    }


def follow_tables(conf: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Write what follows from tables into a corpus' configuration; return what to tell the user.

    A value that is not what followed from the tables before was set by somebody, and stays. Doing it again changes nothing.

    Args:
        conf: the folder of the configuration.
        before: of :func:`derived_parameters`.
        after: the same, of the tables as they are to be.
    """
    old, new = dict(leaves(before)), dict(leaves(after))
    different = {path: value for path, value in new.items() if old[path] != value}
    told = []
    for file in sorted(conf.glob("parameters*.yml")) if different else ():
        with edited(file) as blocks:
            for path, value in different.items():
                *folders, name = path
                place = blocks
                for folder in folders:
                    place = place.get(folder) or {}
                if name not in place or place[name] == value:
                    continue
                if place[name] == old[path]:
                    place[name] = value
                    told.append(f"parameter {'.'.join(path)}: {old[path]} became {value}")
                else:
                    told.append(f"parameter {'.'.join(path)} stays {place[name]}, as somebody set it; the tables say {value}")
    return told


def follow_gates(conf: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Write the gates that follow from tables into a corpus' configuration; return what to tell the user.

    A gate that is not what followed from the tables before was set by somebody, and stays.

    Args:
        conf: the folder of the configuration.
        before: of :func:`derived_gates`.
        after: the same, of the tables as they are to be.
    """
    file = conf / "parameters_gate.yml"
    different = [kind for kind in {**before, **after} if before.get(kind) != after.get(kind)]
    if not different or not file.is_file():
        return []
    told = []
    with edited(file) as blocks:
        gates = blocks.setdefault("gate", {})
        for kind in different:
            new = after.get(kind)
            if (found := gates.get(kind)) == new:
                continue
            if found != before.get(kind):
                wanted = ", ".join(new["metrics"]) if new else "that nothing of it is measured"
                told.append(f"gate of {kind} stays, as somebody set it; the tables say {wanted}")
            elif new is None:
                del gates[kind]
                told.append(f"gate of {kind} is gone: nothing of it is measured any more")
            else:
                gates[kind] = new
                told.append(f"gate of {kind}: {', '.join(new['metrics'])} must rise now")
    return told

