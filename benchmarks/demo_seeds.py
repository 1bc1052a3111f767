"""Run the demo with several seeds and tabulate what the README quotes: mean and spread of each promised number.

    .venv/bin/python benchmarks/demo_seeds.py 0 1 2 --stage1-epochs 200

Each seed draws its own corpus and trains its own student and video-text models, and with ``--tasks`` its tasks. Stage 2 is
trained from scratch twice: with the steps of the one from stage 1, as in the demo, and again for as many floating-point
operations as stage 1 and stage 2 take together. Results go to ``data/seeds``; a seed whose metrics are there already is not run
again, nor is the project's own one where `make tasks` has just run it (DVC says that nothing has changed since).
``docs/demo_results.md`` is written anew from all of them, and of another stage 1 a page of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("classification", "question_answering", "detection")
PIPELINES = ("demo_corpus", "ingestion", "teacher_features", "stage1", "stage2")
SETS = {"test": "common kinds", "test_rare": "rare kinds", "test_motion": "clips that differ in motion alone"}
SCORES = {"dual": "", "reranked": ", re-ranked"}
MOTION_QUESTION = "how does it move"
APPEARANCE = ("shape", "colour", "size")
REPORTS, RECORDS = "08_reporting", "07_model_output"
METRICS = "evaluation_metrics.json"

Numbers = dict[str, float]
# Title and key of each row.
Rows = list[tuple[str, str]]


def retrieval_rows(name: str) -> Rows:
    """Return the rows of a retrieval set: R@1 of every system, and what stage 1 is worth."""
    rows = [("frame teacher", f"retrieval/{name}/teacher/dual/t2v_r1")]
    for score, after in SCORES.items():
        rows += [
            (f"stage 2 from stage 1{after}", f"retrieval/{name}/stage2/{score}/t2v_r1"),
            (f"stage 2 from scratch, equal steps{after}", f"retrieval/{name}/control/{score}/t2v_r1"),
            (f"stage 2 from scratch, equal total cost{after}", f"longer/{name}/{score}"),
        ]
    return [
        *rows,
        ("from stage 1 less from scratch, equal steps (points)", f"gain/{name}"),
        ("from stage 1 as a multiple of from scratch, equal steps", f"times/{name}"),
    ]


PROBES: Rows = [
    ("kind of thing: untrained student", "probe/linear/shape/untrained"),
    ("kind of thing: stage-1 student", "probe/linear/shape/stage1"),
    ("kind of thing: teacher, mean of patch tokens", "probe/linear/shape/teacher_patch"),
    ("appearance, mean of kind, colour and size: stage-1 student", "appearance/stage1"),
    ("appearance, mean of kind, colour and size: teacher, mean of patch tokens", "appearance/teacher_patch"),
    ("motion: stage-1 student", "probe/linear/motion/stage1"),
    ("motion: stage-2 encoder", "probe/linear/motion/stage2"),
]
MOTION: Rows = [
    ("classification, top 1: from stage 2", "top1/motion/stage2"),
    ("classification, top 1: from scratch", "top1/motion/control"),
    (f"“{MOTION_QUESTION}”, accuracy: from stage 2", "questions/stage2"),
    (f"“{MOTION_QUESTION}”, accuracy: from stage 2 from scratch", "questions/control"),
    (f"“{MOTION_QUESTION}”, accuracy: most frequent answer", "questions/majority"),
    ("boxes, mAP of motions: from stage 2", "boxes/stage2"),
    ("boxes, mAP of motions: from scratch", "boxes/control"),
    ("boxes, mAP of motions: chance", "boxes/chance"),
]
COSTS: Rows = [
    ("stage 1: seconds", "seconds/stage1"),
    ("stage 2 from stage 1: seconds", "seconds/stage2"),
    ("stage 2 from scratch, equal steps: seconds", "seconds/control"),
    ("stage 2 from scratch, equal total cost: seconds", "seconds/longer"),
    ("stage 1: TFLOPs", "tflops/stage1"),
    ("stage 2, either: TFLOPs", "tflops/stage2"),
    ("stage 2 from scratch, equal total cost: TFLOPs", "tflops/longer"),
]
TABLES = [
    *((f"Text→video R@1 on `{name}`, {what}", retrieval_rows(name)) for name, what in SETS.items()),
    ("Linear probes on frozen features, `test`", PROBES),
    ("Motion after fine-tuning", MOTION),
    ("What training took", COSTS),
]


@dataclass(frozen=True)
class Place:
    """Where the files of a seed are.

    Attributes:
        seed: of corpus and training.
        data: the folder of Kedro's layers, relative to the project.
        env: overlay, or None.
        stage1_epochs: of the student; None: as in the demo.
    """

    seed: int
    data: Path
    env: str | None = None
    stage1_epochs: int | None = None

    @property
    def parameters(self) -> str:
        """What `kedro run` is told."""
        own = f",results={self.data}/results" if self.data != Path("data") else ""
        longer = "" if self.stage1_epochs is None else f",stage1.train.epochs={self.stage1_epochs}"
        return f"seed={self.seed},data={self.data}{own}{longer}"

    def finished(self, tasks: bool) -> bool:
        """Tell whether the evaluation is there, which is the last to be written, and the tasks."""
        reports = ROOT / self.data / REPORTS
        return all((reports / name).is_file() for name in (METRICS, *(f"{task}_metrics.json" for task in TASKS if tasks)))

    def read(self, *path: str) -> Any:
        """Read a JSON file below the data."""
        return json.loads(ROOT.joinpath(self.data, *path).read_text(encoding="utf-8"))


# --- a seed -------------------------------------------------------------------------------------------------------------
def run_seed(seed: int, env: str | None, stage1_epochs: int | None, tasks: bool) -> Numbers:
    """Run the whole demo with a seed, unless it was, and return its numbers."""
    folder = str(seed) if stage1_epochs is None else f"{seed}_stage1_{stage1_epochs}"
    place = Place(seed, Path("data") / "seeds" / folder, env, stage1_epochs)
    if not place.finished(tasks) and env is None and stage1_epochs is None and is_the_demo(seed, tasks):
        place = Place(seed, Path("data"))
    if not place.finished(tasks):
        kedro = Path(sys.executable).with_name("kedro")
        overlay = [] if env is None else ["--env", env]
        pipelines = ",".join((*PIPELINES, *(TASKS if tasks else ()), "evaluation"))
        subprocess.run(
            [str(kedro), "run", "--pipelines", pipelines, "--params", place.parameters, *overlay],
            cwd=ROOT,
            check=True,
            env={**os.environ, "KEDRO_DISABLE_TELEMETRY": "1", "MLFLOW_DISABLE_TELEMETRY": "true"},
        )
    return with_gains({**measured(place, tasks), **longer_from_scratch(place)})


def is_the_demo(seed: int, tasks: bool) -> bool:
    """Tell whether ``data/`` holds this seed, and its tasks, made by the code, parameters and data that are here."""
    records = ROOT / "data" / RECORDS / "evaluation_records.json"
    if not records.is_file():
        return False
    made = [record["protocol"]["seed"] for record in json.loads(records.read_text(encoding="utf-8")) if record.get("protocol")]
    # Of the demo's stages alone: studies may be of earlier code.
    stages = ["dvc.yaml"] if tasks else ["--with-deps", "evaluation"]
    status = [str(Path(sys.executable).with_name("dvc")), "status", "--quiet", *stages]
    return set(made) == {seed} and subprocess.run(status, cwd=ROOT, check=False).returncode == 0


def measured(place: Place, tasks: bool) -> Numbers:
    """Return the numbers of a seed that the demo itself measures, and those of its tasks."""
    numbers: Numbers = place.read(REPORTS, METRICS)
    for model in ("stage1", "teacher_patch"):
        probes = [f"probe/linear/{task}/{model}" for task in APPEARANCE]
        if numbers.keys() >= set(probes):
            numbers[f"appearance/{model}"] = mean(numbers[probe] for probe in probes)
    if tasks:
        for task, by_name in place.read(REPORTS, "classification_metrics.json")["test"].items():
            numbers |= {f"top1/{task}/{name}": found["top1"] for name, found in by_name.items()}
        asked = place.read(REPORTS, "question_answering_metrics.json")["per_type"]["test_motion"]
        numbers |= {f"questions/{name}": value for name, value in asked.get(MOTION_QUESTION, {}).items()}
        for record in place.read(RECORDS, "detection_records.json"):
            if "map_motion" in record["values"]:
                numbers[f"boxes/{record['task'].rpartition('/')[2]}"] = record["values"]["map_motion"]
    times, summaries = place.read(REPORTS, "stage2_times.json"), place.read(REPORTS, "stage2_metrics.json")
    stage1 = place.read(REPORTS, "stage1_metrics.json")["tflops"]
    return numbers | {
        "seconds/stage1": place.read(REPORTS, "stage1_times.json")["seconds"],
        "seconds/stage2": times["stage2"]["seconds"],
        "seconds/control": times["control"]["seconds"],
        "tflops/stage1": stage1,
        "tflops/stage2": summaries["stage2"]["tflops"],
    }


def with_gains(numbers: Numbers) -> Numbers:
    """Return the numbers with what stage 1 is worth on each set."""
    gains: Numbers = {}
    for name in SETS:
        ours, scratch = (numbers[f"retrieval/{name}/{model}/dual/t2v_r1"] for model in ("stage2", "control"))
        gains[f"gain/{name}"] = ours - scratch
        if scratch:
            gains[f"times/{name}"] = ours / scratch
    return numbers | gains


# --- from scratch, for as long as both stages take ------------------------------------------------------------------------
def lengthened(epochs: float, unmasked: int, stage1: float, stage2: float) -> tuple[int, int]:
    """Return epochs, and the unmasked ones among them, of a stage 2 that costs as much as stage 1 and stage 2 together.

    Args:
        epochs: of stage 2.
        unmasked: of these, at the end; both kinds grow by the same factor, so that the cost does.
        stage1: cost of stage 1.
        stage2: cost of stage 2, in the same unit.
    """
    factor = 1 + stage1 / stage2
    return round(factor * epochs), round(factor * unmasked)


def longer_from_scratch(place: Place) -> Numbers:
    """Train stage 2 from scratch for as long as both stages take, unless it was, and return what it finds and took."""
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project
    from kedro.io import DataCatalog

    from umt_pipeline.commands.spec import write_specs
    from umt_pipeline.evaluation.params import EvaluationParams
    from umt_pipeline.pipelines.evaluation.nodes import evaluate_models, gather_models, gather_tables
    from umt_pipeline.pipelines.runs import fresh_folder
    from umt_pipeline.project_config import config_loader, parsed_overrides, typed_parameters
    from umt_pipeline.training.launch import run
    from umt_pipeline.training.spec import read_spec
    from umt_pipeline.training.stage2 import Stage2Config

    bootstrap_project(ROOT)
    with KedroSession.create(project_path=ROOT, env=place.env, runtime_params=parsed_overrides(place.parameters)) as session:
        assert isinstance(session, KedroSession)
        catalog = session.load_context().catalog
        assert isinstance(catalog, DataCatalog)
        workspace = catalog.load("workspace")
        tables = gather_tables(*(catalog.load(name) for name in ("raw_media", "videos", "captions", "labels")))
        models = [catalog.load(name) for name in ("teacher", "feature_store", "stage1_model", "stage2_model")]
    loader = config_loader(ROOT, place.env, place.parameters)
    params = typed_parameters(loader, "stage2", Stage2Config)
    evaluation = typed_parameters(loader, "evaluation", EvaluationParams)
    numbers = measured(place, tasks=False)
    assert params.train.epochs is not None
    epochs, unmasked = lengthened(
        params.train.epochs, params.unmasked_epochs, numbers["tflops/stage1"], numbers["tflops/stage2"]
    )
    changes = f"{place.parameters},stage2.train.epochs={epochs},stage2.unmasked_epochs={unmasked}"
    written = {one.name: one.file for one in write_specs(ROOT, "stage2", place.env, changes)}["stage2_control"]
    finished = run(read_spec(written), written.parent)
    folder = fresh_folder(workspace, "stage2_longer_model")
    finished.export(folder)
    # Probes are left out: they are of the other models.
    searched = evaluation.model_copy(update={"tasks": ()})
    found, *_ = evaluate_models(searched, place.seed, tables, gather_models(*models, folder), workspace)
    return {
        **{f"longer/{name}/{score}": found[f"retrieval/{name}/control/{score}/t2v_r1"] for name in SETS for score in SCORES},
        "seconds/longer": finished.times()["seconds"],
        "tflops/longer": finished.summary()["tflops"],
    }


# --- the page -----------------------------------------------------------------------------------------------------------
def table(title: str, rows: Rows, results: dict[int, Numbers]) -> str:
    """Return rows as a Markdown table: each seed, mean, and spread (largest minus smallest); "" if none was measured."""
    seeds = sorted(results)
    lines = [
        f"| {title} | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean | spread |",
        "| --- |" + " ---: |" * (len(seeds) + 2),
    ]
    for label, key in rows:
        values = [results[seed][key] for seed in seeds if key in results[seed]]
        if len(values) < len(seeds):
            continue  # the world of a small overlay has not all of it
        digits = 2 if key.startswith("times/") else 1
        cells = [f"{value:.{digits}f}" for value in (*values, mean(values), max(values) - min(values))]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else ""


def page(results: dict[int, Numbers], stage1_epochs: int | None, tasks: bool) -> str:
    """Return the page."""
    options = ["" if stage1_epochs is None else f" --stage1-epochs {stage1_epochs}", " --tasks" if tasks else ""]
    command = f"`.venv/bin/python benchmarks/demo_seeds.py {' '.join(map(str, results))}{''.join(options)}`"
    trained = "as in the demo" if stage1_epochs is None else f"{stage1_epochs} epochs of stage 1 and else as in the demo"
    models = "student, video-text models and tasks" if tasks else "student and video-text models"
    said = (
        f"Written by {command} on {os.cpu_count()} CPU cores, no GPU: {trained}. In per cent where no unit is named. Each seed "
        f"draws its own corpus and trains its own {models}; the teacher is the one that comes with the package. Spread: "
        "largest less smallest. Clips with the same caption all count as right. Probes choose their strength on validation.",
        "*Equal steps*: from scratch with the very steps of stage 2, as `make demo` trains it. *Equal total cost*: from "
        "scratch for as many floating-point operations as stage 1 and stage 2 take together, with a schedule of that length. "
        "What the teacher took for the feature store is not counted. *Re-ranked*: the best clips of the dual encoder, ordered "
        "anew with the matching head. On `test_motion` each appearance comes in all 9 motions: who knows the appearance and "
        "nothing of motion finds 11.1.",
    )
    paragraphs = [textwrap.fill(part, 128, break_long_words=False, break_on_hyphens=False) for part in said]
    tables = [table(title, rows, results) for title, rows in TABLES]
    title = "The demo's numbers over seeds" if stage1_epochs is None else f"The demo, with {stage1_epochs} epochs of stage 1"
    return "\n\n".join([f"# {title}", *paragraphs, *filter(None, tables)]) + "\n"


def page_file(stage1_epochs: int | None) -> Path:
    """Return where the page goes: what was trained otherwise than the demo does not replace the demo's."""
    return ROOT / "docs" / ("demo_results.md" if stage1_epochs is None else f"demo_results_{stage1_epochs}_epochs.md")


def main() -> None:
    """Run the seeds named on the command line and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=int, nargs="*", default=[0, 1, 2], help="of corpus and training; 0 1 2 if none is named")
    parser.add_argument("--stage1-epochs", type=int, help="of the student; default: as in the demo")
    parser.add_argument("--tasks", action="store_true", help="fine-tune for classification, questions and boxes, too")
    parser.add_argument("--env", help="overlay, to try the script out (ci); with it no page is written")
    arguments = parser.parse_args()
    how = arguments.stage1_epochs, arguments.tasks
    written = page({seed: run_seed(seed, arguments.env, *how) for seed in arguments.seeds}, *how)
    if arguments.env is None:
        (ROOT / "docs").mkdir(exist_ok=True)
        page_file(arguments.stage1_epochs).write_text(written, encoding="utf-8")
    print(written)


if __name__ == "__main__":
    main()
