"""What each objective of stage 2 buys on the demo: DVC experiments, each with one objective more, up to the demo itself.

    .venv/bin/python benchmarks/objective_ablation.py

Needs what `make demo` left, committed: the experiments start from its teacher, stores and stage-1 student, train stage 2 alone
(no control) and evaluate it. They stay in the project (`dvc exp show`), and one that is there already is not run again.
Writes `docs/objective_ablation.md`.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import dvc.api
import yaml

ROOT = Path(__file__).resolve().parents[1]
PARAMETER_FILE = "conf/base/parameters_stage2.yml"
PARAMETERS = f"{PARAMETER_FILE}:stage2"
OBJECTIVES = ("contrastive", "matching", "masked_language", "alignment")
VARIANTS = {
    "contrastive": ("contrastive",),
    "+ alignment": ("contrastive", "alignment"),
    "+ matching": ("contrastive", "alignment", "matching"),
    "+ masked language (all four)": OBJECTIVES,
}
COLUMNS = (
    ("`test` R@1", "retrieval/test/stage2/dual/t2v_r1"),
    ("re-ranked", "retrieval/test/stage2/reranked/t2v_r1"),
    ("`test_rare` R@1", "retrieval/test_rare/stage2/dual/t2v_r1"),
    ("re-ranked", "retrieval/test_rare/stage2/reranked/t2v_r1"),
    ("`test_motion` R@1", "retrieval/test_motion/stage2/dual/t2v_r1"),
    ("re-ranked", "retrieval/test_motion/stage2/reranked/t2v_r1"),
    ("kind of thing", "probe/linear/shape/stage2"),
    ("motion", "probe/linear/motion/stage2"),
)


def run(*command: str) -> str:
    """Run a command in the project and return what it prints."""
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, env=environment())
    return done.stdout


def environment() -> dict[str, str]:
    """Return the environment of `make`: the project's own commands first."""
    bin_folder = str(Path(sys.executable).parent)
    quiet = {"KEDRO_DISABLE_TELEMETRY": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "DVC_NO_ANALYTICS": "1"}
    uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{ROOT}/mlflow.db")
    return {**os.environ, **quiet, "MLFLOW_TRACKING_URI": uri, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}


def experiment(name: str, on: tuple[str, ...], known: set[str]) -> None:
    """Run one experiment in a copy of the project."""
    if name in known:
        return
    demo = yaml.safe_load((ROOT / PARAMETER_FILE).read_text(encoding="utf-8"))["stage2"]["weights"]
    weights = [f"{PARAMETERS}.weights.{part}={demo[part] if part in on else 0.0}" for part in OBJECTIVES]
    settings = [part for weight in (*weights, f"{PARAMETERS}.control=false") for part in ("-S", weight)]
    print(f"--- {name}: {', '.join(on)}", flush=True)
    run("dvc", "exp", "run", "--quiet", "--temp", "--name", name, *settings, "evaluation")


def row(title: str, name: str, on: tuple[str, ...]) -> str:
    """Return a line of the table, from the experiment's commit, or that of the demo."""
    found = run("git", "for-each-ref", "--format=%(objectname)", f"refs/exps/**/{name}").split()
    revision = "HEAD" if on == OBJECTIVES else found[0]
    numbers = csv.DictReader(io.StringIO(run("git", "show", f"{revision}:results/evaluation.csv")))
    metrics = {row["name"]: float(row["value"]) for row in numbers}
    # DVC keeps what a run took beside its model.
    times = json.loads(dvc.api.read("data/08_reporting/stage2_times.json", repo=str(ROOT), rev=revision))
    cells = ["" if "reranked" in key and "matching" not in on else f"{metrics[key]:.1f}" for _, key in COLUMNS]
    return f"| {title} | " + " | ".join(cells) + f" | {times['stage2']['seconds']:.0f} |"


def main() -> None:
    """Run what is missing and write the page."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    known = set(run("dvc", "exp", "list", "--name-only").split())
    names = {title: f"objectives-{len(on)}" for title, on in VARIANTS.items()}
    for title, on in VARIANTS.items():
        # With all of them it is the demo, which has run.
        if on != OBJECTIVES:
            experiment(names[title], on, known)
    head = run("git", "rev-parse", "--short", "HEAD").strip()
    lines = [
        "# What each objective of stage 2 buys",
        "",
        f"Written by `.venv/bin/python benchmarks/objective_ablation.py` on {os.cpu_count()} CPU cores, commit {head}. Each "
        "row is a DVC experiment on the demo (seed 0), the last one the demo itself: stage 2 from the same stage-1 student "
        "with the same steps, one objective more than the row before, each with the weight that it has in the demo. In per "
        "cent: text→video R@1 of the dual encoder (chance 0.2), and re-ranked with the matching head (left out where nothing "
        "trained it); linear probes of the video encoder on kinds of things and on motions (chance 1.6 and 11.1). The last "
        "column is the training's time in seconds. One training each: two equal ones but for their seed may differ by five "
        "points and more ([evaluation.md](evaluation.md#what-the-demo-shows-and-what-it-does-not)).",
        "",
        "| objectives | " + " | ".join(title for title, _ in COLUMNS) + " | s |",
        "| --- |" + " ---: |" * (len(COLUMNS) + 1),
        *(row(title, names[title], on) for title, on in VARIANTS.items()),
    ]
    (ROOT / "docs" / "objective_ablation.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines[4:]))


if __name__ == "__main__":
    main()
