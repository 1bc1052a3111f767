"""docs/scaling.md: what the model says, in tables and in answers that are computed from them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from studies.scaling.inputs import INPUTS, of
from studies.scaling.parts import (
    BATCH,
    CORPORA,
    MODELS,
    VIEWS,
    Corpus,
    Job,
    Mode,
    ModelName,
    extraction_rate,
    model,
)
from studies.scaling.simulate import Pace, best_interval_s, checkpoint_s, simulate, with_failures

GPUS = (1, 8, 16, 32, 64)
MANY = 48
PREPARED = f"online, prepared, {MANY} decoders"
WAYS = ("online", PREPARED, "cached, int8", "cached, pq")
KINDS = {"small files as collected": "decode_small", "1080p files": "decode_hd", "prepared files": "decode_prepared"}
# A device is kept busy if it computes so much of the time.
BUSY = 0.9


def way(title: str, name: ModelName, gpus: int, corpus: Corpus = CORPORA[1]) -> Job:
    """Return the job of one of :data:`WAYS`."""
    mode: Mode = "online" if title in WAYS[:2] else "int8" if title == WAYS[2] else "pq"
    job = Job(name, mode, gpus, corpus.clips)
    return replace(job, workers=MANY, decode=of("decode_prepared")) if title == PREPARED else job


def lines() -> dict[str, list[Job]]:
    """Return the jobs of the figure, by the title of their line."""
    return {title: [way(title, name, gpus) for name in MODELS for gpus in GPUS] for title in WAYS}


@cache
def pace(job: Job) -> Pace:
    """Simulate a job, once."""
    return simulate(job)


@dataclass(frozen=True)
class Bill:
    """What a corpus costs in one way.

    Args:
        extraction_h: hours of the clock.
        training_h: the same, with checkpoints and failures.
        gpu_hours: of both.
        store_tb: of the cached mode.
        dollars: of devices, of cores beyond those of a usual machine, of `prepare`, and of the store for a month.
    """

    extraction_h: float
    training_h: float
    gpu_hours: float
    store_tb: float
    dollars: float


def failures_per_s(job: Job) -> float:
    """Return how often one of a job's devices fails."""
    return job.gpus / (of("mtbf") * 3600)


def prepare_core_hours(corpus: Corpus) -> float:
    """Return what `prepare` takes, as if all files were 1080p."""
    return corpus.clips * of("clip_s") / of("prepare_speed") / 3600


@cache
def bill(title: str, name: ModelName, gpus: int, corpus: Corpus) -> Bill:
    """Add up a training and what comes before it."""
    job = way(title, name, gpus, corpus)
    ideal = corpus.clips * corpus.epochs / pace(job).clips_per_s / 3600
    rate = failures_per_s(job)
    training = ideal * with_failures(job, ideal, best_interval_s(job, rate), rate, runs=40)
    extraction = 0.0 if job.mode == "online" else corpus.clips * VIEWS / extraction_rate(job)[0] / 3600
    store = 0.0 if job.mode == "online" else job.size_bytes / 1e12
    gpu_hours = (extraction + training) * gpus
    # Decoders beyond those that a usual machine has for it are rented beside.
    beside = gpu_hours * max(job.workers - of("workers"), 0.0) + (prepare_core_hours(corpus) if title == PREPARED else 0.0)
    dollars = gpu_hours * of("gpu_price") + beside * of("core_price") + store * of("disk_price")
    return Bill(extraction, training, gpu_hours, store, dollars)


def break_even(name: ModelName, codec: Mode) -> float:
    """Return from how many epochs per view on a cached training takes fewer GPU-hours than an online one, on 8 GPUs."""
    job = Job(name, codec, 8)
    saved = 1 / pace(Job(name, "online", 8)).clips_per_s - 1 / pace(job).clips_per_s
    return 1 / extraction_rate(job)[0] / saved


def document(figure: str) -> str:
    """Return the page as Markdown; ``figure`` is where its picture lies, as seen from the page."""
    picture = f"![Clips per second over GPUs, by model and way to the targets]({figure})\n"
    tables = *_throughput(), *_breaks(), *_costs(), *_codecs(), *_decoding(), *_checkpoints(), *_inputs()
    return "\n".join([HEAD, *_answers(), picture, *tables]) + "\n"


