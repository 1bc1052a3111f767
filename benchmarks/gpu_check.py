"""The parts of gpu_check.sh, each in a process of its own with what is left of the time, and the page that they give."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from common import ROOT, Place, Settings, commit, cores, machine, make_corpus, make_store, paragraph, write_page
from encode import measure as measure_encoding
from stage1 import REACH
from stage1 import measure_training as train_stage1
from stage1 import view_of as view_of_stage1
from stage2 import measure_training as train_stage2
from stage2 import view_of as view_of_stage2

from umt_pipeline.features.manifest import read_manifest
from umt_pipeline.training.device import resolve_device
from umt_pipeline.training.launch import run
from umt_pipeline.training.stage1 import Stage1Spec
from umt_pipeline.training.state import Row, final_weights
from umt_pipeline.training.task import TrainConfig

OUT = Path("docs/benchmarks_gpu.md")
SECONDS = 480.0
# A run of so many steps writes checkpoints this often, and is killed after that step.
STEPS, CHECKPOINT_EVERY, KILLED_AT = 12, 4, 7
CUDA = {"online": 128, "cached": 128, "stage2": 128, "encode": 64, "resume": 32}
TINY = 4
# The part that `resume` starts.
TRAIN = "train"


@dataclass(frozen=True)
class Outcome:
    """What became of a part.

    Args:
        title: of the part.
        seconds: that it took.
        result: what it gave; None: it failed, or was not run.
        note: why.
    """

    title: str
    seconds: float
    result: dict[str, Any] | None
    note: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: tiny models, to see that it runs")
    parser.add_argument("--out", type=Path, default=OUT, help="Markdown file to write")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="no part begins later, and none lasts longer")
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS, metavar=("NAME", "PLACE", "SETTINGS"))
    arguments = parser.parse_args()
    if arguments.part:
        name, place, settings = arguments.part
        part = part_train if name == TRAIN else PARTS[name][1]
        print(json.dumps(part(Place(Path(place), Path(place)), Settings(**json.loads(settings)))))
        return 0
    cuda = resolve_device(arguments.device).type == "cuda"
    settings = Settings(
        batch=TINY,
        steps=50 if cuda else 3,
        window=10 if cuda else 1,
        device=arguments.device,
        workers=min(8, cores()) if cuda else 0,
        synthetic=True,
        size="base" if cuda else "tiny",
    )
    load = os.getloadavg()[0]
    with TemporaryDirectory(prefix="umt-gpu-check-") as folder:
        outcomes = dict(run_parts(settings, Path(folder), time.monotonic() + arguments.seconds))
    options = "" if arguments.seconds == SECONDS else f" --seconds {arguments.seconds:.0f}"
    write_page(report(settings, outcomes, arguments.out, options, load), arguments.out)
    return int(any(outcome.result is None and not outcome.note.startswith("not run") for outcome in outcomes.values()))


def run_parts(settings: Settings, folder: Path, deadline: float) -> Iterator[tuple[str, Outcome]]:
    """Run all parts in turn, each in a process that ends by the deadline."""
    for name, (title, _) in PARTS.items():
        left, began = deadline - time.monotonic(), time.monotonic()
        if left < 1:
            yield name, Outcome(title, 0.0, None, "not run: the time was up")
            continue
        own = replace(settings, batch=CUDA.get(name.partition(" ")[0], TINY) if settings.device == "cuda" else TINY)
        own = replace(own, compile=name.endswith(" compiled"))
        command = [sys.executable, __file__, "--part", name, str(folder), json.dumps(asdict(own))]
        print(f"--- {title}", file=sys.stderr, flush=True)
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=left)
            result = json.loads(done.stdout.splitlines()[-1])
            yield (
                name,
                Outcome(title, time.monotonic() - began, None if "skipped" in result else result, result.get("skipped", "")),
            )
        except subprocess.TimeoutExpired:
            yield name, Outcome(title, time.monotonic() - began, None, "failed: the time was up")
        except (subprocess.CalledProcessError, json.JSONDecodeError, IndexError) as error:
            print(f"{title}: {error}", file=sys.stderr)
            yield name, Outcome(title, time.monotonic() - began, None, "failed: see the log")


def part_device(place: Place, settings: Settings) -> dict[str, Any]:
    """Start the device, and make what the other parts read."""
    began = time.perf_counter()
    torch.ones(1, device=resolve_device(settings.device)).item()
    first = time.perf_counter() - began
    largest = replace(settings, batch=max(CUDA.values()) if settings.device == "cuda" else TINY)
    make_corpus(place, largest)
    make_store(place, largest, view_of_stage1(largest))
    (place.folder / "stage2").mkdir()
    second = stage2_place(place)
    second.teacher.symlink_to(place.teacher)
    make_store(second, largest, view_of_stage2(largest))
    return {"first_tensor_s": first}


def stage2_place(place: Place) -> Place:
    return Place(place.folder / "stage2", place.media)


def part_tests(place: Place, settings: Settings) -> dict[str, Any]:
    """Run the tests of what is for CUDA, or, without one, of what can be tested without."""
    del place
    if importlib.util.find_spec("pytest") is None or not (ROOT / "tests").is_dir():
        return {"skipped": "not run: there is no pytest"}
    cuda = settings.device == "cuda"
    files = ["tests/test_cuda.py"] if cuda else ["tests/training/test_prefetch.py", "tests/training/test_deterministic.py"]
    command = [sys.executable, "-m", "pytest", "--override-ini", "addopts=", "-q", "-p", "no:cacheprovider", *files]
    environment = {**os.environ, "UMT_TEST_CUDA": "1" if cuda else "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, file=sys.stderr)
    if done.returncode:
        raise SystemExit(f"pytest ended with status {done.returncode}")
    return {"text": f"{done.stdout.strip().splitlines()[-1]} ({' '.join(files)})"}


def part_stage1(targets: Any) -> Callable[[Place, Settings], dict[str, Any]]:
    return lambda place, settings: asdict(train_stage1(place, settings, targets))


def part_compiled(targets: Any) -> Callable[[Place, Settings], dict[str, Any]]:
    def part(place: Place, settings: Settings) -> dict[str, Any]:
        if settings.device != "cuda":
            return {"skipped": "not run: compiling says something of a GPU alone"}
        return part_stage1(targets)(place, settings)

    return part


def part_stage2(place: Place, settings: Settings) -> dict[str, Any]:
    return asdict(train_stage2(stage2_place(place), settings, "cached").speed)


def part_encode(kind: str) -> Callable[[Place, Settings], dict[str, Any]]:
    return lambda place, settings: asdict(measure_encoding(place, settings, kind))


def part_train(place: Place, settings: Settings) -> dict[str, Any]:
    """Train the run that the environment names, and say each step at once."""
    train = TrainConfig(
        steps=STEPS,
        batch_size=settings.batch,
        lr=1e-4,
        precision="bf16",
        deterministic=True,
        device=settings.device,  # type: ignore[arg-type]
        log_every=1,
        checkpoint_every=CHECKPOINT_EVERY,
    )
    student = settings.sizes.student.student_config(read_manifest(place.store))
    spec = Stage1Spec(student=student, source=place.source("cached"), teacher="random", train=train, seed=0)

    def say(row: Row) -> None:
        print(f"step {row['step']}", flush=True)

    run(spec, Path(os.environ["UMT_RUN"]), say)
    return {}


def part_resume(place: Place, settings: Settings) -> dict[str, Any]:
    """Train once in one go and once killed and run again, with the deterministic option; compare the weights."""
    command = [sys.executable, __file__, "--part", TRAIN, str(place.folder), json.dumps(asdict(settings))]

    def start(name: str) -> subprocess.Popen[str]:
        (place.folder / name).mkdir(exist_ok=True)
        environment = {**os.environ, "UMT_RUN": str(place.folder / name)}
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    def finish(name: str) -> None:
        process = start(name)
        process.communicate()
        if process.returncode:
            raise SystemExit(f"training ended with status {process.returncode}")

    finish("whole")
    process = start("killed")
    assert process.stdout is not None
    for line in process.stdout:
        if line.split()[-1] == str(KILLED_AT):
            break
    process.kill()
    process.wait()
    if final_weights(place.folder / "killed").is_file():
        raise SystemExit("the run ended before it was killed")
    finish("killed")
    whole, resumed = (final_weights(place.folder / name).read_bytes() for name in ("whole", "killed"))
    return {"equal": whole == resumed}


# By name: title, and what is done.
PARTS: dict[str, tuple[str, Callable[[Place, Settings], dict[str, Any]]]] = {
    "device": ("imports, the device's start, teacher and stores", part_device),
    "online": ("stage 1 online", part_stage1("online")),
    "cached": ("stage 1 cached", part_stage1("cached")),
    "stage2": ("stage 2 cached, all objectives", part_stage2),
    "encode targets": ("extraction: the teacher, to records on the host", part_encode("targets")),
    "encode clips": ("encoding of clips, all patches", part_encode("clips")),
    "encode texts": ("encoding of texts", part_encode("texts")),
    "resume": ("killed and resumed, deterministic", part_resume),
    "tests": ("tests", part_tests),
    "online compiled": ("stage 1 online, torch.compile", part_compiled("online")),
    "cached compiled": ("stage 1 cached, torch.compile", part_compiled("cached")),
}


def report(settings: Settings, outcomes: dict[str, Outcome], out: Path, options: str, load: float) -> Iterator[str]:
    """Yield the lines of the page; ``options`` were given besides device and page, ``load`` is the machine's before it all."""
    cuda = settings.device == "cuda"
    yield "# What a GPU gives"
    yield ""
    if not cuda:
        yield paragraph(
            "**No GPU was there.** This page is of tiny models on a CPU: it shows that the command runs to its end, and none "
            "of its speeds says anything of a GPU. Whoever has one runs the command without `--device cpu`, which measures "
            "UMT-B/16 and takes at most 8 minutes."
        )
        yield ""
    what = "UMT-B/16, BERT-base and CLIP ViT-B/16" if cuda else "Tiny models"
    yield paragraph(
        f"{what} with random weights; random frames and records, nothing is decoded; the deterministic option in the resumed "
        "run alone. Written by"
    )
    yield ""
    page = "" if out == OUT else f" --out {out.name}"
    yield f"    benchmarks/gpu_check.sh{'' if cuda else ' --device cpu'}{options}{page}"
    yield ""
    seconds = sum(outcome.seconds for outcome in outcomes.values())
    yield paragraph(
        f"on {machine(settings.device)}; {driver() if cuda else 'no CUDA device'}; torch {torch.__version__}; commit "
        f"{commit(out)}; load average {load:.1f} before, {os.getloadavg()[0]:.1f} after; {seconds:.0f} s in all."
    )
    yield ""
    yield from speeds(outcomes)
    yield ""
    yield from checks(outcomes)
    yield ""
    yield from targets(settings, outcomes)


def driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        found = []
    return f"driver {found[0] if found else 'unknown'}, CUDA {torch.version.cuda}"


def speeds(outcomes: dict[str, Outcome]) -> Iterator[str]:
    """Yield the table of what was measured. Texts are counted where it says clips."""
    yield "| part | per second | MFU | matmul peak, TFLOP/s | precision | data wait | peak memory, MiB | s for the part |"
    yield "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |"
    for name, outcome in outcomes.items():
        found = outcome.result
        if name in ("device", "tests", "resume"):
            continue
        if found is None:
            yield f"| {outcome.title} | {outcome.note} | | | | | | {outcome.seconds:.0f} |"
            continue
        pace = found.get("clips_per_s", found.get("per_s", 0.0))
        wait = f"{found['data_wait']:.2%}" if "data_wait" in found else ""
        memory = f"{found['peak_memory_mib']:,.0f}" if found["peak_memory_mib"] else ""
        yield (
            f"| {outcome.title} | {pace:.1f} | {found['mfu']:.3f} | {found['tflops_peak']:.3f} | {found['precision']} | {wait} "
            f"| {memory} | {outcome.seconds:.0f} |"
        )


def checks(outcomes: dict[str, Outcome]) -> Iterator[str]:
    """Yield the table of what was checked."""
    yield "| part | found | s for the part |"
    yield "| --- | --- | ---: |"
    for name in ("device", "tests", "resume"):
        outcome = outcomes[name]
        found = outcome.result
        if found is None:
            text = outcome.note
        elif name == "device":
            text = f"the first tensor was there after {found['first_tensor_s']:.1f} s"
        elif name == "tests":
            text = found["text"]
        else:
            same = "bit for bit the weights" if found["equal"] else "NOT the weights"
            text = f"killed after step {KILLED_AT} of {STEPS}, it ended in {same} of one that was not"
        yield f"| {outcome.title} | {text} | {outcome.seconds:.0f} |"


