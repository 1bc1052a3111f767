"""A project in which everything is finished: tiny models of every kind, locked by DVC and committed, without any training."""

from __future__ import annotations

import contextlib
import copy
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tests.conftest import make_project
from tests.evaluation.tiny import make_tables
from tests.project_copies import make_dvc_project
from tests.serving.folders import ANSWERS, write_folder
from umt_pipeline.commands.corpus import RECORD
from umt_pipeline.core.files import sha256_file, write_json
from umt_pipeline.datasets import TableDataset
from umt_pipeline.dvc_repo import dvc_repo
from umt_pipeline.dvc_stages import stages_file
from umt_pipeline.evaluation.records import Protocol, Record
from umt_pipeline.evaluation.tables import Tables
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.project_config import ProjectConfigLoader, catalog_path, config_loader
from umt_pipeline.registry.serving_settings import serving_settings

# Stage -> the kind of model that it makes, and the stages that it reads models from.
MAKERS = {
    "teacher_features": ("teacher", ()),
    "stage1": ("stage1", ("teacher",)),
    "stage2": ("stage2", ("teacher", "stage1")),
    "classification": ("classification", ("stage1",)),
    "detection": ("detection", ("stage1",)),
    "question_answering": ("question_answering", ("stage2",)),
    "retrieval": ("retrieval", ("stage2",)),
}
JUDGED = {"evaluation": ("teacher", "stage1", "stage2")}
TASKS = ("classification", "detection", "question_answering", "retrieval")


