"""The models of a corpus that can be registered: where their files are, and what they were judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kedro.pipeline import Pipeline

from umt_pipeline.core.errors import ConfigError, RegistryError
from umt_pipeline.core.files import read_json, sha256_file, sha256_folder
from umt_pipeline.core.git import git
from umt_pipeline.dvc_repo import dvc_repo
from umt_pipeline.dvc_stages import project_pipelines, stages_file
from umt_pipeline.evaluation.records import Record, flat_metrics
from umt_pipeline.models.folders import SKIPPED_FILE
from umt_pipeline.project_config import ProjectConfigLoader, catalog_path, catalog_resolver, config_loader
from umt_pipeline.registry.locked import LockedStages
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
        stages: the pipelines, and so DVC's stages, that make the folder and the other two.
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

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """All that a version keeps of it."""
        return self.folder, self.evidence, self.records

    @property
    def skipped(self) -> str | None:
        """Why its pipeline has made no model, if it has not."""
        file = self.folder / SKIPPED_FILE
        return str(read_json(file).get("reason")) if file.is_file() else None

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
    marked = {candidate.kind: candidate for candidate in marked_models(project, corpus, loader)}
    if strange := sorted(set(kinds or ()) - set(marked)):
        raise ConfigError(f"--kind: expected one of {', '.join(marked)}; found '{strange[0]}'.")
    with dvc_repo(project) as repo:
        locked = LockedStages(repo, project, corpus, stages_file(project, corpus))
        candidates: list[Candidate] = []
        left_out: dict[str, str] = {}
        for kind, candidate in marked.items():
            if kinds is None or kind in kinds:
                if reason := _nothing_to_register(candidate, locked):
                    left_out[kind] = reason
                else:
                    candidates.append(candidate)
        _require_locked(project, locked, candidates)
        left_out |= {one.kind: f"{one.stages[1]} measured nothing of it" for one in candidates if not one.is_judged}
        if kinds is not None and left_out:
            raise ConfigError("\n".join(f"{registered_name(corpus, kind)}: {reason}" for kind, reason in left_out.items()))
        candidates = [candidate for candidate in candidates if candidate.kind not in left_out]
        tags = {candidate.kind: _tags(project, locked, candidate) for candidate in candidates}
    return Found(candidates, tags, left_out, loader)


def marked_models(project: Path, corpus: str | None, loader: ProjectConfigLoader) -> list[Candidate]:
    """Return what the catalog marks as models that can be registered, finished or not, in the order of the pipelines.

    Args:
        project: the project's folder.
        corpus: its name; None: the demo.
        loader: the corpus' configuration.
    """
    # Else Kedro reads and resolves the catalog again for each file.
    loader["catalog"] = loader["catalog"]
    resolver, pipelines = catalog_resolver(loader), project_pipelines()
    found = []
    for maker, pipeline in pipelines.items():
        for name in sorted(pipeline.all_outputs()):
            declared = tracked(name, resolver.resolve_pattern(name).get("metadata"))
            if declared is not None and declared.model is not None:
                judge = declared.model if declared.model in task_names() else EVALUATION
                evidence, records = (_judgement(project, loader, pipelines[judge], what) for what in ("evidence", "records"))
                folder = catalog_path(project, loader, name)
                found.append(Candidate(corpus, declared.model, folder, evidence, records, (maker, judge)))
    return found


def _judgement(project: Path, loader: ProjectConfigLoader, judge: Pipeline, what: str) -> Path:
    name = next(name for name in sorted(judge.all_outputs()) if name == what or name.endswith(f"_{what}"))
    return catalog_path(project, loader, name)


def _nothing_to_register(candidate: Candidate, locked: LockedStages) -> str | None:
    """Return why there is no such model, or None."""
    if candidate.kind not in KINDS:
        return f"no model of this kind predicts yet (umt_pipeline.serving.predictors knows {', '.join(KINDS)})"
    for path in candidate.files:
        stage = locked.stage_of(path)
        if stage is None:
            return f"no stage of this corpus makes {path.relative_to(locked.project)} (`umt stages` writes them)"
        if not locked.has_run(stage):
            return f"{locked.address(stage)} was never run: dvc repro {locked.address(stage)}"
    return f"{candidate.folder} holds no weights: {candidate.skipped}" if candidate.skipped else None


def _require_locked(project: Path, locked: LockedStages, candidates: Sequence[Candidate]) -> None:
    models: dict[str, list[str]] = {}
    for candidate in candidates:
        gone = " ".join(str(path.relative_to(project)) for path in candidate.files if not path.exists())
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