HEAD = f"""# More devices, more clips

Written by `python -m studies.scaling`; do not edit it by hand. `umt plan` prices one machine and one corpus; this page says
what happens beyond: up to 64 GPUs and 10 million clips, in stage 1.

**None of this was run.** Work (FLOPs, bytes) is counted exactly, by the code of `umt plan`. Decoding and reading were measured
on CPUs. **No GPU was measured**: their peak is from a data sheet, and that this code reaches {of("mfu"):.0%} of it is an
assumption, as are networks, disks, prices and failures ([inputs](#inputs)). Trust ratios, and the order in which things break,
more than hours. Change an input in `studies/scaling/inputs.py` and run it again.

A step is simulated batch by batch: each rank's decoders or disks fill a queue, computing varies a little and stalls now and
then, all ranks wait for the slowest, and gradients go round between machines. Left out: a file system that grows slow under
many small reads, a machine at half its speed for hours, evaluation, ingestion.

## Answers
"""


def _answers() -> Iterator[str]:
    for name in MODELS:
        small, ready = (_cores(name, of(rate)) for rate in ("decode_small", "decode_prepared"))
        advice = "Rent cores, or cache." if ready > of("cores") else "Prepare the files, or cache."
        yield _bullet(
            f"**{name}, online**: one GPU wants {small:.0f} decoding cores with small files, {ready:.0f} with prepared ones; a "
            f"usual machine has {of('cores'):.0f} beside it, so the GPU waits, and a faster one waits longer. {advice}"
        )
    for corpus in CORPORA:
        for name in MODELS:
            gpus = 8 if corpus.clips < 1e6 else 32
            bills = {title: bill(title, name, gpus, corpus) for title in WAYS}
            best = min(bills, key=lambda title: bills[title].dollars)
            hours = bills[best].extraction_h + bills[best].training_h
            disk = f", with a store of {bills[best].store_tb:.1f} TB" if bills[best].store_tb else ""
            yield _bullet(
                f"**{name} on {corpus.name}** ({corpus.clips:,} clips, {corpus.epochs} epochs) on {gpus} GPUs: online with the "
                f"usual cores {_h(bills['online'].training_h)} h and ${bills['online'].dollars:,.0f}; cheapest is {best}: "
                f"{_h(hours)} h and ${bills[best].dollars:,.0f}{disk}."
            )
    pays = ", ".join(f"{break_even(name, 'int8'):.1f} ({name})" for name in MODELS)
    often = ", ".join(f"{corpus.epochs / VIEWS:g} ({corpus.name})" for corpus in CORPORA)
    yield _bullet(
        f"**Online or cached**: cached takes fewer GPU-hours if a view is seen in more than {pays} epochs; {VIEWS} views of "
        "a clip "
        f"are seen in {often}. What so few views do to scores at this size nobody has published. With many clips the store is "
        "what costs: record fewer views, or take pq."
    )
    factor = of("decode_prepared") / of("decode_hd")
    yield _bullet(
        f"**Prepare** 1080p files: they need {factor:.0f} times the cores of prepared ones. It pays after {_pays():.1f} views "
        "of a clip that are decoded one by one, so always online; extraction decodes a clip once for all its views. Small "
        "files whose key frames are close stay as they are."
    )
    sizes = " and ".join(
        f"{', '.join(f'{codec} {size / 1e6:.2f}' for codec, size in model(name).row_bytes.items())} MB ({name})"
        for name in MODELS
    )
    yield _bullet(f"**Store**: a view takes {sizes}; [times clips and views](#store).")
    job = Job("UMT-L/16", "int8", 64)
    reliable, taken = (best_interval_s(job, rate) / 60 for rate in (failures_per_s(job), _taken_per_s(job)))
    yield _bullet(
        f"**Checkpoints** on 64 GPUs with UMT-L: every {reliable:.0f} minutes where machines are reliable, every "
        f"{taken:.0f} where "
        "they can be taken away ([table](#checkpoints)). The recipes' one per epoch costs little more."
    )
    yield ""


def _bullet(text: str) -> str:
    return textwrap.fill(text, 128, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 128, break_on_hyphens=False, break_long_words=False) + "\n"