class FinishedProject:
    """The project.

    Attributes:
        folder: the project's, which is a git repository and a DVC project.
        tables: of the corpus; the videos are outside.
    """

    def __init__(self, folder: Path, kinds: Iterable[str], corpus: str | None = None) -> None:
        self.folder = make_dvc_project(make_project(folder))
        self.stages_file = stages_file(Path(), corpus)
        if corpus is not None:
            (folder / "conf" / corpus).mkdir()
            places = {"data": f"data/{corpus}", "results": f"corpora/{corpus}/results"}
            (folder / "conf" / corpus / "globals.yml").write_text(yaml.safe_dump(places), encoding="utf-8")
            (folder / "conf" / corpus / RECORD).touch()
        self.corpus = corpus
        self.tables: Tables = make_tables(folder.parent / "media", ("train", "test"))
        self.loader = _loader(folder, corpus)
        self.kinds = tuple(kinds)
        self._write_tables()
        for kind in self.kinds:
            self.train(kind)
        for judge in self.judges():
            self.judge(judge)
        (folder / self.stages_file).parent.mkdir(parents=True, exist_ok=True)
        (folder / self.stages_file).write_text(yaml.safe_dump({"stages": self._stages()}, sort_keys=False), encoding="utf-8")
        self.repro()
        self.commit()

    def copied(self, folder: Path) -> FinishedProject:
        """Return a copy of the project, which may be spoilt."""
        shutil.copytree(self.folder, folder, symlinks=True)
        found = copy.copy(self)
        found.folder, found.loader = folder, _loader(folder, self.corpus)
        return found

    def path(self, dataset: str) -> Path:
        """Return where the catalog keeps a dataset."""
        return catalog_path(self.folder, self.loader, dataset)

    def model(self, kind: str) -> Path:
        """Return a model's folder."""
        return self.path("teacher" if kind == "teacher" else f"{kind}_model")

    def judges(self) -> list[str]:
        """Return the stages that judge models."""
        return ["evaluation", *(task for task in TASKS if task in self.kinds)]

    def order(self) -> list[str]:
        """Return the kinds in the order in which they are registered: that of the pipelines, by their depth."""
        return [kind for kind in (*JUDGED["evaluation"], *TASKS) if kind in self.kinds]

    def train(self, kind: str, seed: int = 0) -> None:
        """Let the next repro find another model of a kind."""
        target = self.made(kind)
        shutil.rmtree(target, ignore_errors=True)
        write_folder(kind, target, self.tables, self._vision(kind), seed)

    def made(self, name: str) -> Path:
        """Return what a stage copies to its place."""
        return self.folder / "made" / name

    def judge(self, judge: str, value: float = 50.0) -> None:
        """Let the next repro find numbers of what is trained."""
        records = []
        for kind in JUDGED.get(judge, (judge,)):
            for weights in sorted(self.made(kind).rglob("*.safetensors")) if kind in self.kinds else []:
                task = f"{judge}/test/{'/'.join(weights.relative_to(self.made(kind)).parts[:-1]) or kind}"
                records.append(record(task, sha256_file(weights), value, kind))
        records.append(record(f"{judge}/test/control", "0" * 64, 1.0, "control"))
        folder = self.made(f"{judge}_judged")
        write_json(folder / "records.json", [item.model_dump(mode="json") for item in records])
        rows = [{"task": records[0].task, "metric": "correct", "item": "a", "video": "a", "value": value > 40, "answer": "x"}]
        pd.DataFrame(rows).astype({"value": "float32"}).to_parquet(folder / "evidence.parquet", index=False)

    def repro(self) -> None:
        """Run what `dvc repro` runs."""
        with contextlib.chdir(self.folder), dvc_repo(self.folder) as repo:
            repo.reproduce(str(self.stages_file))

    def commit(self, what: str = ".") -> None:
        """Commit everything, or one file."""
        git = ["git", "-C", str(self.folder), "-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run([*git, "add", "-A", what], check=True)
        subprocess.run([*git, "commit", "-qm", "Finished"], check=True)

    def head(self) -> str:
        """Return the commit."""
        command = ["git", "-C", str(self.folder), "rev-parse", "HEAD"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def _vision(self, kind: str) -> ViTConfig:
        if kind not in ("classification", "detection"):
            return ViTConfig(image_size=32, patch_size=8, frames=2, dim=16, depth=2, heads=2)
        settings: Any = serving_settings(kind, self.folder, self.loader)
        clip = settings.clip if kind == "classification" else settings.recipe.clip
        return ViTConfig(image_size=clip.size, patch_size=8, frames=clip.frames, dim=16, depth=1, heads=2)

    def _write_tables(self) -> None:
        clips = self.tables.videos[self.tables.videos["media"] == "video"]
        questions = pd.DataFrame(
            {
                "question_id": [f"q{number}" for number in range(len(ANSWERS))],
                "video_id": [clips["video_id"].iloc[0]] * len(ANSWERS),
                "question": ["what is it"] * len(ANSWERS),
                "answers": [[answer] for answer in ANSWERS],
                "options": [[] for _ in ANSWERS],
                "correct": -1,
            }
        )
        for name, table in (("videos", self.tables.videos), ("questions", questions)):
            TableDataset(str(self.made("ingestion") / f"{name}.parquet"), clean=True).save(table)

    def _stages(self) -> dict[str, Any]:
        stages = {"ingestion": self._stage({f"ingestion/{name}.parquet": self.path(name) for name in ("videos", "questions")})}
        for name, (kind, reads) in MAKERS.items():
            if kind not in self.kinds:
                continue
            outs = {kind: self.model(kind)} | (self._judged(kind) if kind in TASKS else {})
            read = [self.model(other) for other in reads if other in self.kinds]
            stages[name] = self._stage(outs, [*read, self.path("videos")])
            if name in ("stage1", "stage2"):
                stages[name]["params"] = [{f"conf/base/parameters_{name}.yml": [name]}]
        judged = [self.model(kind) for kind in JUDGED["evaluation"] if kind in self.kinds]
        stages["evaluation"] = self._stage(self._judged("evaluation"), judged)
        return stages

    def _judged(self, judge: str) -> dict[str, Path]:
        records = "records" if judge == "evaluation" and "records" in self.loader["catalog"] else f"{judge}_records"
        return {
            f"{judge}_judged/records.json": self.path(records),
            f"{judge}_judged/evidence.parquet": self.path(f"{judge}_evidence"),
        }

    def _stage(self, outs: Mapping[str, Path], reads: Iterable[Path] = ()) -> dict[str, Any]:
        """Return a stage that copies ``outs``, from below `made`."""
        lines, found = [], []
        for source, path in outs.items():
            name = path.relative_to(self.folder).as_posix()
            lines.append(f"mkdir -p {Path(name).parent} && cp -r made/{source} {name}")
            found.append(name if name.startswith("data/") else {name: {"cache": False}})
        deps = [path.relative_to(self.folder).as_posix() for path in reads] + [f"made/{source}" for source in outs]
        place = {"wdir": "../.."} if self.corpus else {}
        return {**place, "cmd": " && ".join(lines), "deps": deps, "outs": found}


def _loader(project: Path, corpus: str | None) -> ProjectConfigLoader:
    loader = config_loader(project, corpus or "base")
    loader["catalog"] = loader["catalog"]  # read once
    return loader


def record(task: str, weights: str, value: float, model: str) -> Record:
    """Return a record of one number."""
    how: dict[str, Any] = {"split": "test", "annotation_sha256": "a" * 64, "clips": 1, "frames": 2, "resolution": 32, "seed": 0}
    protocol = Protocol(**how, model=model, checkpoint_sha256=weights)
    return Record(task=task, values={"top1": value}, protocol=protocol)
