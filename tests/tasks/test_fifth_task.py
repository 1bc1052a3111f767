"""A fifth task is one folder and one parameter file: nothing else of the package is touched."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.project_copies import copy_project, kedro_run

# How long is a clip? Learnt from nothing but its size, by one linear layer: enough to go the whole way to a page.
TASK = '''
"""How long clips are, as a downstream task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from umt_pipeline import __version__
from umt_pipeline.core.config import Config
from umt_pipeline.core.files import sha256_file
from umt_pipeline.data.mapped import MappedTable, write_table
from umt_pipeline.data.samples import Batch, Sample, SampleDataset
from umt_pipeline.evaluation.evidence import CORRECT, evidence_rows
from umt_pipeline.evaluation.records import Protocol, Record
from umt_pipeline.reports.page import Page, Tile
from umt_pipeline.tasks.task import DownstreamTask, Plan, Shown, Skipped, Tested
from umt_pipeline.training.spec import RunSpec
from umt_pipeline.training.task import LossParts, Task, TrainConfig


class LengthParams(Config):
    train: TrainConfig


class Clips(SampleDataset):
    def __init__(self, table: Path) -> None:
        self._rows = MappedTable(table)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        row = self._rows.row(key[0])
        return {"clip": row["video_id"], "sides": torch.tensor([row["width"], row["height"]]) / 64, "length": row["num_frames"]}


class LengthTask(Task):
    def __init__(self, table: Path) -> None:
        self.model, self._clips = nn.Linear(2, 1), Clips(table)

    def dataset(self) -> Clips:
        return self._clips

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> LossParts:
        return LossParts((model(batch["sides"])[:, 0] - batch["length"]).square().mean())

    def sample_ids(self, batch: Batch) -> Sequence[str]:
        return batch["clip"]


class LengthSpec(RunSpec):
    clips: Path

    def build(self) -> LengthTask:
        return LengthTask(self.clips)

    def inputs(self) -> dict[str, str]:
        return {"clips": sha256_file(self.clips)}

    def export(self, weights: Mapping[str, Tensor], folder: Path, facts: Mapping[str, Any]) -> None:
        save_file(dict(weights), folder / "model.safetensors")


class Length(DownstreamTask[LengthParams, pd.DataFrame]):
    name = "length"
    params = LengthParams
    tables = ("videos",)
    has_control = False

    def model_name(self, params: LengthParams) -> str:
        return "linear"

    def gather(self, params: LengthParams, tables: Mapping[str, Any], workspace: Path) -> pd.DataFrame:
        videos = tables["videos"]
        clips = videos[videos["media"] == "video"].reset_index(drop=True)
        return clips.assign(table=str(write_table(workspace, "lengths", clips)))

    def runs(self, params: LengthParams, seed: int, data: pd.DataFrame) -> Plan:
        spec = LengthSpec(clips=Path(data["table"].iloc[0]), train=params.train, seed=seed)
        return Plan({"": spec}, Skipped("nothing to compare with"))

    def test(
        self, params: LengthParams, seed: int, data: pd.DataFrame, models: Mapping[str, Path], workspace: Path
    ) -> Tested:
        state = load_file(models["linear"] / "model.safetensors")
        sides = torch.tensor(data[["width", "height"]].to_numpy()) / 64
        found = (sides.float() @ state["weight"].T + state["bias"])[:, 0]
        off = (found - torch.tensor(data["num_frames"].to_numpy())).abs()
        error = float(off.mean())
        protocol = Protocol(
            split="train", annotation_sha256="0" * 64, clips=len(data), frames=0, resolution=0, model="linear",
            checkpoint_sha256=None, seed=seed, version=__version__,
        )
        record = Record(task="length/all/linear", values={"error": error}, protocol=protocol)
        near = evidence_rows("length/all/linear", CORRECT, data["video_id"], data["video_id"], off.numpy() < 1)
        return Tested({"error": error}, [record], data[["video_id"]].assign(length=found.tolist()), near)

    def page(self, shown: Shown[LengthParams, pd.DataFrame]) -> Page:
        tiles = [Tile("Frames off", f"{shown.metrics['error']:.1f}")]
        return Page(title="Length: report", tiles=tiles, records=shown.records)


TASK = Length()
'''
PARAMETERS = """
length:
  train: {steps: 5, batch_size: 4, lr: 0.1, device: cpu, log_every: 1}
"""


@pytest.mark.slow
def test_a_fifth_task_goes_from_its_folder_to_its_page(tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    folder = project / "src" / "umt_pipeline" / "tasks" / "length"
    folder.mkdir()
    (folder / "task.py").write_text(TASK, encoding="utf-8")
    (project / "conf" / "base" / "parameters_length.yml").write_text(PARAMETERS, encoding="utf-8")
    kedro_run(project, "demo_corpus,ingestion,length")
    evidence = pd.read_parquet(project / "data/ci/07_model_output/length_evidence.parquet")
    assert set(evidence["task"]) == {"length/all/linear"}
    page = (project / "data/ci/08_reporting/length.html").read_text(encoding="utf-8")
    metrics = json.loads((project / "data/ci/08_reporting/length_metrics.json").read_text(encoding="utf-8"))
    assert f"{metrics['error']:.1f}" in page
    assert "Frames off" in page
    assert metrics["training"]["linear"]["steps"] == 5
    history = (project / "data/ci/08_reporting/results/plots/length_history.csv").read_text(encoding="utf-8")
    assert len(history.splitlines()) == 6
    assert "tested on these data by this code before" in kedro_run(project, "length")
