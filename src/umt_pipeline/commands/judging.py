"""Champion against challenger: what the registry has of both, made comparable where it is not, and what the gate says."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from umt_pipeline.commands.evaluate_again import (
    EvaluationImpossibleError,
    Measured,
    measure_again,
    measure_seed,
    model_dataset,
    promotion_workspace,
)
from umt_pipeline.commands.histories import last_runs, version_history
from umt_pipeline.core.errors import ConfigError, RegistryError
from umt_pipeline.core.files import staged_folder, write_json
from umt_pipeline.dvc_repo import dvc_repo
from umt_pipeline.dvc_stages import stages_file
from umt_pipeline.evaluation.compare import compare_protocols, load_records
from umt_pipeline.evaluation.evidence import rows_of
from umt_pipeline.evaluation.gate import GateParams, Outcome, Verdict, judge_seeds
from umt_pipeline.evaluation.records import Protocol, Record
from umt_pipeline.evaluation.spread import ranged_share
from umt_pipeline.project_config import catalog_path, config_loader, validated
from umt_pipeline.registry.locked import LockedStages
from umt_pipeline.registry.names import CHAMPION, COMMIT, EVIDENCE, MD5, STAGE, WEIGHTS
from umt_pipeline.registry.reading import Version, fetch, version_at
from umt_pipeline.reports.promotion.compared import Contender, Promotion

# Who measured: differences of the package's version, of the processor and its threads are no other protocol.
UNLIKE_MACHINES = frozenset({"version"})
GATE_BLOCK = "gate"


@dataclass(frozen=True)
class Asked:
    """Which promotion is wanted.

    Attributes:
        project: the project's folder.
        corpus: its name; None: the demo.
        kind: of the model, such as ``stage2``.
        seeds: trainings of each model that are compared, its own included.
    """

    project: Path
    corpus: str | None
    kind: str
    seeds: int = 1


def gate_params(asked: Asked) -> GateParams:
    """Return what a challenger of this kind must show: its block below ``gate`` in the parameters.

    Raises:
        ConfigError: there is no such block, or it is not as expected.
    """
    blocks: dict[str, Any] = config_loader(asked.project, asked.corpus)["parameters"].get(GATE_BLOCK, {})
    if asked.kind not in blocks:
        raise ConfigError(
            f"parameters {GATE_BLOCK}: expected a block '{asked.kind}' that says which numbers must rise, found "
            f"{', '.join(blocks) or 'none'}. Add it to conf/{asked.corpus or 'base'}/parameters_gate.yml."
        )
    return validated(GateParams, blocks[asked.kind], f"{GATE_BLOCK}.{asked.kind}")


def judge_versions(asked: Asked, challenger: Version, champion: Version | None) -> Promotion:
    """Compare two versions. Nothing is changed in the registry.

    A champion that was measured in another way than the challenger is measured again, under today's protocol; where that
    cannot be done, it cannot be told which one is better.

    Args:
        asked: which promotion.
        challenger: the new version.
        champion: the one to be replaced; None: there is none, and the first model has nobody to beat.

    Raises:
        RegistryError: files of the challenger are gone or not what was registered, or the registry cannot be asked.
        ConfigError: the gate has no parameters for this kind, or other seeds are asked of a model that is not this checkout's.
        EvaluationError: the gate names a number that the evidence does not have.
    """
    params = gate_params(asked)
    mine = fetched(challenger)
    for name in _names(params):
        rows_of(mine.evidence, name)
    found = Promotion(asked.kind, _no_comparison("promoted", "it is the first, no champion was there", params), params,
                      _contender(challenger, mine, params))  # fmt: skip
    if champion is not None:
        found = _against_champion(asked, found, challenger, champion, mine)
    return _with_histories(asked, found, challenger, champion)


def fetched(version: Version) -> Measured:
    """Return evidence and records of a version, as they were registered.

    Raises:
        RegistryError: they are gone, or not what was registered.
        UmtError: the records are no records.
    """
    with TemporaryDirectory(prefix="umt-promote-") as temporary:
        folder = Path(temporary)
        evidence = pd.read_parquet(fetch(version, "evidence", folder))
        return Measured(evidence, load_records(fetch(version, "records", folder)))


def protocol_differences(first: Sequence[Record], second: Sequence[Record], names: Iterable[str]) -> list[str]:
    """Return in sentences how numbers of two evaluations were measured differently; none: they may be compared.

    Args:
        first: records of one.
        second: of the other.
        names: of the numbers, as in the metrics files.
    """
    one, other = (_protocols(records) for records in (first, second))
    found: dict[str, list[str]] = {}
    for task in dict.fromkeys(_task(name, {*one, *other}) for name in names):
        ours, theirs = one.get(task), other.get(task)
        if ours is None or theirs is None:
            said = [f"only the {'second' if ours is None else 'first'} evaluation measured it"] if ours or theirs else []
        else:
            said = compare_protocols(ours, theirs, UNLIKE_MACHINES)
        for sentence in said:
            found.setdefault(sentence, []).append(task)
    return [f"{sentence} ({', '.join(tasks)})" for sentence, tasks in found.items()]


def _protocols(records: Iterable[Record]) -> dict[str, Protocol]:
    return {record.task: record.protocol for record in records if record.protocol is not None}


def _task(name: str, known: set[str]) -> str:
    """Return the task of a number: its name without the last part, unless the task is the number itself."""
    return name if name in known else name.rpartition("/")[0]


def _names(params: GateParams) -> tuple[str, ...]:
    return (*params.metrics, *params.guards)


def _no_comparison(verdict: Outcome, reason: str, params: GateParams) -> Verdict:
    return Verdict(
        verdict=verdict, reason=reason, metrics=(), champions=0, challengers=0, confidence=params.confidence,
        resamples=params.resamples,
    )  # fmt: skip


# --- champion and challenger ------------------------------------------------------------------------------------------
def _against_champion(asked: Asked, found: Promotion, challenger: Version, champion: Version, mine: Measured) -> Promotion:
    params, names = found.params, _names(found.params)
    theirs, differences, again = _comparable(asked, champion, mine, names)
    found = replace(found, differences=differences, again=again)
    if theirs is None or (left := protocol_differences(theirs.records, mine.records, names)):
        reason = again if theirs is None else f"both cannot be measured in the same way: {'; '.join(left)}"
        champion_as_it_is = _contender(champion, theirs, params)
        return replace(found, verdict=_no_comparison("cannot_be_told", reason, params), champion=champion_as_it_is)
    seeds = _other_seeds(mine, asked.seeds)
    challengers = [mine, *_seeds_of_challenger(asked, challenger, seeds, mine, names)]
    champions = [theirs, *_kept_seeds(asked, champion, seeds, mine, names)]
    verdict = judge_seeds([one.evidence for one in champions], [one.evidence for one in challengers], params)
    return replace(found, verdict=verdict, champion=_contender(champion, theirs, params))


def _comparable(
    asked: Asked, champion: Version, mine: Measured, names: Sequence[str]
) -> tuple[Measured | None, list[str], str]:
    """Return the champion's evidence under the challenger's protocol, how its own differed, and what was done about it."""
    damage, differences = "", []
    try:
        theirs = fetched(champion)
        differences = protocol_differences(theirs.records, mine.records, names)
        if not differences:
            return theirs, [], ""
    except RegistryError as error:
        version_at(champion.name, CHAMPION)  # raises where nothing is damaged, but the registry cannot be asked
        damage = f" ({error})"
    why = "its registered evidence cannot be used" if damage else "it had been measured in another way"
    title = _title(champion)
    folder = promotion_workspace(asked.project, asked.corpus, asked.kind) / "champion"
    try:
        again = measure_again(asked.project, asked.corpus, asked.kind, fetch(champion, "model", folder))
    except (EvaluationImpossibleError, RegistryError) as error:
        version_at(champion.name, CHAMPION)
        # The verdict is committed: it says nothing of where the project lies.
        said = f"{title} could not be measured again, {why}{damage}: {error}".replace(f"{asked.project}/", "")
        return None, differences, said
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return again, differences, f"{title} was measured again under today's protocol: {why}{damage}."


def _contender(version: Version, measured: Measured | None, params: GateParams) -> Contender:
    tags = {"git commit": COMMIT, "DVC stage": STAGE, "DVC md5": MD5, "weights": WEIGHTS, "evidence": EVIDENCE}
    facts = {"registered as": _title(version), **{name: version.tags[tag] for name, tag in tags.items() if tag in version.tags}}
    if measured is None:
        return Contender(_title(version), facts)
    known = {str(task) for task in measured.evidence["task"].unique()}
    tasks = {name: _task(name, known) for name in _names(params)}
    # What the challenger lacks is an error (judge_versions), what the champion lacks a difference of protocols.
    there = [name for name, task in tasks.items() if task in known]
    return Contender(
        title=_title(version),
        facts=facts,
        numbers={name: ranged_share(measured.evidence, name, params) for name in there},
        records=[record.model_dump(mode="json") for record in measured.records if record.task in tasks.values()],
    )


def _title(version: Version) -> str:
    return f"{version.name} version {version.version}"


# --- seeds ------------------------------------------------------------------------------------------------------------
def _other_seeds(mine: Measured, count: int) -> list[int]:
    own = next((record.protocol.seed for record in mine.records if record.protocol is not None), 0)
    return [own + step for step in range(1, count)]


def _seeds_of_challenger(
    asked: Asked, challenger: Version, seeds: Sequence[int], mine: Measured, names: Sequence[str]
) -> list[Measured]:
    """Return what other seeds give: of earlier promotions, or trained and measured now, and kept.

    Raises:
        ConfigError: the challenger was measured in another way than models are here and now.
    """
    if seeds:
        require_checked_out(asked, challenger)
    found = []
    for seed in seeds:
        folder = _seed_folder(asked, challenger, seed)
        # What was measured in another way is measured again; its training has finished, and is found.
        if not folder.is_dir() or protocol_differences(_read_seed(folder).records, mine.records, names):
            measured = measure_seed(asked.project, asked.corpus, asked.kind, seed)
            with staged_folder(folder) as staged:
                measured.evidence.to_parquet(staged / "evidence.parquet", index=False)
                write_json(staged / "records.json", [record.model_dump(mode="json") for record in measured.records])
        found.append(_read_seed(folder))
        if left := protocol_differences(found[-1].records, mine.records, names):
            raise ConfigError(
                f"--seeds: expected {_title(challenger)} to be measured as models are here and now, found: {'; '.join(left)}. "
                "Run `dvc repro`, commit, and register it again: umt register."
            )
    return found


def require_checked_out(asked: Asked, challenger: Version) -> None:
    """Refuse to train other seeds of a model by code and parameters that are not those which trained it.

    Raises:
        ConfigError: the model is not what ``dvc.lock`` has here, or its stage has changed since.
    """
    project, corpus = asked.project, asked.corpus
    folder = catalog_path(project, config_loader(project, corpus), model_dataset(asked.kind))
    with dvc_repo(project) as repo:
        locked = LockedStages(repo, project, corpus, stages_file(project, corpus))
        stage = locked.stage_of(folder)
        if stage is None or locked.md5(folder) != challenger.tags.get(MD5):
            reasons = [f"dvc.lock has another {folder.relative_to(project)}"]
        else:
            reasons = locked.reasons([stage])
    if reasons:
        raise ConfigError(
            f"--seeds: expected {_title(challenger)} to be what is locked and checked out here, since this code and these "
            f"parameters train the other seeds; found: {'; '.join(reasons)}. Check out commit "
            f"{challenger.tags.get(COMMIT)}, or register what is here: umt register."
        )


def _kept_seeds(asked: Asked, champion: Version, seeds: Sequence[int], mine: Measured, names: Sequence[str]) -> list[Measured]:
    """Return what the champion's other seeds gave when it was a challenger, as far as that is here and comparable."""
    folders = [folder for seed in seeds if (folder := _seed_folder(asked, champion, seed)).is_dir()]
    kept = [_read_seed(folder) for folder in folders]
    return [measured for measured in kept if not protocol_differences(measured.records, mine.records, names)]


