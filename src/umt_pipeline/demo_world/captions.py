"""Sentences about demo clips: several wordings for each meaning."""

from __future__ import annotations

import numpy as np

from umt_pipeline.demo_world.scenes import Scene

WORDS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"),
    "bar": ("bar", "stick"),
    "heart": ("heart",),
    "arrow": ("arrow",),
    "crescent": ("crescent", "half-moon"),
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
TEMPLATES = (
    "a {size} {colour} {shape} {motion}",
    "the {colour} {shape} is {size} and {motion}",
    "{motion}: a {shape}, {size} and {colour}",
    "there is a {colour} {size} {shape} that {motion}",
)


def caption(scene: Scene, rng: np.random.Generator, templates: tuple[str, ...] = TEMPLATES) -> str:
    """Return one sentence that names shape, colour, size and, by :data:`TEMPLATES`, motion, its wording drawn by ``rng``."""
    values = {
        "shape": scene.appearance.shape,
        "colour": scene.appearance.colour,
        "size": scene.appearance.size,
        "motion": scene.motion,
    }
    words = {key: str(rng.choice(WORDS.get(value, (value,)))) for key, value in values.items()}
    return str(rng.choice(templates)).format(**words)


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
