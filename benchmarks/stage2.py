"""How fast stage 2 trains, and what each objective costs: UMT-B/16 with BERT-base, 4 frames of 224 x 224 pixels, 80 % masked.

    python benchmarks/stage2.py [--batch N] [--steps N] [--videos DIR] [--out FILE.md]

Trains with the library's own loop, loader, store and task, online and from the feature store; the weights of all models are
random, which are as fast as trained ones, and the captions are random words that fill 32 tokens. Needs torch and the
library alone: no Kedro, MLflow or DVC. Without ``--videos`` a few H.264 files are drawn first.

The time of an objective is the difference of two trainings, one with it and one without, in an order in which no part is
asked for that the code computes anyway; see ``split_time``. So the parts add up to the step by construction. The optimiser
is timed by itself, because its share falls with the batch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import (
    TEACHER,
    Corpus,
    Defaults,
    Place,
    Settings,
    Speed,
    about_input,
    against_best_peak,
    in_new_process,
    make_corpus,
    make_place,
    make_store,
    parse_arguments,
    resolve,
    speed_table,
    summarise,
    train_for_rows,
    write_page,
    written_by,
)
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from umt_pipeline.features.store import FeatureStore
from umt_pipeline.models.flops import training_flops
from umt_pipeline.models.flops_stage2 import video_text_macs
from umt_pipeline.models.tokenizer import save_tokenizer, train_wordpiece
from umt_pipeline.training.captions import captioned_media
from umt_pipeline.training.mapped import write_mapped
from umt_pipeline.training.stage1 import StudentSize, Targets
from umt_pipeline.training.stage2 import ObjectiveWeights, Stage2Config, make_task
from umt_pipeline.video.views import ViewConfig

DEFAULTS = Defaults(cpu=(16, 5), cuda=(128, 50))
VIEW = ViewConfig(frames=4, size=224)
VISION = StudentSize(dim=768, depth=12, heads=12, drop_path=0.1)
VOCABULARY, LENGTH, EMBED_DIM = 30522, 32, 512
BERT = {"dim": 768, "layers": 12, "fusion_layer": 9, "heads": 12, "mlp_dim": 3072, "max_length": LENGTH}
NAMES = ("contrastive", "matching", "masked_language", "alignment")
# Trainings from the store, by the objectives that are on; the whole step first and last, to see how much it varies.
WHOLE = NAMES
NO_WORDS = ("contrastive", "matching", "alignment")
PAIRS = ("contrastive", "matching")
CONTRASTIVE, MATCHING = ("contrastive",), ("matching",)
CACHED = (WHOLE, NO_WORDS, PAIRS, CONTRASTIVE, MATCHING, WHOLE)
TITLES = {
    "encoders": "shared: video encoder, text layers",
    "contrastive": "contrastive",
    "matching": "matching",
    "masked_language": "masked language",
    "alignment": "alignment",
}


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        speed: as a whole.
        step_s: of a step, the median over the windows.
        optimizer_s: of it the optimiser's, the median over the steps.
        macs: of a sample's way forward, by part.
        teacher_macs: of the teacher, which runs online.
    """

    speed: Speed
    step_s: float
    optimizer_s: float
    macs: dict[str, int]
    teacher_macs: int

    @property
    def passes_s(self) -> float:
        """Of a step all but the optimiser: forward and back, and the little that the loop does."""
        return self.step_s - self.optimizer_s


def main() -> None:
    arguments = parse_arguments(__doc__ or "", DEFAULTS)
    settings = resolve(arguments, DEFAULTS)
    load = os.getloadavg()[0]
    with make_place(arguments.videos) as place:
        corpus = in_new_process(make_corpus, place, settings)
        in_new_process(make_store, place, settings, VIEW)
        in_new_process(make_captions, place)
        cached = [in_new_process(measure, place, settings, "cached", names) for names in CACHED]
        online = in_new_process(measure, place, settings, "online", WHOLE)
    loads = (load, os.getloadavg()[0])
    write_page(report(settings, corpus, arguments.videos is None, arguments.out, online, cached, loads), arguments.out)


