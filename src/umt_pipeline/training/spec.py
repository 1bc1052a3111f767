"""A run as data: a spec says everything that decides the trained weights, builds the task, and writes the model folder.

    class RowsSpec(RunSpec):
        table: Path

        def build(self) -> Task: return Regression(self.table)
        def inputs(self) -> dict[str, str]: return {"table": sha256_file(self.table)}
        def export(self, weights, folder, facts) -> None: save_model(folder, ...)

``training.launch.run`` trains it, in this process or as ranks, which read it from a file.
"""

from __future__ import annotations

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field
from torch import Tensor

from umt_pipeline import __version__
from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import read_json, write_json
from umt_pipeline.core.identity import Identity, code_key, settings_of
from umt_pipeline.training.device import agreed_precision, resolve_device
from umt_pipeline.training.task import Task, TrainConfig


class RunSpec(Config, ABC):
    """One training run.

    Every field is part of the run's identity but operational ones and paths; what a path leads to is, by :meth:`inputs`.

    Attributes:
        code: files outside the package that the run depends on, besides the one in which the class stands.
        train: the loop.
        seed: of weights, order, masks and dropout.
    """

    code: ClassVar[tuple[Path, ...]] = ()

    train: TrainConfig
    seed: int = Field(ge=0)

    @abstractmethod
    def build(self) -> Task:
        """Make the task; called under ``torch.manual_seed(seed)``, so that all ranks start from the same weights."""

    @abstractmethod
    def inputs(self) -> dict[str, str]:
        """Return hashes of the contents that fields only point to, by name."""

    @abstractmethod
    def export(self, weights: Mapping[str, Tensor], folder: Path, facts: Mapping[str, Any]) -> None:
        """Write what the run was for, usually a model folder.

        Args:
            weights: of the task's model, by name.
            folder: exists and is empty.
            facts: of the run, to be kept with the model.

        Raises:
            CheckpointError: the weights do not fit the model.
        """

    def resolved(self) -> Self:
        """Return this run in the precision that it takes on this device, which is part of its identity.

        All ranks of a process group call it together.
        """
        precision = agreed_precision(self.train.precision, resolve_device(self.train.device))
        return self.model_copy(update={"train": self.train.model_copy(update={"precision": precision})})

    def check_world(self, world: int) -> None:
        """Refuse a number of processes that this run cannot be trained on; ``train.nproc`` of one machine may be another.

        Raises:
            ConfigError: it cannot.
        """
        return

    def code_sources(self) -> tuple[Path | str, ...]:
        """Return the code that the trained weights depend on, as :func:`umt_pipeline.core.identity.code_key` takes it."""
        source = sys.modules[type(self).__module__].__file__
        assert source is not None
        return Path(source), *self.code, "training.loop"

    def identity(self) -> Identity:
        """Return all that the trained weights depend on (on one machine); of a run that is started :meth:`resolved`."""
        return Identity(settings_of(self), self.inputs(), code_key(*self.code_sources()))


def write_spec(path: Path, spec: RunSpec) -> None:
    """Write a spec where ranks can read it."""
    name = f"{type(spec).__module__}:{type(spec).__qualname__}"
    write_json(path, {"class": name, "version": __version__, "spec": spec.model_dump(mode="json")})


def read_spec(path: Path) -> RunSpec:
    """Read a spec.

    Raises:
        ConfigError: the file is missing, no spec, one of a class that is not there, or of another version.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: expected a run's spec, found nothing")
    document = read_json(path)
    try:
        module, _, name = document["class"].partition(":")
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: expected a spec of a class that can be imported: {error!r}") from error
    if not (isinstance(kind, type) and issubclass(kind, RunSpec)):
        raise ConfigError(f"{path}: {document['class']} is no RunSpec")
    try:
        return kind.model_validate(document["spec"])
    except ValueError as error:
        written = document.get("version", "an unknown one")
        raise ConfigError(
            f"{path}: not a {name} of this version of the code ({__version__}; it was written by {written}): {error}. Write it "
            "anew, with the code that is to train it"
        ) from error