def _seed_folder(asked: Asked, version: Version, seed: int) -> Path:
    workspace = promotion_workspace(asked.project, asked.corpus, asked.kind)
    return workspace / "seeds" / version.tags.get(MD5, "unknown") / f"seed_{seed}"


def _read_seed(folder: Path) -> Measured:
    return Measured(pd.read_parquet(folder / "evidence.parquet"), load_records(folder / "records.json"))


# --- curves -----------------------------------------------------------------------------------------------------------
def _with_histories(asked: Asked, found: Promotion, challenger: Version, champion: Version | None) -> Promotion:
    """Add how both were trained; that is for the page alone, and what is missing is said there."""
    mine = version_history(asked.project, asked.corpus, asked.kind, challenger)
    side = replace(found.challenger, history=mine.rows, no_history=mine.missing)
    found = replace(found, challenger=side)
    if champion is not None and found.champion is not None:
        theirs = version_history(asked.project, asked.corpus, asked.kind, champion)
        found = replace(found, champion=replace(found.champion, history=theirs.rows, no_history=theirs.missing))
    columns = [str(name) for name in mine.rows.columns if name != "step"]
    return replace(found, earlier=last_runs(asked.project, asked.corpus, asked.kind, columns))


def document(found: Promotion) -> Mapping[str, Any]:
    """Return what ``promotion_KIND.json`` says; equal for an equal comparison."""
    return {
        **found.verdict.model_dump(mode="json"),
        "kind": found.kind,
        "challenger": dict(found.challenger.facts),
        "champion": dict(found.champion.facts) if found.champion else None,
        "protocol": {"differences": list(found.differences), "measured_again": found.again},
        "gate": found.params.model_dump(mode="json"),
    }
