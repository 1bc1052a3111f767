"""How fast files are embedded: read, decoded and encoded, beside what decoder and device give at best in the same run.

A part of :mod:`encode` that needs decoders, pandas and open_clip.

Shapes: n clips, T frames, S side of a frame, E embedding width.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import Place, Settings, paragraph
from model_folders import DEMO, OPEN_CLIP, model_of, write_clip, write_video_text

from umt_pipeline import load
from umt_pipeline.compute.peak import matmul_peak
from umt_pipeline.compute.precision import dtype_of
from umt_pipeline.core.files import link_or_copy
from umt_pipeline.core.processes import cores
from umt_pipeline.evaluation.decoding import decoded
from umt_pipeline.evaluation.encoders import ClipEncoder, TeacherEncoder, VideoTextEncoder
from umt_pipeline.models.flops import encoder_macs
from umt_pipeline.training.device import resolve_device
from umt_pipeline.video.views import ViewConfig, eval_view, load_view

# More clips of the demo's model, whose encoder takes next to no time, so that its run is as long as the others'.
DEMO_CLIPS = 16
PACKAGE, LOOP = "this package", "a plain loop of open_clip"
SUBJECTS = ("umt", "clip", "loop", "demo")

Reader = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Embedding:
    """How fast files are embedded.

    Args:
        model: what embeds.
        how: with what.
        view: frames and their size.
        clips: how many were embedded.
        per_s: of them a second, from files to vectors.
        decoder_per_s: a second that all cores decode of the same files into the same views, while they do nothing else.
        gflops: of a clip.
        tflops_peak: of the device, in the precision that was computed in.
        precision: that.
    """

    model: str
    how: str
    view: ViewConfig
    clips: int
    per_s: float
    decoder_per_s: float
    gflops: float
    tflops_peak: float
    precision: str


def write_models(place: Place, settings: Settings) -> None:
    """Write the models that :func:`measure_files` loads."""
    write_video_text(place.folder / "umt", model_of(settings.sizes))
    write_video_text(place.folder / "demo", DEMO)
    write_clip(place.folder / "clip", settings.size)


def measure_files(place: Place, settings: Settings, subject: str) -> Embedding:
    """Embed files with one model, in one way."""
    source = place.folder / ("clip" if subject == "loop" else subject)
    model = load(f"open_clip:local-dir:{source}" if source.name == "clip" else source)
    assert model.embedder is not None
    encoder = model.embedder.encoder
    clips = settings.batch * settings.steps * (DEMO_CLIPS if subject == "demo" else 1)
    files = linked_files(place, subject, settings.batch + clips)
    warm_up, paths = list(files)[: settings.batch], list(files)[settings.batch :]
    read = reader(files, encoder.view)
    precision = "fp32" if subject == "loop" else encoder.precision
    peak = matmul_peak(resolve_device(settings.device), dtype_of(precision))
    embed = plain_loop(source, read) if subject == "loop" else lambda chosen: model.embed_videos(chosen).all()
    embed(warm_up)
    # Before and after: whatever else the machine does only slows it down, and the limit is the faster one.
    before = decoding_speed(paths, read, settings.batch)
    began = time.perf_counter()
    vectors_nE = embed(paths)
    seconds = time.perf_counter() - began
    assert len(vectors_nE) == clips
    assert bool(vectors_nE.isfinite().all())
    after = decoding_speed(paths, read, settings.batch)
    return Embedding(
        model=title(subject, settings),
        how=LOOP if subject == "loop" else PACKAGE,
        view=encoder.view,
        clips=clips,
        per_s=clips / seconds,
        decoder_per_s=max(before, after),
        gflops=2 * macs_of(encoder) / 1e9,
        tflops_peak=peak / 1e12,
        precision=precision,
    )


def title(subject: str, settings: Settings) -> str:
    tiny = settings.size == "tiny"
    return {"umt": settings.sizes.title, "demo": "the demo's size"}.get(subject, "a tiny CLIP" if tiny else OPEN_CLIP)


def linked_files(place: Place, name: str, count: int) -> dict[str, tuple[int, int, int]]:
    """Return different paths, which are links to the corpus' files, with frames, height and width."""
    folder = place.folder / f"files-{name}"
    folder.mkdir()
    table = pd.read_parquet(place.videos).drop_duplicates("path")
    rows = table[["path", "num_frames", "height", "width"]].itertuples(index=False, name=None)
    found = {}
    for number, (path, *size) in enumerate(itertools.islice(itertools.cycle(list(rows)), count)):
        link = folder / f"{number:05d}{Path(path).suffix}"
        link_or_copy(place.media / path, link)
        found[str(link)] = (int(size[0]), int(size[1]), int(size[2]))
    return found


