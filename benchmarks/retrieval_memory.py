"""Memory that re-ranking takes: all tokens in every process, as the published code has it, against tokens in files.

Clips and texts are random numbers, and the matching head has random weights: neither memory nor speed depends on them.
"""

from __future__ import annotations

import argparse
import functools
import os
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from umt_pipeline.evaluation.encoders import VideoTextEncoder
from umt_pipeline.evaluation.reranking import match_best, reranked
from umt_pipeline.evaluation.retrieval import dual_scores
from umt_pipeline.evaluation.stored_arrays import StoredArray, store_arrays
from umt_pipeline.evaluation.workers import Workers
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.video_text import VideoTextConfig, VideoTextModel
from umt_pipeline.models.vit import ViTConfig

LENGTH = 16  # tokens of a text
RANKS = (1, 2, 4)
MODES = {"all in memory": "every process holds the tokens of all clips", "in files": "each run reads its rows"}


@dataclass(frozen=True)
class Sizes:
    """Of the synthetic set: pairs are drawn at random, ``pairs`` texts for every clip."""

    clips: int
    tokens: int
    dim: int
    pairs: int

    @property
    def mib(self) -> float:
        """All tokens in half precision."""
        return self.clips * self.tokens * self.dim * 2 / 2**20


@dataclass(frozen=True)
class Work:
    """One process' share."""

    mode: str
    ranks: int
    meeting: Path
    text_ULD: StoredArray
    mask_UL: StoredArray
    video_SVD: StoredArray
    text_G: np.ndarray
    clip_G: np.ndarray


@dataclass(frozen=True)
class Row:
    mode: str
    ranks: int
    per_rank: float
    together: float
    pairs_per_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a clip")
    parser.add_argument("--dim", type=int, default=256, help="width of a token")
    parser.add_argument("--pairs", type=int, default=2, help="texts that are re-ranked for a clip")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    sizes = Sizes(arguments.clips, arguments.tokens, arguments.dim, arguments.pairs)
    with TemporaryDirectory(prefix="umt-benchmark-") as name:
        stored = make_set(sizes, Path(name))
        rows = [row for ranks in RANKS for row in measure(sizes, stored, ranks, Path(name))]
    ranking = rank_all(sizes.clips)
    from common import write_page  # not at the top: the processes that are measured do without what it imports

    write_page(page(sizes, rows, ranking, arguments.out), arguments.out)


def make_set(sizes: Sizes, folder: Path) -> dict[str, StoredArray]:
    """Write random tokens, in shards of one row of files as the evaluation does, and random texts."""
    generator = torch.Generator().manual_seed(0)
    shard, files, offset = 32, [], 0
    for start in range(0, sizes.clips, shard):
        clips = min(shard, sizes.clips - start)
        part = torch.randn(clips, sizes.tokens, sizes.dim, generator=generator).half()
        [(path, offset)] = store_arrays(folder / f"{start:06d}.safetensors", {"tokens": part})["tokens"].files
        files.append((path, offset))
    file_S, place_S = np.divmod(np.arange(sizes.clips), shard)
    video = StoredArray("tokens", files, (sizes.tokens, sizes.dim), torch.float16, file_S, place_S)
    text = torch.randn(sizes.clips, LENGTH, 64, generator=generator)
    mask = torch.ones(sizes.clips, LENGTH, dtype=torch.bool)
    return {"video": video} | store_arrays(folder / "texts.safetensors", {"text": text, "mask": mask})


def measure(sizes: Sizes, stored: dict[str, StoredArray], ranks: int, folder: Path) -> list[Row]:
    """Re-rank in both ways with so many processes."""
    rng = np.random.default_rng(0)
    clip_G = np.repeat(np.arange(sizes.clips), sizes.pairs)
    text_G = rng.integers(0, sizes.clips, len(clip_G))
    load = functools.partial(make_model, sizes)
    parts = np.array_split(np.arange(len(clip_G)), ranks)
    arrays = (stored["text"], stored["mask"], stored["video"])
    rows = []
    with Workers(load, max(2, ranks)) as workers:  # one share too is done in a process of its own
        for mode in MODES:
            meeting = folder / f"{ranks} {mode}"
            meeting.mkdir()
            work = [Work(mode, ranks, meeting, *arrays, text_G[part], clip_G[part]) for part in parts]
            peaks, seconds = zip(*(result for _, result in workers.map(score, work)), strict=True)
            rows.append(Row(mode, ranks, max(peaks), sum(peaks), len(clip_G) / max(seconds)))
    return rows


