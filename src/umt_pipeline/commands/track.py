"""`umt track`: bring MLflow up to date with the finished files of a corpus."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedro.pipeline import Pipeline

from umt_pipeline.core.errors import UmtError
from umt_pipeline.core.identity import fingerprint
from umt_pipeline.dvc_stages import project_pipelines
from umt_pipeline.project_config import ProjectConfigLoader, catalog_path, catalog_resolver, config_loader
from umt_pipeline.tracking.dependencies import Stages, joining_tags
from umt_pipeline.tracking.finished import Output, digest_of, joins_runs, missing_results, read_finished, tracked
from umt_pipeline.tracking.provenance import commit_of, provenance_tags
from umt_pipeline.tracking.record import DEPENDENCIES, JOIN, Input, RunRecord, flat_params, kept_records
from umt_pipeline.tracking.replay import Sent, bring_up_to_date
from umt_pipeline.tracking.server import SERVER_ERRORS, Server
from umt_pipeline.tracking.target import DEMO, corpus_of, project_target, track_command


@dataclass(frozen=True)
class Place:
    """Where a pipeline's files are.

    Attributes:
        pipeline: name.
        outputs: what it writes that is tracked.
        reads: paths of its inputs that are files or folders, by dataset.
        joining: paths of the data and models that it made.
    """

    pipeline: str
    outputs: tuple[Output, ...]
    reads: Mapping[str, str]
    joining: tuple[str, ...]


def track_corpus(project: Path, name: str | None) -> list[str]:
    """Send to MLflow what it lacks of the finished runs of a corpus: the finished files are read, and nothing is sent twice.

    Args:
        project: the project's folder.
        name: of a corpus, or of another overlay that runs were made with; None: the demo.

    Returns:
        A line for each pipeline that has finished here.

    Raises:
        ConfigError: there is no such corpus.
        UmtError: MLflow does not answer, or a file cannot be read. What was sent by then stays.
    """
    env = None if name == DEMO else name
    corpus, loader = corpus_of(env), config_loader(project, env)
    target = project_target(loader, project)
    stages = Stages.of(project, corpus)
    records = [record for record in kept_records(catalog_path(project, loader, "workspace")) if record.corpus == corpus]
    catalog = _Catalog(project, loader)
    lines = []
    try:
        server = Server(target.uri, target.experiment)
        for pipeline_name, pipeline in project_pipelines().items():
            place = catalog.place(pipeline_name, pipeline)
            if any(output.path.is_file() for output in place.outputs if output.is_result):
                lines.append(f"{pipeline_name}: {_track(server, place, stages, corpus, records)}")
    except SERVER_ERRORS as error:
        raise UmtError(
            f"MLflow at {target.uri}: expected an answer, found {type(error).__name__}: {error}. "
            f"Start it, or name another one in MLFLOW_TRACKING_URI, and go on: {track_command(corpus)}. What was sent stays."
        ) from error
    return lines or [f"nothing of {corpus} has finished here: run it, or fetch what others ran (dvc pull)"]


def _track(server: Server, place: Place, stages: Stages, corpus: str, records: Sequence[RunRecord]) -> str:
    if missing := missing_results(place.outputs):
        return f"{missing[0].path} is missing: run it, or fetch it (dvc pull)"
    digest = digest_of(place.outputs)
    known = [record for record in records if record.outputs.get(place.pipeline) == digest]
    record = known[0] if known else record_of_lock(place, stages, corpus, digest)
    finished = read_finished(place.outputs, record.began_ms, record.ended_ms or record.began_ms)
    # Of a run that nobody kept a record of, as of one in another clone, MLflow may have everything.
    complete = None if known else server.find_complete(corpus, place.pipeline, digest)
    if complete is not None:
        sent = Sent(complete, False, 0, 0, server.log_files(complete, finished.files))
    else:
        sent = bring_up_to_date(server, record, {place.pipeline: finished})
    if not sent.anything:
        return f"run {sent.run_id} has everything"
    origin = "" if known or complete or record.dependencies else f" ({stages.file.stem}.lock does not know these files)"
    return f"{sent.values} values and {sent.files} files sent to {'a new ' if sent.fresh else ''}run {sent.run_id}{origin}"


def record_of_lock(place: Place, stages: Stages, corpus: str, digest: str) -> RunRecord:
    """Return what DVC's files say of a finished run of which nothing else is known, as in a fresh clone.

    Its key follows from its files, so that it is the same run each time.
    """
    project = stages.project
    numbers = [output.path for output in place.outputs if output.is_result]
    # Files know when they were written, and not how long it took.
    written_ms = int(max(path.stat().st_mtime for path in numbers) * 1000)
    facts: dict[str, Any] = {"tags": {}, "params": {}, "inputs": (), "dependencies": {}}
    if stages.is_locked(place.pipeline, [path.relative_to(project).as_posix() for path in numbers]):
        dependencies = stages.locked_dependencies(place.pipeline)
        commit = commit_of(project, stages.file.with_suffix(".lock"))
        code = {"git.commit": commit, "git.dirty": "false"} if commit else provenance_tags(project, os.environ)
        own = {"dvc.stage": stages.address(place.pipeline), DEPENDENCIES: fingerprint(dependencies), JOIN: stages.locked_join()}
        read = {name: path for name, path in place.reads.items() if path in dependencies}
        facts = {
            "tags": {**code, **joining_tags(dependencies), **own},
            "params": flat_params(stages.locked_params(place.pipeline)),
            "inputs": tuple(Input(name=name, path=path, md5=dependencies[path]) for name, path in read.items()),
            "dependencies": dependencies,
            "made": joining_tags({path: stages.made[path] for path in place.joining if path in stages.made}),
        }
    key = fingerprint(corpus, place.pipeline, digest)
    return RunRecord(
        name=place.pipeline, corpus=corpus, key=key, began_ms=written_ms, ended_ms=written_ms, status="FINISHED", **facts
    )


class _Catalog:
    """The catalog of an overlay, as far as it says where files are."""

    def __init__(self, project: Path, loader: ProjectConfigLoader) -> None:
        self._project, self._resolver = project, catalog_resolver(loader)

    def place(self, name: str, pipeline: Pipeline) -> Place:
        """Return where a pipeline's files are.

        Raises:
            ConfigError: a catalog entry has a ``metadata.mlflow`` that means nothing.
        """
        written = {dataset: entry for dataset in sorted(pipeline.all_outputs()) if (entry := self._entry(dataset))}
        declared = {dataset: tracked(dataset, entry.get("metadata")) for dataset, entry in written.items()}
        paths = {dataset: self._project / str(entry["filepath"]) for dataset, entry in written.items()}
        read = {dataset: entry for dataset in sorted(pipeline.inputs()) if (entry := self._entry(dataset))}
        return Place(
            name,
            tuple(
                Output(dataset, paths[dataset], found, bool(written[dataset].get("optional", False)))
                for dataset, found in declared.items()
                if found is not None
            ),
            {dataset: self._relative(self._project / str(entry["filepath"])) for dataset, entry in read.items()},
            tuple(self._relative(paths[dataset]) for dataset, found in declared.items() if joins_runs(found)),
        )

    def _entry(self, dataset: str) -> dict[str, Any] | None:
        entry: dict[str, Any] = self._resolver.resolve_pattern(dataset)
        return entry if "filepath" in entry else None

    def _relative(self, path: Path) -> str:
        return (path.relative_to(self._project) if path.is_relative_to(self._project) else path).as_posix()
