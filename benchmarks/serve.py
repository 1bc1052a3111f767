"""What search costs: an index of a million windows, texts asked one by one, re-ranking, and a server under many clients.

    python benchmarks/serve.py --out docs/benchmarks_serve.md
    python benchmarks/serve.py --quick

Vectors of windows are drawn (:mod:`drawn_windows`); models have random weights, which are as fast as trained ones, but for
the projection of texts, which is fitted so that each text lies where a drawn query lies. Everything else is what a user runs:
index, model folder, search, `umt serve`.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from common import SIZES, commit, in_new_process, machine, paragraph, write_page
from drawn_files import FILES, draw_files
from drawn_windows import World
from model_folders import DEMO, model_of, sentences, write_video_text
from serve_clients import Answers, ask, memory_mib, serving
from serve_index import LABELS, Folder, K, Measured, build_index, linked_media, measure_folder, measure_search

from umt_pipeline.models.video_text import VideoTextConfig

# A text encoder can be made to say as many things as it is wide.
QUERIES_PER_WIDTH = 0.5
MOST_QUERIES = 384


@dataclass(frozen=True)
class Subject:
    """A model and how many windows it searches.

    Args:
        title: of the model.
        config: its sizes.
        windows: n.
        rerank: so many windows are re-ranked, each in a run of its own.
    """

    title: str
    config: VideoTextConfig
    windows: int
    rerank: tuple[int, ...] = ()

    @property
    def queries(self) -> int:
        return min(MOST_QUERIES, len(sentences()), int(QUERIES_PER_WIDTH * self.config.text.dim))

    @property
    def world(self) -> World:
        return World(self.config.embed_dim, self.windows)


@dataclass(frozen=True)
class Load:
    """A server under clients.

    Args:
        answers: that the clients got.
        memory: of the server's process, at the end.
    """

    answers: Answers
    memory: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--windows", type=int, default=1_000_000, help="of an index; the small one has a tenth")
    parser.add_argument("--clients", type=int, default=50, help="that ask a server at once")
    parser.add_argument("--seconds", type=float, default=60.0, help="that they ask for")
    parser.add_argument("--rerank", type=int, default=32, help="windows of a query that are re-ranked")
    parser.add_argument("--quick", action="store_true", help="tiny models, few windows, few seconds: does it run?")
    parser.add_argument("--videos", type=Path, help="folder of real videos, of which an index is made too")
    parser.add_argument("--folder", type=Path, help="where the indexes are written, on the disk to be measured")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.windows, arguments.clients, arguments.seconds, arguments.rerank = 4000, 4, 2.0, 2
    before = os.getloadavg()[0]
    with TemporaryDirectory(prefix="umt-serve-", dir=arguments.folder) as name:
        media = Path(name) / "media"
        in_new_process(draw_files, media, 2 if arguments.quick else FILES)
        measured, real = [], []
        for number, subject in enumerate(subjects(arguments)):
            folder = Path(name) / str(number)
            measured.append(measure(subject, folder, media))
            if arguments.videos and subject.rerank:
                parts = (subject.title, folder / "model", folder / "real", arguments.videos, subject.queries)
                real.append(in_new_process(measure_folder, *parts))
        load = measure_load(subject, folder, arguments.clients, arguments.seconds)
    write_page(page(arguments, measured, real, load, (before, os.getloadavg()[0])), arguments.out)


def subjects(arguments: argparse.Namespace) -> list[Subject]:
    """Return what is measured; the last one is also served."""
    few, many, rerank = arguments.windows // 10, arguments.windows, (arguments.rerank,)
    if arguments.quick:
        tiny = model_of(SIZES["tiny"])
        return [Subject("a tiny model", tiny, few), Subject("a tiny model", tiny, many, rerank)]
    umt = model_of(SIZES["base"])
    return [
        Subject("the demo's size", DEMO, many, rerank),
        Subject(SIZES["base"].title, umt, few),
        Subject(SIZES["base"].title, umt, many, rerank),
    ]


def measure(subject: Subject, folder: Path, media: Path) -> Measured:
    """Build an index and ask it, each in a process of its own."""
    world = subject.world
    model = write_video_text(folder / "model", subject.config, world.queries(subject.queries))
    paths = in_new_process(linked_media, media, folder / "media", world.files)
    built = in_new_process(build_index, model, folder / "index", world, paths)
    asked = in_new_process(measure_search, model, folder / "index", subject.queries, subject.rerank)
    return Measured(model=subject.title, windows=subject.windows, dim=world.dim, **built, **asked)


def measure_load(subject: Subject, folder: Path, clients: int, seconds: float) -> Load:
    """Serve an index and let clients ask."""
    options = ["--model", str(folder / "model"), "--index", str(folder / "index")]
    with serving(options) as (address, process):
        ask(address, sentences()[: subject.queries], clients, min(2.0, seconds))  # warm-up
        answers = ask(address, sentences()[: subject.queries], clients, seconds)
        return Load(answers, memory_mib(process))


def page(
    arguments: argparse.Namespace,
    measured: Sequence[Measured],
    real: Sequence[Folder],
    load: Load,
    loads: tuple[float, float],
) -> Iterator[str]:
    yield "# What search costs"
    yield ""
    yield paragraph(
        "Windows of one second, ten of a file, whose vectors are drawn: in topics of unequal size, with texts on one side of "
        "the space and windows on the other. Weights are random, but for the projection of texts, which is fitted so that each "
        "text lies where a drawn query lies: which windows are found says nothing, what it costs to find them does. Written by"
    )
    yield ""
    yield f"    {command(arguments)}"
    yield ""
    yield paragraph(
        f"on {machine('cpu')}; load average {loads[0]:.1f} before, {loads[1]:.1f} after; torch {torch.__version__}; commit "
        f"{commit(arguments.out)}."
    )
    parts = [index_part(measured), query_part(measured), filter_part(measured[-1]), rerank_part(measured)]
    parts += [load_part(arguments, measured[-1], load), *([real_part(real)] if real else [])]
    for part in parts:
        yield ""
        yield from part


def command(arguments: argparse.Namespace) -> str:
    words = ["python", "benchmarks/serve.py", "--windows", arguments.windows, "--clients", arguments.clients]
    words += ["--seconds", f"{arguments.seconds:g}", "--rerank", arguments.rerank]
    words = ["python", "benchmarks/serve.py", "--quick"] if arguments.quick else words
    words += ["--videos", "DIR"] if arguments.videos else []
    return shlex.join(map(str, [*words, *(() if arguments.out is None else ("--out", os.path.relpath(arguments.out)))]))


def index_part(measured: Sequence[Measured]) -> Iterator[str]:
    yield "## The index"
    yield ""
    yield "| windows | width | kind by rule | build, s | open, s | disk | of it vectors | own memory | mapped |"
    yield "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for one in measured:
        millions = one.windows / 1e6
        sizes = " | ".join(f"{mib / millions:,.0f}" for mib in (one.disk_mib, one.vectors_mib, one.own_mib, one.mapped_mib))
        yield f"| {one.windows:,} | {one.dim} | {one.kind} | {one.build_s:.1f} | {one.open_s:.2f} | {sizes} |"
    yield ""
    yield paragraph(
        "Sizes are MiB per million windows. Built from vectors that are there already: what embedding costs is in "
        "[benchmarks_encode.md](benchmarks_encode.md). Opening compares all files with their hashes. Own memory is what a "
        "process holds after all queries more than before it opened the index, mapped are pages of its files, which the "
        "system takes back when it needs them."
    )


def query_part(measured: Sequence[Measured]) -> Iterator[str]:
    yield "## A text query"
    yield ""
    yield "| model | windows | kind | recall@10 | p50, ms | p95, ms | of it the text, p50 | the index, p50 | the index, p95 |"
    yield "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for one in measured:
        found = one.latency[""]
        yield (
            f"| {one.model} | {one.windows:,} | {one.kind} | {found.recall:.4f} | {found.p50:.1f} | {found.p95:.1f} "
            f"| {found.text_p50:.1f} | {found.index_p50:.1f} | {found.index_p95:.1f} |"
        )
    yield ""
    yield paragraph(
        f"One after another, in one process, the {K} best places, without re-ranking: the text is tokenised and encoded, the "
        "nearest windows are looked up and neighbours put together. Recall is the share of the ten windows that are nearest of "
        "all, each compared, that the index finds. The index alone is asked for ten windows of a vector."
    )


def filter_part(one: Measured) -> Iterator[str]:
    yield f"The same with a filter by label, {one.windows:,} windows:"
    yield ""
    yield "| windows that pass | recall@10 | p50, ms | p95, ms | the index, p50 | the index, p95 |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for label, share in LABELS.items():
        found = one.latency[label]
        numbers = " | ".join(f"{ms:.1f}" for ms in (found.p50, found.p95, found.index_p50, found.index_p95))
        yield f"| {100 * share:g} % | {found.recall:.4f} | {numbers} |"


def rerank_part(measured: Sequence[Measured]) -> Iterator[str]:
    yield "## Re-ranking"
    yield ""
    yield "| model | windows re-ranked | s | s per window |"
    yield "| --- | ---: | ---: | ---: |"
    for one in measured:
        for count, seconds in one.rerank_s.items():
            yield f"| {one.model} | {count} | {seconds:.2f} | {seconds / count:.3f} |"
    yield ""
    yield paragraph(
        "A query of which so many places are ranked anew: their files are decoded, all frames encoded, and each clip matched "
        "with the text. Nothing of it is kept from one query to the next."
    )


def load_part(arguments: argparse.Namespace, one: Measured, load: Load) -> Iterator[str]:
    answers = load.answers
    yield f"## {arguments.clients} clients at once"
    yield ""
    yield "| clients | seconds | answers | errors | answers/s | p50, ms | p95, ms | own memory, MiB | CPU of clients, s |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    yield (
        f"| {arguments.clients} | {answers.seconds:.1f} | {len(answers.took_ms):,} | {sum(answers.errors.values())} "
        f"| {answers.per_s:.1f} | {answers.percentile(50):.0f} | {answers.percentile(95):.0f} "
        f"| {load.memory['RssAnon']:,.0f} | {answers.client_cpu_s:.1f} |"
    )
    yield ""
    errors = "; ".join(f"{name}: {count}" for name, count in sorted(answers.errors.items()))
    yield paragraph(
        f"`umt serve` with {one.model} and {one.windows:,} windows, on the same cores as the clients. Each client asks "
        "`GET /api/search` again as soon as it is answered, so a query waits for those of the others: p50 is about the "
        f"number of clients divided by the answers a second. {f'Errors: {errors}.' if errors else ''}"
    )


def real_part(real: Sequence[Folder]) -> Iterator[str]:
    facts = real[0].facts
    yield "## A folder of real videos"
    yield ""
    yield paragraph(
        "{found} files, of which {failed} cannot be read and {copies} are copies; ".format(**facts["files"])
        + f"{facts['windows']} windows of ten seconds, one every five, moved to scene changes."
    )
    yield ""
    yield "| model | checking, s | looking for scenes, s | embedding, s | windows/s | bytes | kind | text, p50, ms | p95, ms |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: |"
    for one in real:
        seconds, windows = one.facts["seconds"], one.facts["windows"]
        parts = " | ".join(f"{seconds[part]:.1f}" for part in ("checking", "looking", "embedding"))
        yield (
            f"| {one.model} | {parts} | {windows / seconds['embedding']:.2f} | {one.facts['bytes']:,} | {one.kind} "
            f"| {one.latency.p50:.1f} | {one.latency.p95:.1f} |"
        )


if __name__ == "__main__":
    main()
