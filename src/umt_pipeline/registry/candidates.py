"""The models of a corpus that can be registered: where their files are, and what they were judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kedro.pipeline import Pipeline

from umt_pipeline.core.errors import ConfigError, RegistryError
from umt_pipeline.core.files import read_json, sha256_file, sha256_folder
from umt_pipeline.dvc_repo import dvc_repo
from umt_pipeline.dvc_stages import project_pipelines, stages_file
from umt_pipeline.evaluation.records import Record, flat_metrics
from umt_pipeline.models.folders import SKIPPED_FILE
from umt_pipeline.project_config import ProjectConfigLoader, catalog_path, catalog_resolver, config_loader
from umt_pipeline.registry.locked import LockedStages, git
from umt_pipeline.registry.names import (
    COMMIT,
    CORPUS,
    DEMO,
    EVIDENCE,
    FOLDER,
    KIND,
    MD5,
    RECORDS,
    STAGE,
    WEIGHTS,
    registered_name,
)
from umt_pipeline.serving.predictors import KINDS
from umt_pipeline.tasks import task_names
from umt_pipeline.tracking.finished import tracked
from umt_pipeline.tracking.rows import flatten_numbers

# The pipeline that judges what no task does.
EVALUATION = "evaluation"
# Reasons that are listed of what cannot be registered; others are counted.
MAX_REASONS = 12


@dataclass(frozen=True)
class Candidate:
    """A finished model.

    Attributes:
        corpus: its name; None: the demo.
        kind: of the model.
        folder: of the model.
        evidence: what it said, query by query: a Parquet file.
        records: its numbers with their protocols: a JSON file.
        stages: DVC's stages that made the folder and the other two.
    """

    corpus: str | None
    kind: str
    folder: Path
    evidence: Path
    records: Path
    stages: tuple[str, str]

    @property
    def name(self) -> str:
        """Of the registered model."""
        return registered_name(self.corpus, self.kind)

    @cached_property
    def weights(self) -> dict[str, str]:
        """The SHA-256 of each weights file, by its path in the folder."""
        files = sorted(self.folder.rglob("*.safetensors"))
        return {path.relative_to(self.folder).as_posix(): sha256_file(path) for path in files}

    @cached_property
    def is_judged(self) -> bool:
        """Whether anything was measured of such a model, of whatever weights; without labels nothing is of stage 1."""
        models = {record.protocol.model for record in self._judgements if record.protocol}
        # The evaluation judges several models, and calls each by its kind.
        return bool(models) if self.kind in task_names() else self.kind in models

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The numbers that were measured with these very weights, under their full names.

        Raises:
            RegistryError: there are none: the records are of other weights.
        """
        weights = self.weights.values()
        own = [record for record in self._judgements if record.protocol and record.protocol.checkpoint_sha256 in weights]
        found = flatten_numbers(flat_metrics(own))
        if not found:
            count = len(self._judgements)
            raise RegistryError(
                f"{self.records}: expected numbers of the weights in {self.folder}, found none among {count} records: "
                f"they are of another state. Run `dvc repro {self.stages[1]}`."
            )
        return found

    @cached_property
    def _judgements(self) -> list[Record]:
        return [Record.model_validate(record) for record in read_json(self.records)]


@dataclass(frozen=True)
class Found:
    """What a corpus has to register.

    Attributes:
        candidates: in the order of the pipelines.
        tags: of each, by kind, but for the hash of its settings.
        left_out: kinds that have nothing to register, each with the reason.
        loader: the corpus' configuration.
    """

    candidates: Sequence[Candidate]
    tags: Mapping[str, Mapping[str, str]]
    left_out: Mapping[str, str]
    loader: ProjectConfigLoader


def find_candidates(project: Path, corpus: str | None, kinds: Sequence[str] | None = None) -> Found:
    """Return the models of a corpus that are finished, locked by DVC and committed.

    Args:
        project: the project's folder.
        corpus: its name; None: the demo.
        kinds: what is wanted; None: all that there is.

    Raises:
        ConfigError: something that is wanted is not there, or is not locked and committed; each reason is named.
        RegistryError: records are of other weights than those in the model folder.
    """
    loader = config_loader(project, corpus or "base")
    # Else Kedro reads and resolves the catalog again for each file.
    loader["catalog"] = loader["catalog"]
    pipelines = project_pipelines()
    makers = _makers(loader, pipelines)
    if strange := sorted(set(kinds or ()) - set(makers)):
        raise ConfigError(f"--kind: expected one of {', '.join(makers)}; found '{strange[0]}'.")
    wanted = list(makers) if kinds is None else [kind for kind in makers if kind in kinds]
    with dvc_repo(project) as repo:
        locked = LockedStages(repo, project, corpus, stages_file(project, corpus))
        candidates: list[Candidate] = []
        left_out: dict[str, str] = {}
        for kind in wanted:
            found = _candidate(project, corpus, loader, pipelines, locked, kind, makers[kind])
            if isinstance(found, str):
                left_out[kind] = found
            else:
                candidates.append(found)
        _require_locked(project, locked, candidates)
        left_out |= {one.kind: f"{one.stages[1]} measured nothing of it" for one in candidates if not one.is_judged}
        if kinds is not None and left_out:
            raise ConfigError("\n".join(f"{registered_name(corpus, kind)}: {reason}" for kind, reason in left_out.items()))
        candidates = [candidate for candidate in candidates if candidate.kind not in left_out]
        tags = {candidate.kind: _tags(project, locked, candidate) for candidate in candidates}
    return Found(candidates, tags, left_out, loader)


