"""Nodes that gather the study's clips, train its arms and write down what they show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from umt_pipeline.claims.bank import ClipBank, bank_key, build_bank, choose_clips
from umt_pipeline.claims.document import document
from umt_pipeline.claims.figure import figure_svg
from umt_pipeline.claims.findings import find, protocol_records
from umt_pipeline.claims.study import Place, StudyConfig, run_study
from umt_pipeline.models.teacher import TeacherConfig, load_teacher

# As seen from the document.
FIGURE = "claims.svg"


def gather_clips(
    params: StudyConfig, videos: pd.DataFrame, labels: pd.DataFrame, raw_media: Path, teacher: Path, workspace: Path
) -> ClipBank:
    """Decode all clips and ask the teacher about them, once for all arms; see :func:`build_bank`.

    Args:
        params: splits, label tasks, size of frames and patches.
        videos: the clean video table.
        labels: the clean label table.
        raw_media: folder of the video files.
        teacher: folder of the teacher.
        workspace: folder for unfinished work.

    Raises:
        ConfigError: a split without videos, a video without a label, or a clip with fewer frames than an arm reads.
    """
    splits = (params.train_split, *params.validation_splits, *params.test_splits)
    loaded = load_teacher(teacher, TeacherConfig(layers=params.layers), params.size // params.patch_size)
    clips = choose_clips(videos, labels, params.tasks, splits, params.train_split, params.longest_clip)
    key = bank_key(clips, params.size, params.patch_size, params.layers, loaded.weights_sha256)
    return build_bank(workspace / "claims" / key, clips, raw_media, loaded, params.size, params.patch_size)


def train_arms(params: StudyConfig, seed: int, bank: ClipBank, teacher: Path, workspace: Path) -> pd.DataFrame:
    """Train every arm with its own best learning rates and every seed; see :func:`run_study`.

    Args:
        params: the study.
        seed: added to each of the study's.
        bank: from :func:`gather_clips`.
        teacher: its folder.
        workspace: folder for unfinished work, in which a killed study goes on.
    """
    return run_study(params, seed, Place(bank.folder, teacher, workspace / "claims" / "runs"))


def compare_arms(
    params: StudyConfig, runs: pd.DataFrame, bank: ClipBank
) -> tuple[dict[str, Any], list[dict[str, Any]], str, str]:
    """Put means and spreads side by side, and say where they differ from the paper.

    Args:
        params: the study.
        runs: from :func:`train_arms`.
        bank: from :func:`gather_clips`.

    Returns:
        Metrics, records with their protocols, a picture (SVG) and the document (Markdown).
    """
    findings = find(params, runs)
    records = [record.model_dump(mode="json") for record in protocol_records(params, runs, bank)]
    return findings.metrics(), records, figure_svg(findings), document(findings, FIGURE)
