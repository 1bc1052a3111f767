"""dvc.yaml from the pipelines, the catalog, the parameter files and the imports: of the demo and of each corpus, by one code.

A stage is a Kedro pipeline. Its dependencies are the files of the pipeline's inputs and the rooms of the code that it is made
of; its parameters are the blocks that it reads; its outs, metrics and plots are the files of its outputs. What a dataset is
for DVC, beyond that, its catalog entry says (:class:`DvcOptions`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from kedro.framework.project import configure_project, pipelines
from kedro.pipeline import Pipeline
from omegaconf import OmegaConf

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import staged_file
from umt_pipeline.core.identity import PACKAGE, PACKAGE_FOLDER, closure, imported_modules
from umt_pipeline.executors import OFFLINE
from umt_pipeline.pipelines import OPTIONAL
from umt_pipeline.project_config import catalog_resolver, config_loader, validated
from umt_pipeline.tasks import task_names

CODE = f"src/{PACKAGE}"
CORPORA = "corpora"
# The demo draws its own videos; a corpus has them.
DEMO_ONLY = "demo_corpus"
# Rooms whose change does not change what a stage computes: a stage need not depend on them.
WITHOUT_EFFECT = {"core", "datasets", "exchange", "executors", "tracking", "pipelines/runs.py"}
PLOTS = "_plots"
# What DVC's run cache leaves out of its keys: dvc.stage.cache, which hashes a stage without them.
_OVERLOOKED = ("size", "nfiles")

HEADER = """\
# One stage per Kedro pipeline. A stage runs again when something under `deps` or `params` changed.
#
# deps    what the pipeline reads, and the rooms of the code that it is made of. A stage that is started for nothing, because a
#         change there changes no result, ends in seconds: features, runs and tests are known by their content and by the code
#         that decides them, and found again.
# params  plain values only, so that `dvc exp run -S {parameters}:stage1.…=…` works
# outs    kept by DVC; {results} is small and kept by git: `dvc metrics diff` compares the headline numbers of commits, `dvc
#         plots diff` all of them. Every stage is one that DVC's run cache takes: a parameter flipped back runs nothing.
#
# Written by `{command}` from the pipelines, the catalog, the parameter files and the imports: change those, not this file.
"""


class DvcOptions(Config):
    """The ``metadata.dvc`` of a catalog entry.

    Attributes:
        metrics: the file's numbers are those that ``dvc exp show`` and ``dvc metrics diff`` show.
        plot: the file is a plot. ``x`` and ``y``, if it is a table, are the columns that ``dvc plots`` draws.
        x: column.
        y: column; it is in the title too.
        template: how DVC draws it; None: as lines.
        instead: a file that stages depend on in place of the dataset: a list of hashes, where the dataset is a folder that
            DVC does not keep.
        dependency: false: a stage that reads it does not run again because it differs.
    """

    metrics: bool = False
    plot: bool = False
    x: str | None = None
    y: str | None = None
    template: str | None = None
    instead: str | None = None
    dependency: bool = True


@dataclass(frozen=True)
class Kept:
    """What the catalog says about a dataset that is a file or folder.

    Attributes:
        name: of the dataset.
        path: relative to the project, or absolute outside it.
        optional: pipelines run where there is nothing.
        in_git: it is small and kept by git.
        options: of ``metadata.dvc``.
    """

    name: str
    path: str
    optional: bool
    in_git: bool
    options: DvcOptions

    @property
    def dependency(self) -> str:
        """What a stage that reads it depends on."""
        return self.options.instead or self.path


def project_pipelines() -> dict[str, Pipeline]:
    """Return the pipelines that are stages, by name, each after those that it reads from."""
    configure_project(PACKAGE)
    found = {name: pipeline for name, pipeline in dict(pipelines).items() if name != "__default__"}
    makers = {output: name for name, pipeline in found.items() for output in pipeline.all_outputs()}
    depth: dict[str, int] = {}

    def level(name: str) -> int:
        if name not in depth:
            above = {makers[read] for read in found[name].inputs() if read in makers} - {name}
            depth[name] = 1 + max(map(level, above), default=0)
        return depth[name]

    tasks = task_names()
    # Of one level the tasks come first: the evaluation, whose page shows everything, is the end.
    return {name: found[name] for name in sorted(found, key=lambda name: (level(name), name not in tasks))}


def stages_file(project: Path, corpus: str | None) -> Path:
    """Return where the dvc.yaml of a corpus is, or of the demo (None)."""
    return project / CORPORA / corpus / "dvc.yaml" if corpus else project / "dvc.yaml"


def describe_stages(project: Path, corpus: str | None, names: Iterable[str] | None = None) -> dict[str, Any]:
    """Return the content of a dvc.yaml.

    An optional input that no stage makes is a dependency only where there is one.

    Args:
        project: the project's folder.
        corpus: name of a corpus, which is also that of its folder of ``conf``; None: the demo.
        names: of the pipelines that become stages; None: all but those that run only where they are named.

    Raises:
        ConfigError: a parameter block or a dataset's options are not as expected, or there is no such pipeline.
    """
    all_pipelines = project_pipelines()
    known = [name for name in all_pipelines if corpus is None or name != DEMO_ONLY]
    if strange := sorted(set(names or ()) - set(known)):
        raise ConfigError(f"stages: expected pipelines of {', '.join(known)}; found '{strange[0]}'.")
    wanted = set(known) - OPTIONAL if names is None else set(names)
    chosen = {name: all_pipelines[name] for name in known if name in wanted}
    kept = _kept_datasets(project, corpus, chosen.values())
    outputs = {name: [kept[made] for made in kept if made in pipeline.all_outputs()] for name, pipeline in chosen.items()}
    made = {entry.name: entry for entries in outputs.values() for entry in entries}
    order = {name: position for position, name in enumerate([*kept, *made])}
    stages = {}
    for name, pipeline in chosen.items():
        inputs = [kept[read] for read in pipeline.inputs() if read in kept and read != "workspace"]
        inputs = [entry for entry in inputs if entry.name in made or not entry.optional or _is_there(project, entry.path)]
        inputs = [entry for entry in inputs if entry.options.dependency]
        inputs.sort(key=lambda entry: (entry.in_git, order[entry.name]))
        stages[name] = {
            **({"wdir": "../.."} if corpus else {}),
            "cmd": f"kedro run{f' --env {corpus}' if corpus else ''} --pipelines {name}",
            "deps": [*(entry.dependency for entry in inputs), *(f"{CODE}/{room}" for room in code_rooms(name))],
            "params": _parameters(project, corpus, _blocks(pipeline, list(chosen), list(all_pipelines))),
            **_results(outputs[name]),
        }
    plots = _comparisons(project, made)
    return {"stages": stages, **({"plots": plots} if plots else {})}


def render_stages(content: Mapping[str, Any], corpus: str | None) -> str:
    """Return the text of a dvc.yaml."""
    header = HEADER.format(
        parameters=f"conf/{corpus or 'base'}/parameters_stage1.yml",
        results=f"{CORPORA}/{corpus}/results" if corpus else "results/",
        command=f"umt stages {corpus}" if corpus else "umt stages",
    )
    blocks = []
    for key, value in content.items():
        items = value.items() if isinstance(value, dict) else enumerate(value)
        texts = [yaml.dump({name: item} if isinstance(value, dict) else [item], **_STYLE) for name, item in items]
        indented = ["".join(f"  {line}\n" for line in text.splitlines()) for text in texts]
        blocks.append(f"{key}:\n" + ("\n" if isinstance(value, dict) else "").join(indented))
    return header + "\n".join(blocks)


def write_stages(project: Path, corpus: str | None, names: Iterable[str] | None = None) -> Path:
    """Write a dvc.yaml and return its path; see :func:`describe_stages`."""
    path = stages_file(project, corpus)
    with staged_file(path) as staged:
        staged.write_text(render_stages(describe_stages(project, corpus, names), corpus), encoding="utf-8")
    return path


def code_rooms(stage: str) -> list[str]:
    """Return what a stage's code is made of, sorted, relative to the package.

    These are whole rooms, of pipelines and tasks its own folder, and of a room of which it uses one module this module.
    """
    source = f"tasks.{stage}" if stage in task_names() else f"pipelines.{stage}"
    modules: dict[str, list[Path]] = {}
    for file in closure([source]):
        parts = file.relative_to(PACKAGE_FOLDER).parts
        modules.setdefault("/".join(parts[:2]) if parts[0] in ("pipelines", "tasks") else parts[0], []).append(file)
    found = {
        files[0].relative_to(PACKAGE_FOLDER).as_posix() if len(files) == 1 and "/" not in room else room
        for room, files in modules.items()
        if room not in WITHOUT_EFFECT and not room.endswith("__init__.py")
    }
    own = PACKAGE_FOLDER.joinpath(*source.split(".")).rglob("*.py")
    if any(name.partition(".")[0] == "reports" for file in own for name in imported_modules(file)):
        # No run depends on pages, so that closures leave them out; but a stage that writes one does.
        found.add("reports")
    return sorted(found | ({"pipelines/numbers.py", "pipelines/tasks.py"} if stage in task_names() else set()))


class _Dumper(yaml.SafeDumper):
    """Indents lists, and writes the options of a file in one line."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, False)

    def represent_options(self, data: _Options) -> yaml.Node:
        return self.represent_mapping("tag:yaml.org,2002:map", data.items(), flow_style=True)

    def represent_names(self, data: _Names) -> yaml.Node:
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)


