"""Sentences about demo clips: several wordings for each meaning."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

import numpy as np

from umt_pipeline.demo_world.scenes import Scene

# Of what is not here, the name is the only word.
WORDS: dict[str, tuple[str, ...]] = {
    "airplane": ("airplane", "plane"),
    "blossom": ("blossom", "flower"),
    "bolt": ("bolt", "lightning bolt"),
    "check mark": ("check mark", "tick"),
    "crescent": ("crescent", "half-moon"),
    "devil": ("devil", "imp"),
    "die": ("die", "dice"),
    "disc": ("disc", "circle"),
    "envelope": ("envelope", "letter"),
    "gear": ("gear", "cog"),
    "hand": ("hand", "pointing hand"),
    "notes": ("pair of notes",),
    "plus sign": ("plus sign", "cross"),
    "scissors": ("pair of scissors",),
    "smiley": ("smiley", "smiling face"),
    "telephone": ("telephone", "phone"),
    "small": ("small", "little"),
    "large": ("large", "big"),
    "left": ("moves to the left", "slides left", "is drifting left"),
    "right": ("moves to the right", "slides right", "is drifting right"),
    "up": ("moves up", "rises", "is drifting up"),
    "down": ("moves down", "sinks", "is drifting down"),
    "clockwise": ("spins clockwise", "turns clockwise", "is rotating clockwise"),
    "counterclockwise": ("spins counterclockwise", "turns counterclockwise", "is rotating counterclockwise"),
    "growing": ("grows", "gets bigger and bigger", "is growing"),
    "shrinking": ("shrinks", "gets smaller and smaller", "is shrinking"),
    "stop_and_go": ("moves in stops and starts", "jumps and rests", "is moving by fits and starts"),
}
# Of a still image: no word of motion.
STILL_TEMPLATES = (
    "a {size} {colour} {shape}",
    "the {colour} {shape} is {size}",
    "a {shape}, {size} and {colour}",
    "there is a {colour} {size} {shape}",
)
# Of a picture in which size or colour is not worth a word.
SHORT_TEMPLATES = ("a {shape}", "a picture of a {shape}")
COLOUR_TEMPLATES = ("a {colour} {shape}", "the {shape} is {colour}")
TEMPLATES = (
    "a {size} {colour} {shape} {motion}",
    "the {colour} {shape} is {size} and {motion}",
    "{motion}: a {shape}, {size} and {colour}",
    "there is a {colour} {size} {shape} that {motion}",
)

_BEFORE_VOWEL = re.compile(r"\ba (?=[aeiou])")


def caption(scene: Scene, rng: np.random.Generator, templates: tuple[str, ...] = TEMPLATES) -> str:
    """Return one sentence that names shape, colour, size and, by :data:`TEMPLATES`, motion, its wording drawn by ``rng``."""
    values = {
        "shape": scene.appearance.shape,
        "colour": scene.appearance.colour,
        "size": scene.appearance.size,
        "motion": scene.motion,
    }
    words = {key: str(rng.choice(WORDS.get(value, (value,)))) for key, value in values.items()}
    return _spoken(str(rng.choice(templates)), words)


def sentences(templates: tuple[str, ...], **values: str) -> list[str]:
    """Return every wording of templates, for a shape and, where they name them, a colour and a size."""
    choices = itertools.product(*(WORDS.get(value, (value,)) for value in values.values()))
    return [_spoken(template, dict(zip(values, words, strict=True))) for words in choices for template in templates]


def _spoken(template: str, words: Mapping[str, str]) -> str:
    return _BEFORE_VOWEL.sub("an ", template.format(**words))


def captions(
    scene: Scene, rng: np.random.Generator, count: int, templates: tuple[str, ...] = TEMPLATES
) -> list[str]:
    """Return ``count`` different sentences about a scene (fewer if the wordings run out)."""
    found: dict[str, None] = {}
    for _ in range(count * 8):
        found.setdefault(caption(scene, rng, templates))
        if len(found) == count:
            break
    return list(found)
