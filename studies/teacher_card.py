"""The card of the demo's teacher: what it is for, how it was made, what it knows.

Shapes: B frames, E width of the common space, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from umt_pipeline.core.files import sha256_file
from umt_pipeline.demo_world.captions import SHORT_TEMPLATES, STILL_TEMPLATES, sentences
from umt_pipeline.demo_world.corpus import DemoCorpusConfig, plan_corpus
from umt_pipeline.demo_world.frames import draw_frames
from umt_pipeline.demo_world.scenes import COLOURS, SIZES, render
from umt_pipeline.demo_world.symbols import KINDS
from umt_pipeline.models.teacher import CLIP_CONFIG_FILE, CLIP_WEIGHTS_FILE, Teacher, TeacherConfig, load_teacher
from umt_pipeline.training.demo_teacher import PATCH, SIDE
from umt_pipeline.video.pixels import normalise_frames

# Frames that linear probes are fitted on, and that everything is measured on; of a seed that no training has.
FITTED, MEASURED, SEED = 6000, 4000, 1_000_003
TASKS: dict[str, Sequence[str]] = {"shape": KINDS, "colour": tuple(COLOURS), "size": tuple(SIZES)}
HEADINGS = {"shape": "kind (of 64)", "colour": "colour (of 4)", "size": "size (of 2)"}


@dataclass(frozen=True)
class Seen:
    """Frames as the teacher sees them.

    Attributes:
        vectors: by name, its image embedding [B, E] and the mean of its projected patch tokens [B, E].
        classes_B: by task, what is shown; -1: nothing that has a name.
    """

    vectors: dict[str, Tensor]
    classes_B: dict[str, np.ndarray]


def card(folder: Path, recipe: Mapping[str, Any], took: str) -> str:
    """Measure the teacher in ``folder`` and describe it.

    Args:
        folder: as open_clip reads it.
        recipe: settings of its training.
        took: how long that took, on one core.
    """
    teacher = load_teacher(folder, TeacherConfig(source="demo", layers=2), SIDE // PATCH, text=True)
    fitted = _seen(teacher, *_drawn(range(FITTED)))
    measured = {
        "drawn frames": _seen(teacher, *_drawn(range(FITTED, FITTED + MEASURED))),
        "frames of clips": _seen(teacher, *_frames_of_clips()),
    }
    rows = [f"| | {' | '.join(HEADINGS.values())} |", f"| --- | {' | '.join('---:' for _ in HEADINGS)} |"]
    for name, seen in measured.items():
        for heading, score in (("zero-shot", _zero_shot), ("linear probe", _probe)):
            for vector, called in (("class", "class token"), ("patches", "mean of patch tokens")):
                found = [score(teacher, fitted, seen, vector, task) for task in TASKS]
                rows.append(f"| {name}, {heading}, {called} | {' | '.join(f'{value:.1f}' for value in found)} |")
    model = json.loads((folder / CLIP_CONFIG_FILE).read_text(encoding="utf-8"))["model_cfg"]
    weights = folder / CLIP_WEIGHTS_FILE
    return _TEXT.format(
        vision=model["vision_cfg"],
        text=model["text_cfg"],
        embed_dim=model["embed_dim"],
        megabytes=f"{weights.stat().st_size / 1e6:.2f}",
        sha256=sha256_file(weights),
        recipe=yaml.safe_dump(dict(recipe), sort_keys=False, default_flow_style=False).rstrip(),
        renderings=f"{recipe['steps'] * recipe['batch_size']:,}",
        took=took,
        table="\n".join(rows),
        fitted=f"{FITTED:,}",
        measured=f"{MEASURED:,}",
        clips=f"{len(measured['frames of clips'].classes_B['shape']):,}",
    )


def _drawn(numbers: range) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    frames = draw_frames(np.array(numbers), SEED, SIDE)
    return frames.pixels_BSS3, {"shape": frames.kind_B, "colour": frames.colour_B, "size": frames.size_B}


def _frames_of_clips() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the middle frame of test clips as the pipeline crops it, before any video coding."""
    clips = [clip for clip in plan_corpus(DemoCorpusConfig(), SEED) if clip.split in ("test", "test_rare")]
    pixels = []
    for clip in clips:
        frame_HW3 = render(clip.scene, np.random.default_rng(clip.key))[clip.scene.frames // 2]
        side = min(frame_HW3.shape[:2])
        top, left = ((extent - side) // 2 for extent in frame_HW3.shape[:2])
        square = Image.fromarray(frame_HW3[top : top + side, left : left + side])
        pixels.append(np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BILINEAR)))
    looks = [clip.scene.appearance for clip in clips]
    classes = {task: np.array([names.index(getattr(look, task)) for look in looks]) for task, names in TASKS.items()}
    return np.stack(pixels), classes


