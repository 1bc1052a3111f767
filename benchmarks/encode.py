"""How fast clips and texts are encoded for retrieval, and the teacher's targets for a store: UMT-B/16, 8 frames, BERT-base.

    python benchmarks/encode.py [--batch N] [--steps N] [--videos DIR] [--out FILE.md]
    python benchmarks/encode.py --synthetic

First files are embedded, as a person's own videos are (:mod:`embed_files`); not with ``--synthetic``, which needs neither
decoders nor open_clip: torch, numpy, pydantic, safetensors, pyarrow and timm are all that is imported.

Then random frames and random token ids are encoded with the library's own encoders, without gradients, in the precision of
training; the weights are random, which are as fast as trained ones. Clips are encoded whole, as in evaluation. The teacher's
part is that of extraction: from frames on the host to the record's arrays on the host.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from common import (
    Corpus,
    Defaults,
    Place,
    Settings,
    in_new_process,
    load_benchmark_teacher,
    make_corpus,
    make_place,
    measured_precision,
    paragraph,
    parse_arguments,
    resolve,
    write_page,
    written_by,
)
from model_folders import model_of
from synthetic import PATCH, make_header, random_frames

from umt_pipeline.compute.peak import matmul_peak
from umt_pipeline.compute.precision import autocast, dtype_of
from umt_pipeline.features.codecs import Coder
from umt_pipeline.features.targets import draw_targets
from umt_pipeline.models.flops import encoder_macs
from umt_pipeline.models.flops_stage2 import video_text_macs
from umt_pipeline.models.video_text import VideoTextModel
from umt_pipeline.models.vit import all_patches
from umt_pipeline.training.device import resolve_device
from umt_pipeline.training.objectives import ObjectiveWeights
from umt_pipeline.video.views import ViewConfig

DEFAULTS = Defaults(cpu=(4, 4), cuda=(64, 40))
LENGTH = 32
# Texts of a batch, for each clip of one.
TEXTS_PER_CLIP = 8
WARM_UP = 3
KINDS = ("clips", "texts", "targets")
TITLES = {
    "clips": "clips, all patches, to tokens and embeddings",
    "texts": f"texts of {LENGTH} tokens, to tokens and embeddings",
    "targets": "teacher: clip views to records of a store (int8)",
}


@dataclass(frozen=True)
class Encoding:
    """How fast things are encoded.

    Args:
        per_s: things per second, the median over the batches.
        mfu: share of the matmul peak.
        tflops_peak: that peak.
        gflops: of a thing.
        peak_memory_mib: the allocator's on a GPU, 0 on a CPU.
        precision: that was computed in.
    """

    per_s: float
    mfu: float
    tflops_peak: float
    gflops: float
    peak_memory_mib: float
    precision: str


def main() -> None:
    arguments = parse_arguments(__doc__ or "", DEFAULTS)
    settings = resolve(arguments, DEFAULTS)
    load = os.getloadavg()[0]
    with make_place(settings, arguments.videos) as place:
        corpus = in_new_process(make_corpus, place, settings)
        files = [] if settings.synthetic else embed_files(place, settings)
        alone = replace(settings, synthetic=True)
        found = {kind: in_new_process(measure, place, alone, kind) for kind in KINDS}
    loads = (load, os.getloadavg()[0])
    written = written_by("encode", settings, arguments.videos is None, arguments.out, loads)
    write_page(report(settings, corpus, files, found, written), arguments.out)


def embed_files(place: Place, settings: Settings) -> list[Any]:
    """Embed files in every way."""
    from embed_files import SUBJECTS, measure_files, write_models

    in_new_process(write_models, place, settings)
    return [in_new_process(measure_files, place, settings, subject) for subject in SUBJECTS]


def measure(place: Place, settings: Settings, kind: str) -> Encoding:
    """Encode batches of one kind."""
    device = resolve_device(settings.device)
    precision = measured_precision(device)
    peak = matmul_peak(device, dtype_of(precision))
    torch.manual_seed(0)
    makers = {"clips": clip_encoder, "texts": text_encoder, "targets": teacher_targets}
    encode, things, macs = makers[kind](place, settings, device)
    seconds = timed(encode, settings.steps, device)
    flops, per_s = 2 * macs, things / seconds
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0
    return Encoding(per_s, per_s * flops / peak, peak / 1e12, flops / 1e9, memory, precision)


def timed(encode: Callable[[], Any], steps: int, device: torch.device) -> float:
    """Return the median seconds of a batch; the device is not waited for between batches, which it times itself."""
    marks: list[Any] = []
    with torch.inference_mode(), autocast(measured_precision(device), device):
        for step in range(WARM_UP + steps + 1):
            if step >= WARM_UP:
                marks.append(mark(device))
            encode()
    if device.type != "cuda":
        return median(after - before for before, after in pairwise(marks))
    torch.cuda.synchronize(device)
    return median(before.elapsed_time(after) / 1000 for before, after in pairwise(marks))


def mark(device: torch.device) -> Any:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def clip_encoder(place: Place, settings: Settings, device: torch.device) -> tuple[Callable[[], Any], int, int]:
    """Return what encodes a batch of clips, how many they are, and the MACs of one."""
    del place
    config = model_of(settings.sizes)
    model = VideoTextModel(config).to(device).eval()
    frames_BTSS3 = host_frames(settings, device)
    macs = encoder_macs(config.vision, config.vision.frames * config.vision.patches_per_frame)

    def encode() -> Any:
        return model.encode_video(*all_patches(frames_BTSS3.to(device, non_blocking=True), config.vision))

    return encode, settings.batch, macs


def text_encoder(place: Place, settings: Settings, device: torch.device) -> tuple[Callable[[], Any], int, int]:
    """Return what encodes a batch of texts, how many they are, and the MACs of one."""
    del place
    config, texts = model_of(settings.sizes), TEXTS_PER_CLIP * settings.batch
    model = VideoTextModel(config).to(device).eval()
    ids_BL = torch.randint(5, config.text.vocab_size, (texts, LENGTH), device=device)
    mask_BL = torch.ones_like(ids_BL, dtype=torch.bool)
    only = ObjectiveWeights(contrastive=1.0, matching=0.0, masked_language=0.0, alignment=0.0)
    # Of one clip and its text, less the clip.
    macs = video_text_macs(config, 1, LENGTH, only).total - video_text_macs(config, 1, 0, only).total
    return lambda: model.encode_text(ids_BL, mask_BL), texts, macs


def teacher_targets(place: Place, settings: Settings, device: torch.device) -> tuple[Callable[[], Any], int, int]:
    """Return what makes the records of a batch of views, how many they are, and the MACs of one."""
    teacher = load_benchmark_teacher(place, settings)
    view = ViewConfig(frames=settings.sizes.frames, size=settings.sizes.pixels)
    header = make_header(view, teacher, teacher.config.source, "benchmark")
    macs = teacher.macs(header.frames, header.visible_per_frame)
    assert macs is not None
    frames_BTSS3 = host_frames(settings, device)
    noise_BTN = torch.rand(settings.batch, header.frames, header.grid**2, device=device)
    coder = Coder(header.codec).to(device)

    def encode() -> Any:
        found = draw_targets(teacher, header.mask, PATCH, frames_BTSS3.to(device, non_blocking=True), noise_BTN)
        return coder.encode(found.targets_KBVC.transpose(0, 1)), found.patches_BVP.cpu(), found.visible_BV.cpu()

    return encode, settings.batch, macs


def host_frames(settings: Settings, device: torch.device) -> torch.Tensor:
    """Return a batch of clips, uint8 [B,T,S,S,3], in memory that a GPU copies from."""
    frames = torch.from_numpy(random_frames(ViewConfig(frames=settings.sizes.frames, size=settings.sizes.pixels)))
    frames = frames[torch.arange(settings.batch) % len(frames)]
    return frames.pin_memory() if device.type == "cuda" else frames


def report(
    settings: Settings, corpus: Corpus, files: Sequence[Any], found: dict[str, Encoding], written: Iterator[str]
) -> Iterator[str]:
    """Yield the lines of the page."""
    sizes = settings.sizes
    yield "# Speed of encoding"
    yield ""
    yield paragraph(
        f"{sizes.title}, {sizes.frames} frames of {sizes.pixels} x {sizes.pixels} pixels, with a BERT of "
        f"{sizes.text['fusion_layer']} text layers of width {sizes.text['dim']}; teacher {sizes.teacher_title}, "
        f"{sizes.layers} layers; random weights; {found['clips'].precision}. Written by"
    )
    yield ""
    yield from written
    if files:
        from embed_files import files_table

        yield ""
        yield "## Files to vectors"
        yield ""
        yield paragraph(
            f"{files[0].clips} clips of {corpus.files} files, {corpus.sizes} pixels, {corpus.mean_frames:.0f} frames and "
            f"{corpus.mean_kib:,.0f} KiB on average, and {files[-1].clips} of them where the model is the demo's."
        )
        yield ""
        yield from files_table(files)
    yield ""
    yield "## Encoders alone"
    yield ""
    yield paragraph(
        f"Batches of {settings.batch} clips or {TEXTS_PER_CLIP * settings.batch} texts, {settings.steps} timed ones after "
        f"{WARM_UP} of warm-up. Nothing is decoded or tokenised."
    )
    yield ""
    yield from encoders_table(found)


def encoders_table(found: dict[str, Encoding]) -> Iterator[str]:
    yield "| what | per second | MFU | matmul peak, TFLOP/s | GFLOP each | peak memory, MiB |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    best = max(encoding.tflops_peak for encoding in found.values())
    for kind, encoding in found.items():
        memory = f"{encoding.peak_memory_mib:,.0f}" if encoding.peak_memory_mib else "not measured"
        mfu = encoding.mfu * encoding.tflops_peak / best
        line = f"| {TITLES[kind]} | {encoding.per_s:.2f} | {mfu:.3f} | {encoding.tflops_peak:.3f} | {encoding.gflops:.1f} "
        yield f"{line}| {memory} |"
    yield ""
    yield "MFU is against the best of the matmul peaks, measured before each part."


if __name__ == "__main__":
    main()
