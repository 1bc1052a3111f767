"""What is served: models by where they come from, each with its index."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import umt_pipeline as umt
from umt_pipeline.compute.names import AskedPrecision
from umt_pipeline.core.errors import ConfigError, IndexingError
from umt_pipeline.server.known import Known
from umt_pipeline.server.shelf import Served, name_for, open_index
from umt_pipeline.serving.index.reading import Index
from umt_pipeline.serving.models import Model

logger = logging.getLogger(__name__)


def pairs(indexes: Sequence[Path], models: Sequence[str]) -> list[tuple[Path, str | None]]:
    """Return each index with its model, or None where the index says which.

    Raises:
        ConfigError: there are neither as many models as indexes nor none.
    """
    if models and len(models) != len(indexes):
        raise ConfigError(
            f"expected a --model for each --index, or none at all (an index says what it was made with), found {len(indexes)} "
            f"of --index and {len(models)} of --model"
        )
    return [(index, models[number] if models else None) for number, index in enumerate(indexes)]


@dataclass(frozen=True)
class Shop:
    """Gets models ready.

    Attributes:
        clip: file of the known clip.
    """

    clip: Path

    def load(self, source: str, precision: str = "auto") -> Model:
        """Load a model.

        Args:
            source: where it comes from.
            precision: what it runs in; of an index that of its vectors, for ``auto`` may take another one now than it did then.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        logger.info("loading %s", source)
        chosen: dict[str, AskedPrecision] = {"fp32": "fp32", "bf16": "bf16"}
        return umt.load(source, chosen.get(precision, "auto"))

    def of_index(self, folder: Path, source: str | None, taken: Sequence[str]) -> Served:
        """Return an index of any folder with its model.

        Args:
            folder: of the index.
            source: of the model; None: what the index says.
            taken: names that others have.

        Raises:
            IndexingError: there is no whole index, or it is of another model.
        """
        index = open_index(folder)
        source = source or index.model.source
        indexed = index.facts.get("folder")
        root = None if indexed is None else Path(str(indexed))
        return self.served(name_for(source, taken), self.load(source, index.model.precision), index, root=root)

    def served(self, name: str, model: Model, index: Index | None, champion: bool = False, root: Path | None = None) -> Served:
        """Put a model and an index together; the model is asked for the first time.

        Raises:
            IndexingError: the index is of another model.
        """
        if index is not None:
            if model.embedder is None:
                raise IndexingError(f"{index.folder}: expected a model that embeds videos, found {model.source} ({model.kind})")
            index.require_model(model.embedder.key, str(model.source))
        return Served(name, model, index, Known.of(model, self.clip), champion, root)
