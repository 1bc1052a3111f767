"""A finished model as an MLflow model: its files, code in place of a pickle, signature, example and requirements."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities import LoggedModel
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import Array, Map

from umt_pipeline.core.files import sha256_file, write_json
from umt_pipeline.models.folders import CONFIG_FILE
from umt_pipeline.project_config import ProjectConfigLoader
from umt_pipeline.registry.candidates import Candidate
from umt_pipeline.registry.names import SERVING
from umt_pipeline.registry.reading import FILES, What
from umt_pipeline.registry.serving_settings import serving_settings
from umt_pipeline.serving.predictors import KINDS, TEXT, VIDEO

CODE = Path(__file__).with_name("pyfunc_model.py")
# What predictions run on, beside this package. Said here, for MLflow would load the model to find it out.
PACKAGES = (
    "umt_pipeline", "mlflow", "torch", "torchvision", "timm", "open_clip_torch", "transformers", "tokenizers", "safetensors",
    "decord2", "av", "pillow", "numpy", "pandas", "pydantic",
)  # fmt: skip
LIST: Any = 0
_EXAMPLE: dict[str, Any] = {
    VIDEO: "clips/one.mp4", TEXT: "a red ring moves left", "timestamp_s": 1.5, "x1": 0.25, "y1": 0.25, "x2": 0.75, "y2": 0.75
}  # fmt: skip


def collect_files(candidate: Candidate, project: Path, loader: ProjectConfigLoader, folder: Path) -> dict[str, str]:
    """Copy what a version keeps into an empty folder, and return the tag of the settings that are written beside it.

    Args:
        candidate: the model.
        project: the project's folder.
        loader: the corpus' configuration.
        folder: gets the model folder, evidence, records, and how the model is asked.

    Raises:
        ConfigError: settings cannot be had.
    """
    sources: Mapping[What, Path] = {"model": candidate.folder, "evidence": candidate.evidence, "records": candidate.records}
    for what, source in sources.items():
        target = folder / FILES[what][0]
        # No links: DVC's may be read-only, and point into its cache.
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)
    serving = folder / FILES["serving"][0]
    settings = serving_settings(candidate.kind, project, loader).model_dump(mode="json")
    write_json(serving, {"kind": candidate.kind, "settings": settings})
    return {SERVING: sha256_file(serving)}


def write_mlflow_model(kind: str, files: Path, folder: Path, model: LoggedModel) -> None:
    """Write an MLflow model.

    Args:
        kind: of the model.
        files: from :func:`collect_files`.
        folder: where; it is not there yet.
        model: what it will be kept as.
    """
    known = Model(
        artifact_path=model.artifact_location, run_id=model.source_run_id, model_uuid=model.model_id, model_id=model.model_id
    )
    mlflow.pyfunc.save_model(
        path=str(folder),
        mlflow_model=known,
        python_model=str(CODE),
        artifacts={what: str(files / name) for what, (name, _) in FILES.items()},
        model_config={"precision": "auto"},
        signature=signature(kind, files / FILES["model"][0]),
        input_example=pd.DataFrame([{name: _EXAMPLE[name] for name in _columns(kind)}]),
        pip_requirements=requirements(),
    )


def requirements() -> list[str]:
    """Return the packages that predictions run on, as they are installed here."""
    # What follows a plus names a build of one index, which another machine may not have.
    return [f"{package}=={version(package).partition('+')[0]}" for package in PACKAGES]


def signature(kind: str, folder: Path) -> ModelSignature:
    """Return which columns a model reads and gives; see :mod:`umt_pipeline.serving.predictors`.

    Args:
        kind: of the model.
        folder: of the model.
    """
    columns = _columns(kind)
    inputs: list[ColSpec | TensorSpec] = [ColSpec(_type_of(name), name, required) for name, required in columns.items()]
    if set(columns) <= {VIDEO, TEXT} and not columns.get(TEXT):
        # A list of strings has one column, which MLflow calls 0: of videos. It takes the place of any other.
        inputs = [ColSpec(DataType.string, LIST, False), *(ColSpec(DataType.string, name, False) for name in columns)]
    outputs: list[ColSpec | TensorSpec] = [ColSpec(form, name, required=False) for name, form in _outputs(kind, folder).items()]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def _columns(kind: str) -> Mapping[str, bool]:
    found: Mapping[str, bool] = KINDS[kind].columns
    return found


def _type_of(column: str) -> DataType:
    return DataType.string if column in (VIDEO, TEXT) else DataType.double


def _outputs(kind: str, folder: Path) -> dict[str, Any]:
    number, text, vector, shares = DataType.double, DataType.string, Array(DataType.double), Map(DataType.double)
    if kind == "classification":
        tasks = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG_FILE}"))
        of_task = {"": text, "_probability": number, "_probabilities": shares}
        return {f"{task}{end}": kind_of for task in tasks for end, kind_of in of_task.items()}
    if kind == "question_answering":
        return {"answer": text, "log_probability": number}
    if kind == "detection":
        return {"action": text, "probability": number, "probabilities": shares}
    return {"embedding": vector, **({"match": number, "cosine": number} if TEXT in _columns(kind) else {})}
