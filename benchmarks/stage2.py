"""How fast stage 2 trains, and what each objective costs: UMT-B/16 with BERT-base, 4 frames of 224 x 224 pixels, 80 % masked.

    python benchmarks/stage2.py [--batch N] [--steps N] [--synthetic | --videos DIR] [--out FILE.md]

Trains with the library's own loop, loader, store and task, online and from the feature store; the weights of all models are
random, which are as fast as trained ones, and the captions are random words that fill 32 tokens. Needs no Kedro, MLflow or DVC,
and with ``--synthetic`` nothing but torch, numpy, pydantic, safetensors, pyarrow and timm: nothing is decoded or tokenised.
Otherwise, without ``--videos``, a few H.264 files are drawn first.

The time of an objective is the difference of two passes forward and back, one with it and one without, in an order in which
nothing is left out that the code computes anyway; see ``split_time``. So the parts add up to the whole by construction. The
passes take turns, so that a machine that gets slower does so for all. The optimiser is timed in training, by itself, because
its share falls with the batch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import torch
from common import (
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
    measured_precision,
    paragraph,
    parse_arguments,
    resolve,
    speed_table,
    summarise,
    train_for_rows,
    write_page,
    written_by,
)
from synthetic import CLS, MASK, PAD, SyntheticCaptions
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from umt_pipeline.compute.precision import autocast
from umt_pipeline.data.captions import CaptionSource
from umt_pipeline.data.samples import Batch
from umt_pipeline.features.manifest import read_manifest
from umt_pipeline.features.source import Targets
from umt_pipeline.models.flops import training_flops
from umt_pipeline.models.flops_stage2 import VideoTextMacs, video_text_macs
from umt_pipeline.models.video_text import VideoTextModel
from umt_pipeline.training.device import to_device
from umt_pipeline.training.objectives import Objectives, ObjectiveWeights
from umt_pipeline.training.sampler import BatchReader, Sampler
from umt_pipeline.training.stage2 import Stage2Config, Stage2Spec, Stage2Task
from umt_pipeline.video.views import ViewConfig

DEFAULTS = Defaults(cpu=(16, 5), cuda=(128, 50))
LENGTH = 32
NAMES = ("contrastive", "matching", "masked_language", "alignment")
# Passes of a round, by the objectives that are on; all of them first and last, to see how much two measurements differ.
WHOLE = NAMES
NO_WORDS = ("contrastive", "matching", "alignment")
PAIRS = ("contrastive", "matching")
CONTRASTIVE, MATCHING = ("contrastive",), ("matching",)
ROUND = (WHOLE, NO_WORDS, PAIRS, CONTRASTIVE, MATCHING, WHOLE)
TITLES = {
    "encoders": "shared: video encoder, text layers",
    "contrastive": "contrastive",
    "matching": "matching",
    "masked_language": "masked language",
    "alignment": "alignment",
}


@dataclass(frozen=True)
class Run:
    """One training with all objectives.

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


@dataclass(frozen=True)
class Passes:
    """Seconds of a way forward and back.

    Args:
        seconds: the median over the rounds, by the objectives that are on.
        noise: how much the two measurements of a round with all objectives differ, the median over the rounds.
    """

    seconds: dict[tuple[str, ...], float]
    noise: float


def main() -> None:
    arguments = parse_arguments(__doc__ or "", DEFAULTS)
    settings = resolve(arguments, DEFAULTS)
    load = os.getloadavg()[0]
    with make_place(settings, arguments.videos) as place:
        corpus = in_new_process(make_corpus, place, settings)
        in_new_process(make_store, place, settings, view_of(settings))
        if not settings.synthetic:
            from captions import make_captions

            in_new_process(make_captions, place, settings.sizes.text["vocab_size"], LENGTH)
        runs = {targets: in_new_process(measure_training, place, settings, targets) for targets in ("online", "cached")}
        passes = in_new_process(measure_passes, place, settings)
    loads = (load, os.getloadavg()[0])
    write_page(report(settings, corpus, arguments.videos is None, arguments.out, runs, passes, loads), arguments.out)


