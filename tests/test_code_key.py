"""The code is part of a run's identity: a changed loss trains again, a changed docstring or a new setting does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.project_copies import copy_project, edit, kedro_run
from umt_pipeline.core.files import sha256_file

STAGES = ("stage1", "stage2")


def weights(project: Path) -> dict[str, str]:
    return {stage: sha256_file(project / f"data/ci/06_models/{stage}/model.safetensors") for stage in STAGES}


def runs(project: Path) -> dict[str, int]:
    """Return how many runs of each stage there are in the workspace."""
    return {stage: len(list((project / "data/ci/.checkpoints" / stage).glob("*/identity.json"))) for stage in STAGES}


@pytest.mark.slow
def test_a_changed_loss_trains_again_and_a_docstring_or_a_new_setting_does_not(tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    package = project / "src" / "umt_pipeline"
    kedro_run(project, "demo_corpus,ingestion,teacher_features,stage1,stage2")
    before = weights(project)
    assert runs(project) == {"stage1": 1, "stage2": 1}

    losses = package / "losses.py"
    losses.write_text("# A comment.\n" + losses.read_text(encoding="utf-8"), encoding="utf-8")
    edit(package / "training" / "stage1.py", '"""A run of stage 1.\n', '"""One run of stage 1, said in other words.\n')
    edit(package / "training" / "task.py", "weight_decay: float", "new_option: int = 3\n    weight_decay: float")
    log = kedro_run(project, "stage1,stage2")
    assert log.count("not trained again") >= 3, "stage 1, stage 2 and its control; the text tower too"
    assert (runs(project), weights(project)) == ({"stage1": 1, "stage2": 1}, before)

    edit(losses, "return (2.0 - 2.0 * cosine_KBV).mean()", "return 5.0 * (2.0 - 2.0 * cosine_KBV).mean()")
    kedro_run(project, "stage1,stage2")
    after = weights(project)
    assert runs(project) == {"stage1": 2, "stage2": 2}, "stage 1 is trained again, and later stages with it"
    assert after["stage1"] != before["stage1"]
    assert after["stage2"] != before["stage2"]