def targets(settings: Settings, outcomes: dict[str, Outcome]) -> Iterator[str]:
    """Yield what is to be reached on a GPU of the class of an H100, and what was."""
    least, cuda = REACH["mfu_cuda"], settings.device == "cuda"
    online, cached = ((outcomes[name].result or {}) for name in ("online", "cached"))
    ratio = cached["clips_per_s"] / online["clips_per_s"] if online and cached else None
    lines = [
        (f"MFU online, at least {least:.2f}", online.get("mfu"), "{:.2f}", lambda value: value >= least),
        (f"MFU cached, at least {least:.2f}", cached.get("mfu"), "{:.2f}", lambda value: value >= least),
        (f"cached / online clips/s, at least {REACH['cached']}", ratio, "{:.2f}", lambda value: value >= REACH["cached"]),
        *(
            (
                f"data wait {name}, below {REACH['wait']:.0%}",
                found.get("data_wait"),
                "{:.2%}",
                lambda value: value < REACH["wait"],
            )
            for name, found in (("online", online), ("cached", cached))
        ),
    ]
    yield "| to reach on a GPU of the class of an H100 | found | |"
    yield "| --- | ---: | --- |"
    for title, value, form, reached in lines:
        verdict = "not measured on a GPU" if not cuda or value is None else "reached" if reached(value) else "missed"
        yield f"| {title} | {form.format(value) if cuda and value is not None else ''} | {verdict} |"


if __name__ == "__main__":
    sys.exit(main())
