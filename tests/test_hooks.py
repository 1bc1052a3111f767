"""Both hooks: in a toy project of its own, where two sessions end well, one is refused and one fails, and by themselves."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from mlflow.tracking import MlflowClient

from tests.conftest import ROOT
from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import CheckpointError, ConfigError
from umt_pipeline.datasets import JsonDataset, TableDataset, WorkspaceDataset
from umt_pipeline.hooks import InputsHook, tracked_outputs

FILES = {
    "pyproject.toml": """
        [tool.kedro]
        package_name = "toy"
        project_name = "toy"
        kedro_init_version = "1.7.0"
        source_dir = "src"
        """,
    "conf/base/parameters.yml": "train: {lr: 0.1, optim: {name: adamw}}\nseed: 3",
    "conf/base/catalog.yml": """
        model:
          type: umt_pipeline.datasets.FolderDataset
          filepath: data/model
          metadata: {mlflow: {model: toy}}
        table:
          type: umt_pipeline.datasets.TableDataset
          filepath: data/table.csv
        scores:
          type: umt_pipeline.datasets.JsonDataset
          filepath: data/scores.json
          metadata: {mlflow: {metrics: toy, artifact: reports}}
        """,
    "data/table.csv": "a,b\n1,2",
    "src/toy/__init__.py": "",
    "src/toy/settings.py": "from umt_pipeline.settings import *",
    "src/toy/pipeline_registry.py": """
        from pathlib import Path
        from kedro.pipeline import Node, Pipeline
        from umt_pipeline.core.config import Config
        from umt_pipeline.core.errors import CheckpointError
        from umt_pipeline.tracking import metric_logger

        class Optim(Config):
            name: str
            betas: tuple[float, float] = (0.9, 0.95)

        class Train(Config):
            lr: float
            epochs: int = 2
            optim: Optim

            def check_inputs(self) -> None:
                if self.lr == 5.0:
                    raise CheckpointError("lr: there is no such model")

        def train(params: Train, seed: int, everything: dict, table) -> tuple[Path, dict]:
            log_row = metric_logger("train")
            for step in (1, 2, 3):
                log_row({"step": step, "loss": 1 / step})
            if params.lr > 1:
                raise ValueError("diverged")
            folder = Path("staged")
            folder.mkdir()
            (folder / "model.safetensors").write_text(str(params.lr))
            return folder, {"accuracy": {"top1": 50.0}, "note": "text"}

        def register_pipelines() -> dict:
            node = Node(train, ["params:train", "params:seed", "parameters", "table"], ["model", "scores"])
            return {"__default__": Pipeline([node]), "train": Pipeline([node])}
        """,
    "run.py": """
        import mlflow, sys
        from pathlib import Path
        from kedro.framework.session import KedroSession
        from kedro.framework.startup import bootstrap_project
        from umt_pipeline.core.errors import UmtError

        bootstrap_project(Path.cwd())
        for lr in (0.1, 5.0, 0.2, 9.0):
            try:
                with KedroSession.create(Path.cwd(), runtime_params={"train": {"lr": lr}}) as session:
                    session.run(pipeline_names=["train"])
            except (UmtError, ValueError) as error:
                print(error)
            assert mlflow.active_run() is None
        """,
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    project = tmp_path_factory.mktemp("toy")
    for name, text in FILES.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(textwrap.dedent(text).strip() + "\n")
    (project / "conf" / "base" / "mlflow.yml").write_text((ROOT / "conf" / "base" / "mlflow.yml").read_text())
    (project / "conf" / "local").mkdir()
    uri = f"sqlite:///{project / 'mlflow.db'}"
    MlflowClient(uri).search_experiments()  # makes the database, which takes long on a busy machine
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "DVC_STAGE": "toy_stage"}
    result = subprocess.run([sys.executable, "run.py"], cwd=project, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "\nparameters train: lr: there is no such model\n" in result.stdout
    assert "\ndiverged\n" in result.stdout
    return MlflowClient(uri)


def runs(client: MlflowClient) -> list[Any]:
    experiment = client.get_experiment_by_name("umt_pipeline")
    return sorted(client.search_runs([experiment.experiment_id]), key=lambda run: run.info.start_time)


def test_one_run_per_session_and_none_for_a_refused_one(client: MlflowClient) -> None:
    assert [run.info.status for run in runs(client)] == ["FINISHED", "FINISHED", "FAILED"]
    assert {run.info.run_name for run in runs(client)} == {"train"}
    assert {run.data.tags["dvc.stage"] for run in runs(client)} == {"toy_stage"}


def test_typed_parameters_are_flattened_with_their_defaults(client: MlflowClient) -> None:
    first, second, _ = runs(client)
    assert first.data.params == {
        "train.lr": "0.1",
        "train.epochs": "2",
        "train.optim.name": "adamw",
        "train.optim.betas": "[0.9, 0.95]",
        "seed": "3",
    }
    assert second.data.params["train.lr"] == "0.2"


def test_metrics_arrive_even_from_a_failed_run(client: MlflowClient) -> None:
    for run in runs(client):
        assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 3
    assert runs(client)[0].data.metrics["toy/accuracy/top1"] == 50.0


def test_what_the_pipeline_wrote_is_kept_and_no_model_is_registered(client: MlflowClient) -> None:
    first, _, failed = runs(client)
    assert [item.path for item in client.list_artifacts(first.info.run_id, "reports")] == ["reports/scores.json"]
    assert client.list_artifacts(failed.info.run_id) == []
    assert client.search_registered_models() == [], "`umt register` does that, of finished files"


def test_runs_say_how_they_were_started_and_what_they_made(client: MlflowClient) -> None:
    first, second, failed = runs(client)
    assert first.data.tags["mlflow.source.name"].startswith("kedro run --pipelines train --params {")
    assert first.data.tags["umt.corpus"] == "demo"
    assert first.data.tags["dvc.md5.data/model"] != second.data.tags["dvc.md5.data/model"], "they trained another model"
    assert "umt.outputs.train" in first.data.tags
    assert "umt.outputs.train" not in failed.data.tags
    (read,) = first.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == ("table", hashlib.md5(b"a,b\n1,2\n").hexdigest())


def test_a_misspelt_declaration_is_an_error() -> None:
    dataset = JsonDataset("scores.json", metadata={"mlflow": {"metric": "toy"}})
    node = Node(lambda: {}, inputs=None, outputs="scores", name="score")
    with pytest.raises(ConfigError, match=r"catalog entry 'scores', metadata\.mlflow"):
        tracked_outputs(Pipeline([node]), DataCatalog({"scores": dataset}))


class Named(Config):
    exists: bool = False

    def check_inputs(self) -> None:
        if not self.exists:
            raise CheckpointError("source 'CLIP' is not known")


def before(pipeline_names: list[str] | None, catalog: dict[str, Any], *nodes: Node) -> None:
    InputsHook().before_pipeline_run({"pipeline_names": pipeline_names}, Pipeline(nodes), DataCatalog(catalog))


def test_parameters_are_checked_if_the_pipeline_of_their_name_runs() -> None:
    node = Node(lambda one, other: one, ["params:one", "params:other"], "made", name="make")
    catalog = {"params:one": MemoryDataset(Named()), "params:other": MemoryDataset(Named(exists=True))}
    before(["other"], catalog, node)
    for names in (["one"], ["other", "one"], ["__default__"], None):
        with pytest.raises(ConfigError, match="parameters one: source 'CLIP' is not known"):
            before(names, catalog, node)


def test_all_missing_files_are_named_before_the_first_node(tmp_path: Path) -> None:
    (tmp_path / "there.json").write_text("{}")
    names = ("gone.json", "there.json", "made.json", "late.json")
    catalog: dict[str, Any] = {name.removesuffix(".json"): JsonDataset(str(tmp_path / name)) for name in names}
    catalog["maybe"] = TableDataset(str(tmp_path / "maybe.csv"), optional=True)
    catalog["workspace"] = WorkspaceDataset(str(tmp_path / "workspace"))
    first = Node(lambda *_: {}, ["there", "gone", "workspace"], "made", name="first")
    second = Node(lambda *_: {}, ["made", "late", "maybe", "in_memory"], "end", name="second")
    with pytest.raises(ConfigError, match=r"gone \(.*gone\.json\), late \(.*late\.json\): expected before the first step"):
        before(None, catalog, first, second)
    for name in ("gone.json", "late.json"):
        (tmp_path / name).write_text("{}")
    before(None, catalog, first, second)
