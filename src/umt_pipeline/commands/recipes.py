"""`umt recipes`: one page on all published recipes, from what their files say and what a plan computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from umt_pipeline.commands.plan import Counts, plan_project
from umt_pipeline.commands.plan_stage1 import Hardware, Mode
from umt_pipeline.core.files import staged_file
from umt_pipeline.project_config import read_recipes

PAGE = Path("docs/recipes.md")
# What costs are computed for: assumptions, not measurements.
HARDWARE = Hardware(name="h100", peak_tflops=989, mfu=0.4, cores=16, decode_rate=16, image_rate=200, store_rate=2)
HEAD = """# Recipes

The published recipes as environments: `kedro run --env NAME`. Written by `umt recipes`; do not edit it by hand. The values of a
recipe are in `conf/recipes`, a file for what several share and one for what is its own; `conf/NAME/globals.yml` names the files
that an environment stands on. An environment of your own does the same, and says in `parameters.yml` and `catalog.yml` only
what differs:

```yaml
# conf/my_k400/globals.yml
recipes: [kinetics, kinetics_b16]
data: data/my_k400
results: data/my_k400/08_reporting/results
```

Costs are computed, not measured: `umt plan --env NAME --clips CLIPS` for 8 devices, H100 at 40 % of their peak, beside each 16
cores that decode 16 videos/s or 200 images/s, and disks of 2 GB/s; the command takes your own numbers. Cached means 10 recorded
views of each video and image. Ingestion, which decodes every file once, comes before and is not counted.
"""


@dataclass(frozen=True)
class Recipe:
    """One environment.

    Attributes:
        env: its name.
        about: what its ``about.yml`` says.
        shared: what the recipes that it stands on say of themselves, later ones over earlier ones.
    """

    env: str
    about: dict[str, Any]
    shared: dict[str, Any]


def find_recipes(project: Path) -> list[Recipe]:
    """Return the environments that have an ``about.yml``."""
    found = []
    for file in sorted((project / "conf").glob("*/about.yml")):
        shared: dict[str, Any] = {}
        for content in read_recipes(project / "conf", file.parent.name).values():
            shared |= content.get("about", {})
        about: Any = OmegaConf.to_container(OmegaConf.load(file))
        found.append(Recipe(file.parent.name, about, shared))
    return found


def recipes_page(project: Path) -> str:
    """Return the page as Markdown."""
    families: dict[str, list[Recipe]] = {}
    for recipe in find_recipes(project):
        families.setdefault(recipe.shared["family"], []).append(recipe)
    parts = [HEAD]
    for family, recipes in families.items():
        parts += _family(project, family, recipes)
    return "\n".join(parts)


def write_page(project: Path) -> Path:
    """Write ``docs/recipes.md``."""
    with staged_file(project / PAGE) as staged:
        staged.write_text(recipes_page(project), encoding="utf-8")
    return project / PAGE


def _family(project: Path, family: str, recipes: list[Recipe]) -> Iterator[str]:
    shared = recipes[0].shared
    yield f"## {family}\n"
    yield "| environment | what | online | cached |\n| --- | --- | --- | --- |"
    for recipe in recipes:
        yield f"| `{recipe.env}` | {recipe.about['title']} | {' | '.join(_costs(project, recipe))} |"
    yield ""
    for title, key in (("Data", "data"), ("Hardware", "hardware"), ("What differs from the authors' run", "differs")):
        yield f"### {title}\n\n{str(shared[key]).rstrip()}\n"
    yield f"### Published scores\n\n{_sentence(shared['scores'])}\n" if "scores" in shared else "### Published scores\n"
    for recipe in recipes:
        yield f"- `{recipe.env}`: `{recipe.about['command']}`"
        yield from (f"  - {line}" for line in recipe.about["scores"])
    yield ""


def _costs(project: Path, recipe: Recipe) -> tuple[str, str]:
    """Return what the training costs online and cached; nothing where nobody can plan it yet."""
    clips, images = (int(recipe.about.get(name, recipe.shared.get(name, 0))) for name in ("clips", "images"))
    if not clips:
        return "", ""
    plans = plan_project(project, recipe.env, "", Counts(clips, images), HARDWARE)
    plan = plans.stage1 or plans.stage2
    assert plan is not None
    return _cost(plan.online), f"{_cost(plan.cached)}, stores of {plan.store_bytes / 1e12:.3g} TB"


def _cost(mode: Mode) -> str:
    return f"{mode.device_hours:.3g} device-hours, {mode.hours:.3g} hours"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