def make_model(sizes: Sizes) -> VideoTextEncoder:
    """Return a model whose fusion layers have a width of 64."""
    torch.manual_seed(0)
    vision = ViTConfig(image_size=32, patch_size=16, frames=1, dim=sizes.dim, depth=1, heads=4)
    text = TextConfig(
        vocab_size=100, dim=64, layers=2, fusion_layer=1, heads=4, mlp_dim=256, max_positions=LENGTH, vision_dim=sizes.dim
    )
    model = VideoTextModel.create(VideoTextConfig(vision=vision, text=text, embed_dim=8)).eval()
    return VideoTextEncoder("stage2", model, None)  # type: ignore[arg-type]  # no text is tokenised here


def score(model: VideoTextEncoder, work: Work) -> tuple[float, float]:
    """Return the MiB that scoring adds at its peak to the process' resident memory, and seconds."""
    (work.meeting / str(os.getpid())).touch()
    while len(list(work.meeting.iterdir())) < work.ranks:  # a process that is ready early must not do two shares
        time.sleep(0.02)
    return with_peak(lambda: model.pair_scorer(*held(work))(work.text_G, work.clip_G))


def held(work: Work) -> tuple[StoredArray | torch.Tensor, ...]:
    arrays = (work.text_ULD, work.mask_UL, work.video_SVD)
    return tuple(array.all() for array in arrays) if work.mode == "all in memory" else arrays


def rank_all(clips: int) -> float:
    """Return the MiB that the first process adds to choose candidates of as many texts and to put them in order."""
    rng = np.random.default_rng(0)
    text, video = (rng.standard_normal((clips, 64)).astype(np.float32) for _ in range(2))

    def work() -> None:
        dual = dual_scores("stage2", text, video, np.arange(clips), clips)
        reranked(match_best(dual, lambda text_G, clip_G: rng.standard_normal((len(text_G), 2)), 128, log_odds=False))

    return with_peak(work)[0]


def with_peak(work: Callable[[], object]) -> tuple[float, float]:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew at what is held now
    before, started = resident("VmRSS"), time.perf_counter()
    work()
    return resident("VmHWM") - before, time.perf_counter() - started


def resident(key: str) -> float:
    """Return a line of this process' status in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def page(sizes: Sizes, rows: list[Row], ranking: float, out: Path | None) -> Iterator[str]:
    from common import commit, machine

    words = ["python", "benchmarks/retrieval_memory.py", "--clips", sizes.clips, "--tokens", sizes.tokens, "--dim", sizes.dim,
             "--pairs", sizes.pairs, *(() if out is None else ("--out", os.path.relpath(out)))]  # fmt: skip
    yield "# Memory of re-ranking"
    yield ""
    yield (
        f"{sizes.clips:,} clips of {sizes.tokens} tokens x {sizes.dim} in half precision ({sizes.mib:,.0f} MiB), "
        f"as many texts, {sizes.pairs * sizes.clips:,} pairs for the matching head (random weights, width 64). Written by"
    )
    yield ""
    yield f"    OMP_NUM_THREADS=1 {shlex.join(map(str, words))}"
    yield ""
    yield f"on {machine('cpu')}, while other work ran on it; torch {torch.__version__}; commit {commit(out)}."
    yield ""
    yield "| tokens | processes | MiB per process | MiB together | pairs/s, relative |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for row in rows:
        ratio = row.pairs_per_s / rows[0].pairs_per_s
        yield f"| {row.mode} | {row.ranks} | {row.per_rank:,.0f} | {row.together:,.0f} | {ratio:.2f} |"
    yield ""
    yield (
        "MiB are what scoring adds, at its peak, to the resident memory of a process that has the model loaded. All in memory: "
        f"{MODES['all in memory']}, as after an all-gather. In files: {MODES['in files']} "
        "(`umt_pipeline.evaluation.stored_arrays`). Speeds are relative to one process with all in memory; "
        "they depend on what else the machine does, memory does not."
    )
    yield ""
    yield (
        f"The first process also chooses the candidates and puts them in order: {ranking:,.0f} MiB for as many texts as clips, "
        f"{ranking / (sizes.clips**2 * 8 / 2**20):.1f} times the matrix of their scores in double precision. That depends "
        "neither on tokens nor on the number of processes."
    )


if __name__ == "__main__":
    main()