class _Options(dict[str, Any]):
    """Written in one line."""


class _Names(list[str]):
    """Written in one line."""


_Dumper.add_representer(_Options, _Dumper.represent_options)
_Dumper.add_representer(_Names, _Dumper.represent_names)
_STYLE: dict[str, Any] = {"Dumper": _Dumper, "sort_keys": False, "allow_unicode": True, "width": 1000}


def _kept_datasets(project: Path, corpus: str | None, chosen: Iterable[Pipeline]) -> dict[str, Kept]:
    """Return the datasets of pipelines that are files or folders: in the catalog's order, those of factories last."""
    loader = config_loader(project, corpus or "base")
    catalog, resolver = loader["catalog"], catalog_resolver(loader)
    results = project / str(loader["globals"]["results"])
    names = {name for pipeline in chosen for name in pipeline.datasets()}
    found: dict[str, Kept] = {}
    factories: dict[str, Kept] = {}
    for name in [*(name for name in catalog if name in names), *names.difference(catalog)]:
        entry = resolver.resolve_pattern(name)
        if "filepath" not in entry:
            continue
        path, metadata = project / str(entry["filepath"]), entry.get("metadata") or {}
        (found if name in catalog else factories)[name] = Kept(
            name=name,
            path=(path.relative_to(project) if path.is_relative_to(project) else path).as_posix(),
            optional=bool(entry.get("optional", False)),
            in_git=path.is_relative_to(results),
            options=validated(DvcOptions, metadata.get("dvc") or {}, f"catalog entry '{name}', metadata.dvc"),
        )
    return found | dict(sorted(factories.items(), key=lambda item: item[1].path))