@torch.no_grad()
def _seen(teacher: Teacher, pixels_BSS3: np.ndarray, classes_B: dict[str, np.ndarray]) -> Seen:
    images, patches = [], []
    for part in np.array_split(pixels_BSS3, max(len(pixels_BSS3) // 250, 1)):
        output = teacher(normalise_frames(torch.from_numpy(part)))
        images.append(teacher.embed_image(output))
        patches.append(F.normalize(teacher.project(output.layers_KFNW[-1:])[0].mean(dim=1), dim=-1))
    return Seen({"class": torch.cat(images), "patches": torch.cat(patches)}, classes_B)


def _zero_shot(teacher: Teacher, fitted: Seen, seen: Seen, vector: str, task: str) -> float:
    del fitted  # as the name says
    classes_KE = []
    for name in TASKS[task]:
        if task == "shape":
            texts = sentences(SHORT_TEMPLATES, shape=name)
        else:
            others = [{**_ANY, "shape": kind, task: name} for kind in KINDS]
            texts = [text for values in others for text in sentences(STILL_TEMPLATES[:1], **values)]
        classes_KE.append(teacher.encode_text(texts).mean(dim=0))
    guess_B = (seen.vectors[vector] @ F.normalize(torch.stack(classes_KE), dim=-1).T).argmax(dim=1).numpy()
    return _right(guess_B, seen.classes_B[task])


_ANY = {"shape": "", "colour": "red", "size": "large"}


def _probe(teacher: Teacher, fitted: Seen, seen: Seen, vector: str, task: str) -> float:
    del teacher  # its vectors are there
    known_B = fitted.classes_B[task] >= 0
    # Unit vectors are small numbers, on which the usual strength of regularisation would be a strong one.
    probe = LogisticRegression(C=1000.0, max_iter=300)
    probe.fit(fitted.vectors[vector].numpy()[known_B], fitted.classes_B[task][known_B])
    return _right(probe.predict(seen.vectors[vector].numpy()), seen.classes_B[task])


def _right(guess_B: np.ndarray, truth_B: np.ndarray) -> float:
    return float(100.0 * (guess_B == truth_B)[truth_B >= 0].mean())


_TEXT = """\
---
license: apache-2.0
library_name: open_clip
tags:
- clip
- zero-shot-image-classification
---
# The teacher of the demo world

A small CLIP that knows 64 kinds of things, four colours and two sizes, and nothing of motion: it has seen single frames and
read sentences without a word of motion. In the demo it stands where CLIP stands in the paper: trained before, by others, on
far more than the corpus at hand.

- Image tower: ViT of {vision[layers]} blocks of width {vision[width]}, {vision[image_size]} pixels in patches of
  {vision[patch_size]}. Text tower: {text[layers]} blocks of width {text[width]}, {text[context_length]} tokens, a WordPiece
  vocabulary of {text[vocab_size]} of its own. Common space: {embed_dim}.
- Weights in half precision, {megabytes} MB, SHA-256 `{sha256}`.
- Use: `teacher_features.teacher.source: demo`, or `open_clip.create_model("local-dir:…")` with this folder.

## How it was made

`make teacher` (`studies/train_teacher.py`) trained it from random weights on {renderings} frames that were drawn as they were
needed, none of them twice (`umt_pipeline.demo_world.frames`): every kind as often as any other, places, sizes, angles and
backgrounds in more variety than clips have, colours at half the resolution and blocks of cosines in coarse steps as video
coding leaves them. The objective is CLIP's, a sentence being right for every frame that it is true of, half of it on the class
token and half on the mean of patch tokens: stage 1 learns from patch tokens (`umt_pipeline.training.demo_teacher`). It took
{took} of one core.

```yaml
{recipe}
```

## What it knows

Per cent right, written by the same command. Drawn frames: {measured} of another seed than training's. Frames of clips: the
middle frames of {clips} test clips of a corpus of that seed. Probes are fitted on {fitted} drawn frames.

{table}

## Limits

It knows the demo world and nothing else. Objects that are partly outside the frame, or a few pixels small, it mistakes for
others, as people do.
"""