def make_captions(place: Place) -> None:
    """Write a caption for each clip, most longer than the text that the model takes, and a tokenizer for them."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(rng.choice(letters, rng.integers(2, 8))) for _ in range(500)]
    videos = pd.read_parquet(place.videos)
    texts = [" ".join(rng.choice(words, rng.integers(12, 60))) for _ in range(len(videos))]
    table = pd.DataFrame({"caption_id": range(len(videos)), "video_id": videos["video_id"], "caption": texts})
    samples, captions = captioned_media(videos, table)
    write_mapped(place.folder / "samples.arrow", samples)
    write_mapped(place.folder / "captions.arrow", captions)
    save_tokenizer(train_wordpiece(texts, VOCABULARY), place.folder / "tokenizer")


def measure(place: Place, settings: Settings, targets: Targets, names: tuple[str, ...]) -> Run:
    """Train with these objectives alone for the steps asked for, and look at all but the first window of the history."""
    torch.manual_seed(0)
    weights = ObjectiveWeights(**{name: float(name in names) for name in NAMES})
    sizes: dict[str, Any] = {"text": BERT, "embed_dim": EMBED_DIM, "train": {"steps": 1, "batch_size": 1, "lr": 1e-5}}
    stage2 = Stage2Config.model_validate({**sizes, "weights": weights})
    header = FeatureStore(place.store).manifest
    config = stage2.model_for(VISION.student_config(header), header, VOCABULARY)
    task = make_task(
        config.model_dump(mode="json"),
        weights.model_dump(mode="json"),
        student=None,
        text_tower=None,
        text_lr_scale=1.0,
        tokenizer=str(place.folder / "tokenizer"),
        samples=str(place.folder / "samples.arrow"),
        captions=str(place.folder / "captions.arrow"),
        max_length=LENGTH,
        corpora={},
        parity=False,
        masked_epochs=None,
        stores={"video": str(place.store)},
        targets=targets,
        teacher=str(place.teacher),
        media_root=str(place.media),
    )
    macs = video_text_macs(config, header.frames * header.visible_per_frame, LENGTH, weights)
    teacher = task.providers["video"].teacher_macs()
    assert teacher is not None
    with optimizer_clock(torch.device(settings.device)) as optimizer_s:
        training = train_for_rows(task, place, settings, settings.workers if targets == "online" else 0)
    ends, steps = (np.array([row[name] for row in training.rows]) for name in ("seconds", "step"))
    return Run(
        speed=summarise(training, settings, training_flops(macs.total, teacher)),
        step_s=float(np.median(np.diff(ends) / np.diff(steps))),
        optimizer_s=median(optimizer_s[settings.window :]),
        macs=macs.parts(),
        teacher_macs=teacher,
    )


@contextmanager
def optimizer_clock(device: torch.device) -> Iterator[list[float]]:
    """Give a list that holds the seconds of each of the optimiser's steps once the context is left; waits for no device."""
    seconds: list[float] = []
    marks: list[Any] = []

    def mark(*_: Any) -> None:
        if device.type == "cuda":
            marks.append(torch.cuda.Event(enable_timing=True))
            marks[-1].record()
        else:
            marks.append(time.perf_counter())

    hooks = (register_optimizer_step_pre_hook(mark), register_optimizer_step_post_hook(mark))
    yield seconds
    for hook in hooks:
        hook.remove()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    pairs = zip(marks[::2], marks[1::2], strict=True)
    seconds += [before.elapsed_time(after) / 1000 if device.type == "cuda" else after - before for before, after in pairs]