def view_of(settings: Settings) -> ViewConfig:
    return ViewConfig(frames=settings.sizes.frames // 2, size=settings.sizes.pixels)


def task_for(place: Place, settings: Settings, targets: Targets, names: tuple[str, ...]) -> tuple[Stage2Task, VideoTextMacs]:
    """Return the task with these objectives alone, and what a sample's way forward costs in it."""
    torch.manual_seed(0)
    sizes, header = settings.sizes, read_manifest(place.store)
    weights = ObjectiveWeights(**{name: float(name in names) for name in NAMES})
    given: dict[str, Any] = {"text": {**sizes.text, "max_length": LENGTH}, "embed_dim": sizes.embed_dim}
    given |= {"train": {"steps": 1, "batch_size": 1, "lr": 1e-5}, "weights": weights}
    stage2 = Stage2Config.model_validate(given)
    config = stage2.model_for(sizes.student.student_config(header), header, sizes.text["vocab_size"])
    macs = video_text_macs(config, header.frames * header.visible_per_frame, LENGTH, weights)
    if settings.synthetic:
        provider = place.provider(targets, settings)
        captions = SyntheticCaptions(provider.dataset(), sizes.text["vocab_size"], LENGTH)
        objectives = Objectives(VideoTextModel.create(config), weights, MASK, (PAD, CLS))
        return Stage2Task(objectives, {"video": provider}, captions), macs  # type: ignore[arg-type]
    source = CaptionSource(
        samples=place.folder / "samples.arrow",
        captions=place.folder / "captions.arrow",
        tokenizer=place.folder / "tokenizer",
        max_length=LENGTH,
    )
    spec = Stage2Spec(
        model=config,
        weights=weights,
        student=None,
        text_tower=None,
        captions=source,
        sources={"video": place.source(targets, source.samples)},
        teacher=header.teacher.id,
        train=stage2.train,
        seed=0,
    )
    return spec.build(), macs


def measure_training(place: Place, settings: Settings, targets: Targets) -> Run:
    """Train for the steps asked for, and look at all but the first window of the history."""
    task, macs = task_for(place, settings, targets, WHOLE)
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


def measure_passes(place: Place, settings: Settings) -> Passes:
    """Time ways forward and back of one batch from the store, in as many rounds as there are timed steps."""
    device = torch.device(settings.device)
    # Alignment heads are there or not; the other objectives of a task can be switched by their weights.
    tasks = {True: task_for(place, settings, "cached", WHOLE)[0], False: task_for(place, settings, "cached", PAIRS)[0]}
    for task in tasks.values():
        task.model.to(device).train()
        task.setup(device)
    dataset = tasks[True].dataset()
    address = next(Sampler(dataset.corpora(), settings.batch, seed=0).walk(0, 1))
    batch = to_device(BatchReader(dataset)[address], device)
    seconds: dict[tuple[str, ...], list[float]] = {names: [] for names in ROUND}
    noise: list[float] = []
    for number in range(1 + settings.steps):
        found = [timed_pass(tasks["alignment" in names], names, batch, device) for names in ROUND]
        if number:  # the first round is warm-up
            noise.append(abs(found[-1] - found[0]))
            for names, value in zip(ROUND, found, strict=True):
                seconds[names].append(value)
    return Passes({names: median(values) for names, values in seconds.items()}, median(noise))


def timed_pass(task: Stage2Task, names: tuple[str, ...], batch: Batch, device: torch.device) -> float:
    """Return the seconds of one way forward and back with these objectives, in the loop's precision."""
    objectives = cast(Objectives, task.model)
    objectives.weights = ObjectiveWeights(**{name: float(name in names) for name in NAMES})
    generator = torch.Generator(device).manual_seed(0)
    wait_for(device)
    began = time.perf_counter()
    with autocast(measured_precision(device), device):
        loss = task.loss(objectives, batch, generator)
    loss.total.backward()
    wait_for(device)
    seconds = time.perf_counter() - began
    objectives.zero_grad(set_to_none=True)
    return seconds


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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
    """Share the seconds of a way forward and back out to its parts, which add up to the whole.

    Every objective needs both encoders, and those of the fusion layers make the embeddings too, for their negatives; so the
    encoders cannot be had alone, but follow from the others.

    Args:
        passes: seconds by the objectives that are on.
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
    runs: dict[str, Run],
    passes: Passes,
    loads: tuple[float, float],
) -> Iterator[str]:
    """Yield the lines of the page; ``loads`` are the machine's load averages before the first part and after the last."""
    online, cached, sizes, view = runs["online"], runs["cached"], settings.sizes, view_of(settings)
    text = sizes.text
    yield "# Speed of stage 2"
    yield ""
    yield paragraph(
        f"{sizes.title} with a BERT of {text['layers']} layers of width {text['dim']} (random weights, {text['vocab_size']} "
        f"words, fusion from layer {text['fusion_layer']}), {view.frames} frames of {view.size} x {view.size} pixels, 80 % "
        f"masked, {LENGTH} text tokens, all four objectives, teacher {sizes.teacher_title} with random weights and "
        f"{sizes.layers} aligned layers; batches of {settings.batch}, {settings.steps} timed steps after {settings.window} of "
        f"warm-up, {cached.speed.precision}{', torch.compile' if settings.compile else ''}. Written by"
    )
    yield ""
    yield from written_by("stage2", settings, drawn, out, loads)
    yield ""
    yield from speed_table(against_best_peak({name: run.speed for name, run in runs.items()}))
    yield ""
    yield about_input(settings, corpus, drawn)
    yield ""
    yield from objectives_table(cached, passes, settings)
    yield ""
    yield paragraph(
        f"Online a step takes {online.step_s - cached.step_s:.3f} s more: the teacher, which is "
        f"{online.teacher_macs / (3 * sum(online.macs.values()) + online.teacher_macs):.1%} of its arithmetic, and decoding."
    )


def objectives_table(cached: Run, passes: Passes, settings: Settings) -> Iterator[str]:
    """Yield the table of where a cached step's time goes, next to its arithmetic."""
    whole = passes.seconds[WHOLE]
    yield "Where the time of a cached step goes:"
    yield ""
    yield "| part | s per step | share of the step | share of forward and back | share of arithmetic |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, seconds in split_time(passes.seconds).items():
        share = cached.macs[name] / sum(cached.macs.values())
        yield f"| {TITLES[name]} | {seconds:.3f} | {seconds / cached.step_s:.1%} | {seconds / whole:.1%} | {share:.1%} |"
    yield f"| forward and back | {whole:.3f} | {whole / cached.step_s:.1%} | 100.0% | 100.0% |"
    rest = cached.step_s - whole - cached.optimizer_s
    yield f"| optimiser | {cached.optimizer_s:.3f} | {cached.optimizer_s / cached.step_s:.1%} | | |"
    yield f"| what is left: gradient norm, loader, chance | {rest:.3f} | {rest / cached.step_s:.1%} | | |"
    yield f"| the step | {cached.step_s:.3f} | 100.0% | | |"
    yield ""
    yield paragraph(
        "A part's time is the difference of two ways forward and back of one batch, one with it and one without (masked "
        "language: all without it; alignment: all but masked language without it; contrastive and matching: both without one "
        f"of them; encoders: what contrastive alone leaves): medians of {settings.steps} rounds in which they take turns"
        f"{', without torch.compile' if settings.compile else ''}. So the parts add up, and a part includes its losses and its "
        "share of the gradients. Step and optimiser are medians of the training above. Two measurements with all objectives "
        f"differ by {passes.noise:.3f} s: so much of a part may be noise."
    )


if __name__ == "__main__":
    main()
