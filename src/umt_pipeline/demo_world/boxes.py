"""Boxes around the objects of demo clips, as people and a detector would draw them, with what the object is and does.

AVA has people; here the object takes a person's place, and its motion, shape and colour are three actions at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from umt_pipeline.demo_world.corpus import Clip, DemoCorpusConfig, plan_corpus
from umt_pipeline.demo_world.scenes import object_boxes

# A detector's box of the object: by how much of the object's size each edge is off at most, and its confidence.
DETECTED_OFF = 0.12
DETECTED_SCORE = (0.85, 1.0)
# Its false alarm, a box somewhere else: the smallest and largest side, and a confidence that is often high enough to count.
FALSE_SIDE = (0.2, 0.5)
FALSE_SCORE = (0.6, 0.95)


def make_boxes(config: DemoCorpusConfig, seed: int) -> pd.DataFrame:
    """Box the object in a key frame of every clip; the same boxes for the same configuration and seed.

    The key frame lies in the middle half of its clip. Clips that are not trained on also have what a detector would find there:
    the object, its edges a little off, and a false alarm somewhere in the frame. Random numbers are those of this function
    alone, so files, captions and questions are the same with and without boxes.

    Returns:
        A table as :class:`umt_pipeline.schemas.RawBoxes` describes it: a row per annotated box and action, and one per detected
        box, which has no action.
    """
    rows: list[dict[str, Any]] = []
    for index, clip in enumerate(plan_corpus(config, seed)):
        scene, rng = clip.scene, np.random.default_rng([seed, 5, index])
        quarter = scene.frames // 4
        key = int(rng.integers(quarter, scene.frames - quarter))
        box_4 = object_boxes(scene, np.random.default_rng(clip.key), [key])[0]
        actions = (scene.motion, scene.appearance.shape, scene.appearance.colour)
        rows += [_row(clip, key, box_4, label=action, person="object") for action in actions]
        if clip.split != "train":
            for box, scores in ((_jittered(box_4, rng), DETECTED_SCORE), (_anywhere(rng), FALSE_SCORE)):
                rows.append(_row(clip, key, box, score=round(float(rng.uniform(*scores)), 3), source="detected"))
    return pd.DataFrame(rows)


def _row(
    clip: Clip, key: int, box_4: np.ndarray, *, label: str = "", person: str = "", score: float = 1.0, source: str = "annotated"
) -> dict[str, Any]:
    edges = {edge: round(float(value), 4) for edge, value in zip(("x1", "y1", "x2", "y2"), box_4, strict=True)}
    time = {"timestamp_s": round(key / clip.scene.fps, 4)}
    return {"video": clip.name, **time, **edges, "label": label, "person": person, "score": score, "source": source}


def _jittered(box_4: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size_4 = np.tile(box_4[2:] - box_4[:2], 2)
    return np.asarray(np.clip(box_4 + rng.uniform(-DETECTED_OFF, DETECTED_OFF, 4) * size_4, 0.0, 1.0))


def _anywhere(rng: np.random.Generator) -> np.ndarray:
    size_2 = rng.uniform(*FALSE_SIDE, 2)
    corner_2 = rng.uniform(0.0, 1.0, 2) * (1.0 - size_2)
    return np.concatenate((corner_2, corner_2 + size_2))
