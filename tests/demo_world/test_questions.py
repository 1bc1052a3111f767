"""Questions about the demo world: their answers are true, captions use their words, and wrong captions are nearly right."""

from __future__ import annotations

import re
from collections import Counter

import pandas as pd

from umt_pipeline.demo_world.captions import WORDS
from umt_pipeline.demo_world.corpus import Clip, DemoCorpusConfig, plan_corpus
from umt_pipeline.demo_world.questions import QUESTIONS, VALUES, make_questions
from umt_pipeline.demo_world.scenes import Scene
from umt_pipeline.schemas import RawQuestions

SMALL = DemoCorpusConfig(
    kinds=8, train_clips=24, captioned_clips=None, validation_clips=5, test_clips=12, test_rare_clips=5, motion_appearances=2
)
CLIPS = {clip.name: clip for clip in plan_corpus(SMALL, 3)}
TABLE = make_questions(SMALL, 3)


def value(scene: Scene, attribute: str) -> str:
    return scene.motion if attribute == "motion" else str(getattr(scene.appearance, attribute))


def named(text: str, attribute: str) -> set[str]:
    """The values of an attribute that a caption names."""
    return {
        one for one in VALUES[attribute] if any(re.search(rf"\b{word}\b", text) for word in WORDS.get(one, (one,)))
    }


def clip_of(row: pd.Series) -> Clip:
    return CLIPS[row["video"]]


def test_every_clip_is_asked_about_and_the_schema_holds() -> None:
    RawQuestions.validate(TABLE)
    open_ones = TABLE[TABLE["correct"] == -1]
    assert Counter(open_ones["video"]) == dict.fromkeys(CLIPS, len(QUESTIONS))
    assert set(open_ones["question"]) == set(QUESTIONS.values())
    choices = TABLE[TABLE["correct"] >= 0]
    assert set(choices["video"]) == {name for name, clip in CLIPS.items() if clip.split != "train"}
    assert choices["correct"].nunique() == 5, "the right caption is at every place"


def test_answers_are_true_and_of_words_that_captions_use() -> None:
    vocabulary = {word for texts in WORDS.values() for text in texts for word in text.split()}
    vocabulary |= {word for values in VALUES.values() for text in values for word in text.split()}
    for _, row in TABLE[TABLE["correct"] == -1].iterrows():
        task = next(name for name, question in QUESTIONS.items() if question == row["question"])
        (answer,) = row["answers"]
        assert set(answer.split()) <= vocabulary, answer
        true = value(clip_of(row).scene, task)
        wordings = WORDS.get(true, (true,))
        assert any(answer in wording for wording in wordings) or answer == true, (answer, true)


def test_each_wrong_caption_is_wrong_in_one_thing() -> None:
    for _, row in TABLE[TABLE["correct"] >= 0].iterrows():
        scene = clip_of(row).scene
        differs = []
        for option in row["options"]:
            wrong = [attribute for attribute in VALUES if value(scene, attribute) not in named(option, attribute)]
            differs.append(tuple(wrong))
        assert differs[row["correct"]] == ()
        assert sorted(differs) == sorted([(), *((attribute,) for attribute in VALUES)])


def test_the_same_seed_asks_the_same() -> None:
    pd.testing.assert_frame_equal(TABLE, make_questions(SMALL, 3))
    assert not TABLE["options"].equals(make_questions(SMALL, 4)["options"])
