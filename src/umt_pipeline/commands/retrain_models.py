"""The models that a retraining is about: those that a stage made anew, or whose answers one measured anew."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from umt_pipeline.core.files import read_json, sha256_file
from umt_pipeline.dvc_stages import project_pipelines
from umt_pipeline.models.folders import SKIPPED_FILE
from umt_pipeline.project_config import catalog_resolver, config_loader
from umt_pipeline.registry.candidates import EVALUATION
from umt_pipeline.tasks import task_names

_JUDGED_BY = ("evidence", "records")


@dataclass(frozen=True)
class Touched:
    """A model whose lock entry, or that of its evaluation, is another one than before.

    Attributes:
        kind: of the model.
        files: relative to the project: the model folder, its evidence, its records.
        gated: there are parameters of a gate for models of this kind.
    """

    kind: str
    files: tuple[str, ...]
    gated: bool

    def is_left_out(self, project: Path) -> bool:
        """Whether there is nothing to register: the pipeline has said why it made no model, or nothing of it was measured.

        Of a corpus without labels nothing is measured of stage 1.
        """
        folder = project / self.files[0]
        if (folder / SKIPPED_FILE).is_file():
            return True
        weights = {sha256_file(file) for file in folder.rglob("*.safetensors")}
        records = [record for file in self.files if file.endswith("records.json") for record in read_json(project / file)]
        return not weights & {(record.get("protocol") or {}).get("checkpoint_sha256") for record in records}


def touched_models(project: Path, corpus: str | None, stages: Collection[str], changed: Collection[str]) -> list[Touched]:
    """Return the models that are touched by stages, in the order of the pipelines.

    Args:
        project: the project's folder.
        corpus: its name; None: the demo.
        stages: of its dvc.yaml.
        changed: those of them whose lock entries changed.
    """
    loader = config_loader(project, corpus or "base")
    resolver, gates = catalog_resolver(loader), loader["parameters"].get("gate", {})
    pipelines = {name: pipeline for name, pipeline in project_pipelines().items() if name in stages}
    found = []
    for maker, pipeline in pipelines.items():
        for name in sorted(pipeline.all_outputs()):
            entry = resolver.resolve_pattern(name)
            kind = ((entry.get("metadata") or {}).get("mlflow") or {}).get("model")
            judge = kind if kind in task_names() else EVALUATION
            if kind is None or judge not in pipelines or not {maker, judge} & set(changed):
                continue
            judged = [output for output in sorted(pipelines[judge].all_outputs()) if output.rpartition("_")[2] in _JUDGED_BY]
            paths = [entry["filepath"], *(resolver.resolve_pattern(output)["filepath"] for output in judged)]
            files = tuple(Path(path).relative_to(project).as_posix() if Path(path).is_absolute() else path for path in paths)
            found.append(Touched(str(kind), files, kind in gates))
    return found
