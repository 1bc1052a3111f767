"""The models that a retraining is about: those that a stage made anew, or whose answers one measured anew."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from umt_pipeline.project_config import config_loader
from umt_pipeline.registry.candidates import Candidate, marked_models


@dataclass(frozen=True)
class Touched:
    """A model whose lock entry, or that of its evaluation, is another one than before.

    Attributes:
        candidate: the model, its evidence and its records.
        gated: there are parameters of a gate for models of this kind.
    """

    candidate: Candidate
    gated: bool

    def is_left_out(self) -> bool:
        """Whether there is nothing to register: the pipeline has said why it made no model, or nothing of it was measured."""
        return self.candidate.skipped is not None or not self.candidate.is_judged


def touched_models(project: Path, corpus: str | None, stages: Collection[str], changed: Collection[str]) -> list[Touched]:
    """Return the models that are touched by stages, in the order of the pipelines.

    Args:
        project: the project's folder.
        corpus: its name; None: the demo.
        stages: of its dvc.yaml.
        changed: those of them whose lock entries changed.
    """
    loader = config_loader(project, corpus or "base")
    gates = loader["parameters"].get("gate", {})
    marked = marked_models(project, corpus, loader)
    touched = [one for one in marked if set(one.stages) <= set(stages) and set(one.stages) & set(changed)]
    return [Touched(candidate, candidate.kind in gates) for candidate in touched]
