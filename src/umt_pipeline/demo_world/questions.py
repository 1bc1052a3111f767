"""Questions about demo clips: open ones, whose answers captions use too, and captions to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from umt_pipeline.demo_world.captions import WORDS, caption
from umt_pipeline.demo_world.corpus import Clip, DemoCorpusConfig, plan_corpus
from umt_pipeline.demo_world.scenes import COLOURS, MOTIONS, SHAPES, SIZES, Scene

QUESTIONS = {"shape": "what is it", "colour": "what colour is it", "motion": "how does it move"}
# Short, and of words that captions use, since these are the words that the demo's tokenizer knows.
MOTION_ANSWERS = {motion: motion for motion in MOTIONS} | {"stop_and_go": "stops and starts"}
VALUES: dict[str, Sequence[str]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "size": tuple(SIZES),
    "motion": MOTIONS,
}


def make_questions(config: DemoCorpusConfig, seed: int) -> pd.DataFrame:
    """Ask about every clip of the corpus; the same questions for the same configuration and seed.

    Each clip has the open questions of :data:`QUESTIONS`. A clip that is not trained on also has five captions to choose
    from: one is right, and each other one is wrong in one of shape, colour, size and motion. Random numbers are those of this
    function alone, so files and captions are the same with and without questions.

    Returns:
        A table as :class:`umt_pipeline.schemas.RawQuestions` describes it.
    """
    rows: list[dict[str, Any]] = []
    for index, clip in enumerate(plan_corpus(config, seed)):
        for task, question in QUESTIONS.items():
            rows.append(_row(clip, task, question=question, answers=[answer(clip.scene, task)]))
        if clip.split != "train":
            options, correct = _captions_to_choose_from(clip.scene, np.random.default_rng([seed, 4, index]))
            rows.append(_row(clip, "choice", options=options, correct=correct))
    return pd.DataFrame(rows)


def answer(scene: Scene, task: str) -> str:
    """Return the true answer to the question about shape, colour or motion."""
    if task == "motion":
        return MOTION_ANSWERS[scene.motion]
    value = str(getattr(scene.appearance, task))
    return WORDS.get(value, (value,))[0]


def _row(
    clip: Clip,
    kind: str,
    *,
    question: str = "",
    answers: Sequence[str] = (),
    options: Sequence[str] = (),
    correct: int = -1,
) -> dict[str, Any]:
    return {
        "question_id": f"{clip.name.rpartition('.')[0]}/{kind}",
        "video": clip.name,
        "question": question,
        "answers": list(answers),
        "options": list(options),
        "correct": correct,
    }


def _captions_to_choose_from(scene: Scene, rng: np.random.Generator) -> tuple[list[str], int]:
    scenes = [scene, *(_changed(scene, attribute, rng) for attribute in VALUES)]
    order = rng.permutation(len(scenes))
    return [caption(scenes[index], rng) for index in order], int(np.flatnonzero(order == 0)[0])


def _changed(scene: Scene, attribute: str, rng: np.random.Generator) -> Scene:
    """Return the scene with another value of one attribute."""
    present = scene.motion if attribute == "motion" else getattr(scene.appearance, attribute)
    other = str(rng.choice([value for value in VALUES[attribute] if value != present]))
    if attribute == "motion":
        return replace(scene, motion=other)
    return replace(scene, appearance=replace(scene.appearance, **{attribute: other}))
