"""Examples of a page: a clip, what was asked about it, and what each model said.

Shape legend: T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from umt_pipeline.reports.figures import FrameSize, data_address, filmstrip

Item = TypeVar("Item")

_FILM_BUDGET = 1_700_000  # characters of all filmstrips; the page stays below 3 MB
_FILM_SIZES = tuple(FrameSize(*size) for size in ((6, 64, 75), (6, 56, 55), (5, 40, 40), (4, 28, 30)))

_STILL = 4  # the side of a single frame, as a multiple of that of each frame of a strip


@dataclass(frozen=True)
class Film:
    """A clip to show.

    Args:
        video_id: its name.
        right: whether it is a right answer; None for the clip that is asked about.
    """

    video_id: str
    right: bool | None = None


@dataclass(frozen=True)
class Said:
    """What was said.

    Args:
        who: the model, or "The truth".
        text: its answer.
        right: whether that is right; None if it is not to be judged.
        note: in small print, such as a score.
        films: clips that are its answer, best first.
    """

    who: str
    text: str = ""
    right: bool | None = None
    note: str = ""
    films: tuple[Film, ...] = ()


@dataclass(frozen=True)
class Example:
    """One example.

    Args:
        head: what was asked, or what there is to see.
        film: the clip that it is about.
        said: by whom, what.
        verdict: a word before ``head``, such as "hit".
        good: whether that is a good one.
        about: what ``film`` is called.
    """

    head: str
    film: Film
    said: tuple[Said, ...]
    verdict: str = ""
    good: bool = False
    about: str = "the clip"


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return so many of the items, or all if there are fewer, evenly spread over them: neither the best nor the worst."""
    if len(items) <= count:
        return list(items)
    return [items[place] for place in np.linspace(0, len(items) - 1, count).round().astype(int)]


def clips_of(examples: Iterable[Example]) -> list[str]:
    """Return the names of all clips that examples show, each once, in the order of the page."""
    films = [film for example in examples for film in (*(f for said in example.said for f in said.films), example.film)]
    return list(dict.fromkeys(film.video_id for film in films))


def film_styles(video_ids: Iterable[str], clips: Mapping[str, np.ndarray]) -> tuple[str, dict[str, str]]:
    """Return style rules that hold each clip's filmstrip once, and video_id -> class; many clips get smaller frames.

    A clip of one frame is a picture, and larger.

    Args:
        video_ids: clips to show. Those without frames have no class.
        clips: uint8 RGB [T, H, W, 3] by name.
    """
    styles = {video: f"clip-{place}" for place, video in enumerate(v for v in video_ids if v in clips)}
    rules = ""
    for size in _FILM_SIZES:
        lines = []
        for video, style in styles.items():
            still = len(clips[video]) == 1
            strip = filmstrip(clips[video], replace(size, side=_STILL * size.side) if still else size)
            address = data_address(strip, size.quality)
            lines.append(f'.{style}{{aspect-ratio:{strip.shape[1]}/{strip.shape[0]};background-image:url("{address}")}}')
        rules = "\n".join(lines)
        if len(rules) <= _FILM_BUDGET:
            break
    return rules, styles