def reader(files: dict[str, tuple[int, int, int]], view: ViewConfig) -> Reader:
    """Return what decodes a file into a view, uint8 [T,S,S,3]; how long and large it is, is known beforehand."""
    return lambda path: load_view(Path(path), eval_view(view, *files[path]))


def decoding_speed(paths: Sequence[str], read: Reader, batch: int) -> float:
    """Return the clips a second that all cores decode while nothing is encoded."""
    began = time.perf_counter()
    for _, failures in decoded(paths, read, batch, cores()):
        assert not failures, failures
    return len(paths) / (time.perf_counter() - began)


def plain_loop(folder: Path, read: Reader) -> Callable[[Sequence[str]], torch.Tensor]:
    """Return what embeds files as one does who has open_clip alone: clip after clip, frames averaged."""
    import open_clip
    from PIL import Image

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    device: Any = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device).eval()

    @torch.inference_mode()
    def embed(paths: Sequence[str]) -> torch.Tensor:
        vectors_nE = []
        for path in paths:
            images_T3SS = torch.stack([preprocess(Image.fromarray(frame)) for frame in read(path)])
            frames_TE = model.encode_image(images_T3SS.to(device), normalize=True)
            vectors_nE.append(torch.nn.functional.normalize(frames_TE.mean(dim=0), dim=0).cpu())
        return torch.stack(vectors_nE)

    return embed


def macs_of(encoder: ClipEncoder) -> int:
    """Return the MACs of one clip; the plain loop's are the teacher's without targets, which are a thousandth of them."""
    if isinstance(encoder, TeacherEncoder):
        found = encoder.teacher.macs(encoder.view.frames, encoder.teacher.grid**2)
        assert found is not None
        return found
    assert isinstance(encoder, VideoTextEncoder)
    vision = encoder.model.config.vision
    return encoder_macs(vision, vision.frames * vision.patches_per_frame)


def files_table(found: Sequence[Embedding]) -> Iterator[str]:
    """Yield the lines of the page."""
    best = {
        precision: max(one.tflops_peak for one in found if one.precision == precision)
        for precision in {one.precision for one in found}
    }
    yield "| model | with | frames | clips/s | decoder alone, clips/s | share of it | MFU | matmul peak, TFLOP/s | GFLOP each |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for one in found:
        peak, frames = best[one.precision], f"{one.view.frames} x {one.view.size}²"
        yield (
            f"| {one.model} | {one.how} | {frames} | {one.per_s:.2f} | {one.decoder_per_s:.1f} "
            f"| {one.per_s / one.decoder_per_s:.1%} | {one.per_s * one.gflops / 1e3 / peak:.3f} "
            f"| {peak:.3f} ({one.precision}) | {one.gflops:.2f} |"
        )
    yield ""
    yield paragraph(
        "From files to vectors: looked into, decoded, cropped, resized and encoded. The decoder's limit is what all cores "
        "decode of the same files into the same frames while nothing is encoded and nothing is looked into, the better of two "
        "measurements, before and after; on a CPU decoding and encoding share the cores. MFU is against the best of the "
        "matmul peaks of a precision. The plain loop reads one clip with the same decoder, preprocesses each frame, encodes "
        "it, and takes the mean of the frames, clip after clip."
    )