def _makers(loader: ProjectConfigLoader, pipelines: Mapping[str, Pipeline]) -> dict[str, str]:
    """Return the dataset of each kind of model that the catalog marks, in the order of the pipelines."""
    resolver = catalog_resolver(loader)
    found = {}
    for pipeline in pipelines.values():
        for name in sorted(pipeline.all_outputs()):
            declared = tracked(name, resolver.resolve_pattern(name).get("metadata"))
            if declared is not None and declared.model is not None:
                found[declared.model] = name
    return found


def _candidate(
    project: Path,
    corpus: str | None,
    loader: ProjectConfigLoader,
    pipelines: Mapping[str, Pipeline],
    locked: LockedStages,
    kind: str,
    dataset: str,
) -> Candidate | str:
    """Return a model, or why there is none."""
    if kind not in KINDS:
        return f"no model of this kind predicts yet (umt_pipeline.serving.predictors knows {', '.join(KINDS)})"
    judge = kind if kind in task_names() else EVALUATION
    outputs = pipelines[judge].all_outputs()
    paths = [catalog_path(project, loader, dataset)]
    for what in ("evidence", "records"):
        names = [name for name in outputs if name == what or name.endswith(f"_{what}")]
        if not names:
            return f"the pipeline {judge} keeps no {what}"
        paths.append(catalog_path(project, loader, names[0]))
    stages = [locked.stage_of(path) for path in paths]
    for path, stage in zip(paths, stages, strict=True):
        if stage is None:
            return f"no stage of this corpus makes {path.relative_to(project)} (`umt stages` writes them)"
        if not locked.has_run(stage):
            return f"{locked.address(stage)} was never run: dvc repro {locked.address(stage)}"
    folder, evidence, records = paths
    if (folder / SKIPPED_FILE).is_file():
        return f"{folder} holds no weights: {read_json(folder / SKIPPED_FILE).get('reason')}"
    return Candidate(corpus, kind, folder, evidence, records, (str(stages[0]), str(stages[1])))


def _require_locked(project: Path, locked: LockedStages, candidates: Sequence[Candidate]) -> None:
    models: dict[str, list[str]] = {}
    for candidate in candidates:
        paths = (candidate.folder, candidate.evidence, candidate.records)
        gone = " ".join(str(path.relative_to(project)) for path in paths if not path.exists())
        reasons = locked.reasons(candidate.stages)
        if gone:
            reasons.append(f"not here: {gone}. Fetch it: dvc pull {gone}")
        elif not candidate.weights:
            reasons.append(f"{candidate.folder} holds no weights, and does not say why: dvc repro {candidate.stages[0]}")
        for reason in reasons:
            models.setdefault(reason, []).append(candidate.name)
    if models:
        lines = [f"{', '.join(names)}: {reason}" for reason, names in models.items()]
        more = [f"and {len(lines) - MAX_REASONS} more: `umt status` says all"] if len(lines) > MAX_REASONS else []
        raise ConfigError(
            "\n".join([*lines[:MAX_REASONS], *more])
            + "\nOnly what dvc.lock says and git has is registered. Run `dvc repro`, commit, and register again; "
            "`umt register --kind KIND` registers some kinds alone."
        )


def _tags(project: Path, locked: LockedStages, candidate: Candidate) -> dict[str, str]:
    """Return the tags of a version, but for the hash of its settings."""
    weights = candidate.weights
    # Of one file its own hash, which the records name too.
    total = sha256_folder(candidate.folder, "*.safetensors") if len(weights) > 1 else next(iter(weights.values()))
    return {
        CORPUS: candidate.corpus or DEMO,
        KIND: candidate.kind,
        MD5: locked.md5(candidate.folder),
        STAGE: locked.address(candidate.stages[0]),
        COMMIT: git(project, "rev-parse", "HEAD"),
        WEIGHTS: total,
        FOLDER: sha256_folder(candidate.folder),
        EVIDENCE: sha256_file(candidate.evidence),
        RECORDS: sha256_file(candidate.records),
    }
