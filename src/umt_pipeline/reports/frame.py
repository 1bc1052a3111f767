"""The frame of every page: its template, and how it shows parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
import yaml

from umt_pipeline.reports.examples import Example
from umt_pipeline.reports.figures import Curves, Picture
from umt_pipeline.reports.tables import Heading, Table

_BLOCKS = {"curves": Curves, "example": Example, "heading": Heading, "picture": Picture, "table": Table}


def render(template: str, **values: Any) -> str:
    """Fill a template of this package. All text is escaped; a value that is missing is an error."""
    folder = resources.files("umt_pipeline.reports").joinpath("templates")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.tests.update({name: lambda block, kind=kind: isinstance(block, kind) for name, kind in _BLOCKS.items()})
    return environment.get_template(template).render(**values)


def as_yaml(parameters: Mapping[str, Any] | None) -> str:
    """Return parameters as people write them; nothing for none."""
    if not parameters:
        return ""
    plain = json.loads(json.dumps(dict(parameters), default=str))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
