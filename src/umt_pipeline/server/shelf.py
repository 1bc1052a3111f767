"""The models that are served, each with its index; both can be exchanged while requests come."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from umt_pipeline.server.documents import IndexDocument, ModelDocument
from umt_pipeline.server.known import Known
from umt_pipeline.server.limits import RefusedError
from umt_pipeline.server.media import IndexedFile
from umt_pipeline.server.metrics import Metrics
from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.serving.index.reading import Index
from umt_pipeline.serving.models import Model

logger = logging.getLogger(__name__)

# What an edition of an index looks like.
EDITION = "^[0-9a-f]{16}$"


@dataclass(frozen=True)
class Place:
    """A window of an index.

    Attributes:
        number: of the window.
        file: that it is in.
        media: ``video`` or ``image``.
        start_s: first second.
        end_s: last second, not included.
    """

    number: int
    file: IndexedFile
    media: str
    start_s: float
    end_s: float

    @property
    def span(self) -> tuple[float, float] | None:
        """Its seconds; None: all of the file, as of an image, which has no time."""
        return (self.start_s, self.end_s) if self.media == "video" and self.end_s > self.start_s else None


@dataclass(frozen=True)
class Served:
    """A model in use.

    Attributes:
        name: in addresses.
        model: loaded.
        index: of its vectors; None: it does not search.
        known: what it said when it was loaded.
        champion: whether the registry calls it that.
        root: folder that paths are shown relative to; None: they are shown whole.
    """

    name: str
    model: Model
    index: Index | None
    known: Known
    champion: bool = False
    root: Path | None = None

    @cached_property
    def files(self) -> Mapping[str, IndexedFile]:
        """The files of the index by their ids."""
        if self.index is None:
            return {}
        table = self.index.files
        return {
            str(file_id): IndexedFile(str(file_id), Path(path))
            for file_id, path in zip(table["file_id"], table["path"], strict=True)
        }

    @property
    def embedder(self) -> Embedder:
        """What embeds.

        Raises:
            RefusedError: 422: the model does not.
        """
        if self.model.embedder is None:
            raise RefusedError(422, f"model {self.name!r}, of kind {self.model.kind!r}, embeds no videos: choose another model")
        return self.model.embedder

    def searched(self) -> Index:
        """Return the index.

        Raises:
            RefusedError: 422: the model has none.
        """
        if self.index is None:
            raise RefusedError(422, f"model {self.name!r} has no index to search: choose another model")
        return self.index

    def place(self, window: int, edition: str | None = None) -> Place:
        """Return a window by its number.

        Args:
            window: its number.
            edition: of the index that the number is of; None: the one that is served.

        Raises:
            RefusedError: 404: there is no such window; 409: the number is of another edition.
        """
        index = self.searched()
        if edition is not None and edition != index.edition:
            found = f"expected a window of its edition {index.edition}, found one of {edition}"
            raise RefusedError(409, f"another index is served now than when window {window} was found ({found}): search again")
        if not 0 <= window < len(index.windows):
            raise RefusedError(404, f"window {window}: expected one of {len(index.windows)}, from 0; search again")
        row = index.windows.iloc[window]
        file = index.files.iloc[int(row["file"])]
        indexed = self.files[str(file["file_id"])]
        return Place(window, indexed, str(file["media"]), float(row["start_s"]), float(row["end_s"]))

    def document(self, behind: Iterable[str] = ()) -> ModelDocument:
        """Return what the page is told; ``behind``: why something newer is not served."""
        model, index, told = self.model, self.index, None
        if index is not None:
            labels, splits = (sorted(map(str, index.files[name].dropna().unique())) for name in ("label", "split"))
            counts = {"files": len(index.files), "windows": len(index.windows)}
            told = IndexDocument(generation=index.generation, edition=index.edition, labels=labels, splits=splits, **counts)
        return ModelDocument(
            name=self.name,
            kind=model.kind,
            source=str(model.source),
            key=model.embedder.key if model.embedder else "",
            champion=self.champion,
            abilities=sorted(model.abilities),
            behind=list(behind),
            index=told,
        )


class Shelf:
    """The models in use, by name; the first is taken where none is named.

    Args:
        served: in order.
        metrics: are told of generations and exchanges.
    """

    def __init__(self, served: Iterable[Served], metrics: Metrics) -> None:
        self._metrics = metrics
        self._served = {one.name: one for one in served}
        self._behind: dict[str, dict[str, str]] = {name: {} for name in self._served}
        for one in self._served.values():
            self._tell(one)
            self.tell_behind(one.name, "", None)

    @property
    def all(self) -> list[Served]:
        """All of them."""
        return list(self._served.values())

    @property
    def documents(self) -> list[ModelDocument]:
        """What the page is told of all of them."""
        return [one.document(self._behind[one.name].values()) for one in self.all]

    def tell_behind(self, name: str, what: str, why: str | None) -> None:
        """Note why something newer is not served under a name.

        Args:
            name: of a model.
            what: there may be newer: a model, an index.
            why: it cannot be served; None: nothing newer is there.
        """
        kept = {key: value for key, value in self._behind[name].items() if key != what}
        self._behind[name] = kept if why is None else {**kept, what: why}
        self._metrics.behind.labels(name).set(bool(self._behind[name]))

    def get(self, name: str | None, ability: str | None = None) -> Served:
        """Return a model.

        Args:
            name: of it; None: the first that has the ability.
            ability: that it has to have; None: an index.

        Raises:
            RefusedError: 404: there is none of this name; 422: it has not the ability.
        """
        if name is not None and name not in self._served:
            raise RefusedError(404, f"model {name[:100]!r}: expected one of {', '.join(self._served)}")
        for one in [self._served[name]] if name is not None else self.all:
            if one.index is not None if ability is None else ability in one.model.abilities:
                return one
        wanted = "has an index (`umt index` makes one)" if ability is None else f"is able to {ability}"
        raise RefusedError(422, f"{f'model {name!r}' if name else 'the models that are served'}: expected one that {wanted}")

    def now(self, name: str) -> Served:
        """Return what is served now under a name that was served before."""
        return self._served[name]

    def file(self, file_id: str) -> IndexedFile:
        """Return a file by the hash of its content.

        Raises:
            RefusedError: 404: no index has it.
        """
        for one in self.all:
            if (found := one.files.get(file_id)) is not None:
                return found
        raise RefusedError(404, f"file {file_id[:12]}…: it is in none of the indexes that are served")

    def put(self, served: Served) -> None:
        """Exchange a model or its index; to be called where searches are done, so that none is under way."""
        before = self._served.get(served.name)
        assert before is not None, "what is served is decided at the start"
        self._served = {**self._served, served.name: served}
        self._tell(served)
        self._metrics.swaps.labels(served.name).inc()
        if before.index is not None and before.index is not served.index:
            before.index.close()

    def _tell(self, served: Served) -> None:
        if served.index is not None:
            self._metrics.generation.labels(served.name).set(served.index.generation)
            self._metrics.windows.labels(served.name).set(len(served.index.windows))


def open_index(folder: Path) -> Index:
    """Open an index and read its tables, which several threads ask for, also when another one has taken its place.

    Raises:
        IndexingError: there is none, or it is damaged.
    """
    index = Index.open(folder)
    told = "%s: generation %d, %d windows of %d files"
    logger.info(told, folder, index.generation, len(index.windows), len(index.files))
    return index


def name_for(source: str, taken: Iterable[str]) -> str:
    """Return a name for a model that fits into an address: the end of where it comes from, and a number if that is taken.

    Args:
        source: a folder, or an address such as ``open_clip:ViT-B-32/laion2b_s34b_b79k``.
        taken: names that others have.
    """
    kind, _, rest = source.partition(":")
    text = rest if kind in ("open_clip", "models") else Path(source).name
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "model"
    name, number, taken = base, 1, set(taken)
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name