def _first_gap(title: str, name: ModelName, corpus: Corpus) -> tuple[int, Pace, str] | None:
    """Return the fewest GPUs that are not kept busy, their pace, and what they wait for."""
    for gpus in GPUS:
        job = way(title, name, gpus, corpus)
        one = pace(job)
        if one.busy < BUSY:
            waits = {"input": one.input, "other ranks": one.others, "gradients": one.gradients}
            longest = max(waits, key=lambda what: waits[what])
            inputs = {part: rate for part, rate in job.ceilings().items() if part not in ("computing", "gradients")}
            return gpus, one, min(inputs, key=lambda part: inputs[part]) if longest == "input" else longest
    return None


def _pays() -> float:
    """Return after how many views of a 1080p clip `prepare` has earned its time."""
    return of("clip_s") / of("prepare_speed") / (1 / of("decode_hd") - 1 / of("decode_prepared"))


def _taken_per_s(job: Job) -> float:
    return job.machines / (of("preempted") * 3600)


def _cores(name: ModelName, rate: float) -> float:
    """Return the cores beside one GPU that decode as fast as it computes, online."""
    return Job(name, "online", 1).ceilings()["computing"] / rate


def _throughput() -> Iterator[str]:
    yield "## Throughput\n"
    yield _paragraph(
        f"K710 ({CORPORA[1].clips:,} clips), batches of {BATCH:,} at any number of GPUs: clips/s, and the share of the time in "
        "which a GPU computes."
    )
    head = ["model", "targets", *(f"{gpus} GPU{'s' if gpus > 1 else ''}" for gpus in GPUS)]
    rows = []
    for name in MODELS:
        for title in WAYS:
            paces = [pace(way(title, name, gpus)) for gpus in GPUS]
            rows.append([name, title, *(f"{one.clips_per_s:,.0f} ({one.busy:.0%})" for one in paces)])
    yield _table(head, rows)


def _breaks() -> Iterator[str]:
    yield "## Where it breaks first\n"
    yield _paragraph(
        f"The fewest GPUs of {', '.join(map(str, GPUS))} that compute less than {BUSY:.0%} of the time, and what they "
        "wait for. "
        "Ceilings are what a part alone would allow on 64 GPUs, in clips/s. Each machine has a copy of what it reads on "
        "its own "
        f"disks ({of('disk_tb'):g} TB), else all read one shared file system."
    )
    rows = []
    for corpus in CORPORA[1:]:
        for name in MODELS:
            for title in WAYS:
                gap = _first_gap(title, name, corpus)
                ceilings = way(title, name, 64, corpus).ceilings()
                told = ", ".join(f"{part} {rate:,.0f}" for part, rate in sorted(ceilings.items(), key=lambda item: item[1]))
                broken = ("none", "") if gap is None else (f"{gap[0]} ({gap[1].busy:.0%})", gap[2])
                rows.append([corpus.name, name, title, *broken, told])
    yield _table(["corpus", "model", "targets", "GPUs", "for want of", "ceilings on 64 GPUs"], rows)


def _costs() -> Iterator[str]:
    yield "## Cost\n"
    yield _paragraph(
        f"Hours of the clock, with checkpoints and failures. Dollars are GPUs at ${of('gpu_price'):g} an hour with the "
        "usual cores, "
        f"cores beyond at ${of('core_price'):g}, `prepare` where it is named, and the store for a month at "
        f"${of('disk_price'):g} a "
        f"TB. Extraction records {VIEWS} views of each clip on the same GPUs, from small files, with all cores decoding."
    )
    rows = []
    for corpus in CORPORA:
        for name in MODELS:
            for gpus in (8, 64):
                for title in WAYS:
                    one, job = bill(title, name, gpus, corpus), way(title, name, gpus, corpus)
                    extraction, store, where = (
                        (_h(one.extraction_h), f"{one.store_tb:.1f}", "own" if job.local else "shared")
                        if one.store_tb
                        else ("", "", "")
                    )
                    spent = f"{one.gpu_hours:,.0f}", f"{one.dollars:,.0f}"
                    rows.append([corpus.name, name, f"{gpus}", title, extraction, _h(one.training_h), *spent, store, where])
    head = ["corpus", "model", "GPUs", "targets", "extraction, h", "training, h", "GPU-hours", "$", "store, TB", "disks"]
    yield _table(head, rows)