def _is_there(project: Path, path: str) -> bool:
    # In a fresh clone the file itself has not been fetched yet.
    return (project / path).exists() or (project / f"{path}.dvc").exists()


def _results(outputs: list[Kept]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {"outs": [], "metrics": [], "plots": []}
    for entry in outputs:
        options = _Options({"cache": False} if entry.in_git else {})
        kind = "metrics" if entry.options.metrics else "plots" if entry.options.plot else "outs"
        if entry.in_git and kind == "outs":
            raise ConfigError(
                f"catalog entry '{entry.name}': expected metadata.dvc to say `plot` or `metrics` of a file that git keeps, for "
                f"DVC's run cache takes no stage with others; found {entry.path}. Say so, or move it below `data`"
            )
        if entry.options.x and entry.options.y:
            name, _, what = entry.name.rpartition("_")
            title = f"{_spoken(name)}: {'numbers' if what == 'numbers' else entry.options.y}"
            template = {"template": entry.options.template} if entry.options.template else {}
            options |= {**template, "x": entry.options.x, "y": entry.options.y, "title": title}
        found[kind].append({entry.path: options} if options else entry.path)
    return {kind: entries for kind, entries in found.items() if entries}


def _spoken(name: str) -> str:
    """Write ``stage1_control`` as ``Stage 1, control``."""
    return re.sub(r"(?<=[a-z])(?=\d)", " ", name.replace("_control", ", control").replace("_", " ")).capitalize()


def _blocks(pipeline: Pipeline, stages: list[str], known: list[str]) -> list[str]:
    """Return the blocks of parameters that a pipeline reads, in the order of the pipelines; all of them: those of stages."""
    inputs = pipeline.inputs()
    # Where work is done changes no result: no stage runs again for that.
    read = {name.removeprefix("params:").partition(".")[0] for name in inputs if name.startswith("params:")} - {OFFLINE}
    if "parameters" in inputs:
        read |= {"seed", *stages}
    if strange := sorted(read - {"seed", *known}):
        raise ConfigError(f"parameters: expected blocks that are named after pipelines, and seed; found '{strange[0]}'.")
    return [block for block in ["seed", *known] if block in read]


def _parameters(project: Path, corpus: str | None, blocks: list[str]) -> list[dict[str, Any]]:
    files = {block: f"parameters{'' if block == 'seed' else f'_{block}'}.yml" for block in blocks}
    own = {block for block, file in files.items() if corpus and (project / "conf" / corpus / file).is_file()}
    paths = {block: f"conf/{corpus if block in own else 'base'}/{file}" for block, file in files.items()}
    return [{path: _Names([block, *_overlooked(project / path, block)])} for block, path in paths.items()]


def _overlooked(file: Path, block: str) -> list[str]:
    """Return the parameters of a block that DVC's run cache would not see, with the names of all that they stand in.

    It leaves out what is called as its own notes of files are, at any depth, so that a run with another ``size`` would be
    taken for the same. By their full names it sees them.
    """
    found = []

    def look(values: Any, name: str) -> None:
        for key, value in values.items() if isinstance(values, Mapping) else ():
            if key in _OVERLOOKED:
                found.append(f"{name}.{key}")
            look(value, f"{name}.{key}")

    look(yaml.safe_load(file.read_text(encoding="utf-8")).get(block), block)
    return found


def _comparisons(project: Path, made: Mapping[str, Kept]) -> list[dict[str, Any]]:
    """Return the plots that compare files, of ``_plots`` in the catalog, of which each is made."""
    declared: Any = OmegaConf.to_container(OmegaConf.load(project / "conf" / "base" / "catalog.yml"), resolve=False)
    found = []
    for title, plot in declared.get(PLOTS, {}).items():
        if set(plot["y"]) <= set(made):
            found.append({title: {"x": plot["x"], "y": {made[name].path: columns for name, columns in plot["y"].items()}}})
    return found