def split_time(passes: dict[tuple[str, ...], float]) -> dict[str, float]:
    """Share a step's seconds out to its parts, which add up to the whole.

    Training that matches or predicts words also makes clip and caption embeddings, for the negatives, and training that
    does either runs both encoders forward and back; so encoders cannot be had alone, but follow from the others.

    Args:
        passes: seconds of a step without the optimiser, by the objectives that are on.
    """
    contrastive = passes[PAIRS] - passes[MATCHING]
    return {
        "encoders": passes[CONTRASTIVE] - contrastive,
        "contrastive": contrastive,
        "matching": passes[PAIRS] - passes[CONTRASTIVE],
        "masked_language": passes[WHOLE] - passes[NO_WORDS],
        "alignment": passes[NO_WORDS] - passes[PAIRS],
    }


def report(
    settings: Settings,
    corpus: Corpus,
    drawn: bool,
    out: Path | None,
    online: Run,
    cached: list[Run],
    loads: tuple[float, float],
) -> Iterator[str]:
    """Yield the lines of the page; ``cached`` as ``CACHED`` has it, ``loads`` before the first part and after the last."""
    whole = cached[-1]
    yield "# Speed of stage 2"
    yield ""
    yield (
        f"UMT-B/16 with BERT-base (random weights, {VOCABULARY} words, {BERT['layers']} layers, fusion from "
        f"{BERT['fusion_layer']}), {VIEW.frames} frames of {VIEW.size} x {VIEW.size} pixels, 80 % masked, {LENGTH} text "
        f"tokens, all four objectives, teacher {TEACHER} with random weights and six aligned layers; batches of "
        f"{settings.batch}, {settings.steps} timed steps after {settings.window} of warm-up, "
        f"{whole.speed.precision}{', torch.compile' if settings.compile else ''}. Written by"
    )
    yield ""
    yield from written_by("stage2", settings, drawn, out, loads)
    yield ""
    measured = {f"{number}": run.speed for number, run in enumerate([online, *cached])}
    speeds = list(against_best_peak(measured).values())
    yield from speed_table({"online": speeds[0], "cached": speeds[-1]})
    yield ""
    yield about_input(settings, corpus, drawn)
    yield ""
    yield from objectives(cached)
    yield ""
    yield (
        f"Online a step takes {online.step_s - whole.step_s:.3f} s more: the teacher, which is "
        f"{online.teacher_macs / (3 * sum(online.macs.values()) + online.teacher_macs):.1%} of its arithmetic, and decoding."
    )


def objectives(cached: list[Run]) -> Iterator[str]:
    """Yield the table of where a cached step's time goes, next to its arithmetic."""
    first, last = cached[0], cached[-1]
    passes = {names: run.passes_s for names, run in zip(CACHED, cached, strict=True)}
    passes[WHOLE] = mean((first.passes_s, last.passes_s))
    optimizer_s = mean((first.optimizer_s, last.optimizer_s))
    step_s = passes[WHOLE] + optimizer_s
    yield "Where the time of a cached step goes:"
    yield ""
    yield "| part | s per step | share of the step | share without the optimiser | share of arithmetic |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, seconds in split_time(passes).items():
        share = last.macs[name] / sum(last.macs.values())
        yield f"| {TITLES[name]} | {seconds:.3f} | {seconds / step_s:.1%} | {seconds / passes[WHOLE]:.1%} | {share:.1%} |"
    yield f"| optimiser | {optimizer_s:.3f} | {optimizer_s / step_s:.1%} | | |"
    yield f"| all | {step_s:.3f} | 100.0% | 100.0% | 100.0% |"
    yield ""
    yield (
        "A part's time is the difference of two trainings, one with it and one without (masked language: all without it; "
        "alignment: all but masked language without it; contrastive and matching: both without one of them; encoders: what "
        "contrastive training leaves), so parts add up to the step, and a part includes its losses, its gradients and what "
        "the loop does with them. Step and optimiser are medians. The whole step, measured first and last, took "
        f"{first.step_s:.3f} and {last.step_s:.3f} s: a part that differs by less from nothing is noise."
    )


if __name__ == "__main__":
    main()