def _codecs() -> Iterator[str]:
    yield f"## Store\n\nTB for {VIEWS} views of each clip: visible patches, targets of six layers, and what belongs to them.\n"
    rows = []
    for name in MODELS:
        for codec, size in model(name).row_bytes.items():
            rows.append(
                [name, codec, f"{size / 1e6:.2f}", *(f"{corpus.clips * VIEWS * size / 1e12:,.1f}" for corpus in CORPORA)]
            )
    yield _table(["model", "codec", "MB a view", *(corpus.name for corpus in CORPORA)], rows)


def _decoding() -> Iterator[str]:
    yield "## Decoding\n\nDecoding cores that keep one GPU busy, and what `prepare` costs once.\n"
    rows = []
    for kind, rate in KINDS.items():
        online = (f"{_cores(name, of(rate)):.0f}" for name in MODELS)
        extraction = (f"{of('peak') * 1e12 * of('mfu') / model(name).teacher / of(rate):.0f}" for name in MODELS)
        rows.append([kind, f"{of(rate):g}", *online, *extraction])
    shown = [*(f"{name}, online" for name in MODELS), *(f"{name}, extraction" for name in MODELS)]
    yield _table(["files", "views/s of a core", *shown], rows)
    rows = []
    for corpus in CORPORA:
        core_hours = prepare_core_hours(corpus)
        rows.append([corpus.name, f"{core_hours:,.0f}", f"{core_hours * of('core_price'):,.0f}", f"{_pays():.1f}"])
    yield _table(["`prepare` of 1080p", "core-hours", "$", "pays after so many views of a clip"], rows)


def _checkpoints() -> Iterator[str]:
    yield "## Checkpoints\n"
    yield _paragraph(
        "By how much training is longer for checkpoints (weights and Adam's moments, while all wait) and failures "
        f"({of('restart_s') / 60:.0f} minutes each, and the work since the last checkpoint), on average over simulated "
        "runs. The "
        "recipes write one each epoch, 321 steps. K710, cached in int8; best is Young's interval. Machines are reliable "
        "(a failure "
        f"in {of('mtbf'):,.0f} GPU-hours) or can be taken away (each once in {of('preempted'):.0f} hours)."
    )
    rows = []
    for name in MODELS:
        for gpus in (8, 64):
            job = Job(name, "int8", gpus)
            hours = CORPORA[1].clips * CORPORA[1].epochs / pace(job).clips_per_s / 3600
            epoch_s = 321 * BATCH / pace(job).clips_per_s
            for kind, rate in (
                ("reliable", failures_per_s(job)),
                ("taken away", _taken_per_s(job)),
            ):
                best = best_interval_s(job, rate)
                longer = (with_failures(job, hours, seconds, rate) - 1 for seconds in (best, epoch_s, 3600))
                cells = (f"{share:.1%}" for share in longer)
                rows.append([name, f"{gpus}", kind, f"{checkpoint_s(job):.1f}", f"{best / 60:.0f}", *cells])
    yield _table(["model", "GPUs", "machines", "a checkpoint, s", "best, min", "longer: best", "each epoch", "each hour"], rows)


def _inputs() -> Iterator[str]:
    yield "## Inputs\n"
    rows = [[f"`{name}`", one.what, f"{one.value:,g} {one.unit}", one.kind, one.source] for name, one in INPUTS.items()]
    yield _table(["name", "what", "value", "kind", "source"], rows)
    yield "Counted by `umt plan` from the recipes:\n"
    counted: Mapping[str, list[str]] = {
        name: [
            f"{model(name).student / 1e9:.0f}", f"{model(name).teacher / 1e9:.0f}", f"{model(name).parameters / 1e6:.1f}",
            f"{model(name).frame_bytes / 1e6:.2f}",
        ]
        for name in MODELS
    }  # fmt: skip
    head = ["model", "student, GFLOP a clip", "teacher, GFLOP a view", "parameters, M", "decoded view, MB"]
    yield _table(head, [[name, *cells] for name, cells in counted.items()]).rstrip()


def _h(hours: float) -> str:
    return f"{hours:,.1f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    table = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in table)
