"""Registering: finished models become versions, each once, and what DVC has locked now gets the alias ``challenger``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Registered:
    """What :func:`register` did about a model.

    Attributes:
        name: of the registered model.
        version: its number.
        fresh: it is new; otherwise it was there, and what was missing of it was filled in.
    """

    name: str
    version: str
    fresh: bool


def register(project: Path, corpus: str | None, kinds: Sequence[str] | None = None) -> list[Registered]:
    """Register finished models; see docs/experiments.md, "The registry"."""
    raise NotImplementedError
