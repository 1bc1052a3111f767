"""`umt recipes`: one page on all published recipes, from what their files say and what plans compute."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import Field

from umt_pipeline.commands.plan import Counts, plan_project
from umt_pipeline.commands.plan_hardware import Hardware, find_device, hardware_values
from umt_pipeline.commands.plan_phases import Mode
from umt_pipeline.commands.plan_stage1 import CostPlan
from umt_pipeline.core.config import Config
from umt_pipeline.core.files import staged_file
from umt_pipeline.project_config import RECIPES_FOLDER, ProjectConfigLoader, config_loader, validated

PAGE = Path("docs/recipes.md")
# What costs are computed for: what `umt plan` assumes where nobody has measured.
HARDWARE = Hardware.model_validate(hardware_values(find_device("h100"), {}, {}))
HEAD = """# Recipes

Written by `umt recipes` from `conf/recipes`; do not edit it by hand.

Each published recipe is a file of `conf/recipes` that holds what is its own; what several share is in `conf/recipes/shared`.
The environment of the same name stands on it: `kedro run --env umt_b16`. An environment of your own does the same, and says in
its own `parameters.yml` and `catalog.yml` only what differs:

```yaml
# conf/my_k400/globals.yml
recipes: [umt_b16]
data: data/my_k400
results: ${data}/08_reporting/results
```

No result of these recipes has been compared with the published scores.

Costs are computed, not measured, and ingestion, which decodes every file once, comes before and is not counted. They are those
of `umt plan` with the options shown: H100 at 40 % of their peak in bf16 (989 TFLOP/s), beside each 16 cores that decode 9
videos/s or 200 images/s and disks of 2 GB/s; as many devices and decoding processes as the recipe names. Most of these rates
are assumptions; the command says on what grounds, takes your numbers, and explains each of its own (`--explain`). Hours are of
the clock. What a device computes less than its hours, it waits for decoders or disks. Cached means 10 recorded views of each
video and image, stored as `teacher_features.codec` says: int8. Extraction decodes a video once for its views.
"""

Score = float | tuple[float, float]


class About(Config):
    """What a recipe's files say of it under ``about``; texts are Markdown.

    Attributes:
        family: heading of the section that it is in.
        pipelines: what is run.
        data: files that it needs.
        hardware: that it is meant for.
        differs: what differs from the authors' run.
        scored: how the scores were measured, and where they were published.
        corpora: names of those that it is trained on.
        clips: videos that an epoch draws; 0: nothing is planned.
        images: the same of images.
        scores: by what was measured.
        sets: by data set the values that it takes, and its score.
    """

    family: str
    pipelines: str
    data: str
    hardware: str
    differs: str
    scored: str
    corpora: str = ""
    clips: int = 0
    images: int = 0
    scores: dict[str, Score] = Field(default_factory=dict)
    sets: dict[str, dict[str, int | Score]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Published:
    """What a recipe's files say of it, and the configuration of its environment."""

    about: About
    loader: ProjectConfigLoader


def find_recipes(project: Path) -> dict[str, Published]:
    """Return the published recipes by their names, each family together.

    Raises:
        ConfigError: something is missing or unknown, or a recipe has no environment of its name.
    """
    found = {}
    for file in (project / "conf" / RECIPES_FOLDER).glob("*.yml"):
        merged: dict[str, Any] = {}
        loader = config_loader(project, file.stem)
        for content in loader.recipes.values():
            merged |= content.get("about", {})
        found[file.stem] = Published(validated(About, merged, f"{file}: about"), loader)
    # umt_b16_5m before umt_b16_17m.
    names = sorted(found, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])
    families = list(dict.fromkeys(found[name].about.family for name in names))
    return {name: found[name] for name in sorted(names, key=lambda name: families.index(found[name].about.family))}


def recipes_page(project: Path) -> str:
    """Return the page as Markdown."""
    parts = [HEAD]
    for _, members in groupby(find_recipes(project).items(), key=lambda item: item[1].about.family):
        parts += _family(project, dict(members))
    return "\n".join(parts)


def write_page(project: Path) -> Path:
    """Write ``docs/recipes.md`` and return where it is."""
    with staged_file(project / PAGE) as staged:
        staged.write_text(recipes_page(project), encoding="utf-8")
    return project / PAGE


def _family(project: Path, members: dict[str, Published]) -> Iterator[str]:
    shared = next(iter(members.values())).about
    yield f"## {shared.family}\n"
    names = ", ".join(f"`{name}`" for name in members)
    yield f"`kedro run --env NAME --pipelines {shared.pipelines}`, where NAME is {names}.\n"
    yield f"### Data\n\n{shared.data}"
    if shared.corpora:
        yield _table(["recipe", "corpora"], [[f"`{name}`", member.about.corpora] for name, member in members.items()])
    yield f"### Hardware and cost\n\n{shared.hardware}"
    if shared.clips:
        yield _table(COSTS, [[f"`{name}`", *_costs(project, member)] for name, member in members.items()])
    yield f"### What differs from the authors' run\n\n{shared.differs}"
    yield "### What differs between these recipes\n"
    differences = _differences([member.loader for member in members.values()])
    yield _table(["parameter", *(f"`{name}`" for name in members)], differences)
    yield f"### Published scores\n\n{shared.scored}"
    if shared.scores:
        rows = [[f"`{name}`", *map(_cell, member.about.scores.values())] for name, member in members.items()]
        yield _table(["recipe", *shared.scores], rows)
    for name, member in members.items() if shared.sets else ():
        columns = next(iter(member.about.sets.values()))
        rows = [[title, *(_cell(values[column]) for column in columns)] for title, values in member.about.sets.items()]
        yield _table([f"`{name}`", *columns], rows)


COSTS = [
    "recipe", "`umt plan`", "online: device-hours", "computing", "hours", "cached: device-hours", "computing", "hours",
    "stores", "cheaper",
]  # fmt: skip


def _costs(project: Path, member: Published) -> list[str]:
    about = member.about
    options = f"`--clips {about.clips}" + (f" --images {about.images}`" if about.images else "`")
    plans = plan_project(project, member.loader, Counts(about.clips, about.images), HARDWARE)
    plan = plans.stage1 or plans.stage2
    assert plan is not None
    cheaper: str = plan.cheaper
    if isinstance(plan, CostPlan) and plan.break_even is not None:
        cheaper = f"cached, from {plan.break_even:.2f} epochs per view on"
    return [options, *_mode(plan.online), *_mode(plan.cached), f"{plan.store_bytes / 1e12:.3g} TB", cheaper]


def _mode(mode: Mode) -> list[str]:
    computing = sum(phase.compute_device_hours for phase in mode.phases)
    return [f"{hours:.1f}" for hours in (mode.device_hours, computing, mode.hours)]


def _differences(loaders: Sequence[ProjectConfigLoader]) -> list[list[str]]:
    """Return a row for each parameter that the recipes name and that is not the same in all of them."""
    blocks = dict.fromkeys(block for loader in loaders for block in loader.own_parameters())
    parameters = [loader["parameters"] for loader in loaders]
    found = [dict(_leaves({block: values[block] for block in blocks})) for values in parameters]
    keys = dict.fromkeys(key for values in found for key in values)
    rows = [[key, *(values.get(key, "") for values in found)] for key in keys]
    return [[f"`{key}`", *map(_cell, values)] for key, *values in rows if any(value != values[0] for value in values)]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return " / ".join(map(str, value))
    # 1e-05 is written 1e-5.
    return re.sub(r"e-0", "e-", f"{value:g}") if isinstance(value, float) and 0 < value < 1e-2 else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
