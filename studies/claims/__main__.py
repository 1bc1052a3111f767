"""`python -m studies.claims`, from the project's folder: gather clips, train every arm, write down what they show."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from studies.claims.bank import ClipBank, bank_key, build_bank, choose_clips
from studies.claims.document import document
from studies.claims.figure import figure_svg
from studies.claims.findings import find, protocol_records
from studies.claims.study import Place, StudyConfig, run_study
from umt_pipeline.core.files import staged_file, write_json
from umt_pipeline.models.teacher import TeacherConfig, load_teacher

PARAMS = Path(__file__).with_name("params.yaml")
MEDIA, TABLES, TEACHER = Path("data/01_raw/demo/videos"), Path("data/03_primary"), Path("data/06_models/teacher")
WORKSPACE = Path("data/.checkpoints/claims")
RESULTS, DOCS, REPORTING = Path("results"), Path("docs"), Path("data/08_reporting")
# Of a run, what it took.
TIMES = ("pretraining_seconds", "fine_tuning_seconds")
# As seen from the document.
FIGURE = "claims.svg"


def main() -> None:
    """Run the study; what is finished is not run again."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    values: dict[str, Any] = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    params, seed = StudyConfig.model_validate(values["claims"]), int(values["seed"])
    videos, labels = (pd.read_parquet(TABLES / f"{name}.parquet") for name in ("videos", "labels"))
    bank = gather_clips(params, videos, labels, MEDIA, TEACHER, WORKSPACE)
    runs = run_study(params, seed, Place(bank.folder, TEACHER, WORKSPACE / "runs"))
    findings = find(params, runs)
    with staged_file(RESULTS / "plots" / "claims_runs.csv") as staged:
        runs.drop(columns=list(TIMES)).to_csv(staged, index=False, lineterminator="\n")
    # They tell of the machine: for the document, and for whoever asks, but no result.
    named = ["arm", "seed", "pretraining_lr", "fine_tuning_lr"]
    write_json(REPORTING / "claims_times.json", runs[[*named, *TIMES]].to_dict("list"))
    write_json(RESULTS / "claims.json", findings.metrics())
    write_json(RESULTS / "claims_records.json", [row.model_dump(mode="json") for row in protocol_records(params, runs, bank)])
    for path, text in ((DOCS / FIGURE, figure_svg(findings)), (DOCS / "claims.md", document(findings, FIGURE))):
        with staged_file(path) as staged:
            staged.write_text(text, encoding="utf-8", newline="")


def gather_clips(
    params: StudyConfig, videos: pd.DataFrame, labels: pd.DataFrame, media: Path, teacher: Path, workspace: Path
) -> ClipBank:
    """Decode all clips and encode them with the teacher, once for all arms; see :func:`build_bank`.

    Args:
        params: splits, label tasks, size of frames and patches.
        videos: the clean video table.
        labels: the clean label table.
        media: folder of the video files.
        teacher: folder of the teacher.
        workspace: folder for unfinished work.

    Raises:
        ConfigError: a split without videos, a video without a label, or a clip with fewer frames than an arm reads.
    """
    splits = (params.train_split, *params.validation_splits, *params.test_splits)
    loaded = load_teacher(teacher, TeacherConfig(layers=params.layers), params.size // params.patch_size)
    clips = choose_clips(videos, labels, params.tasks, splits, params.train_split, params.longest_clip)
    key = bank_key(clips, params.size, params.patch_size, params.layers, loaded.weights_sha256)
    return build_bank(workspace / key, clips, media, loaded, params.size, params.patch_size)


if __name__ == "__main__":
    main()
