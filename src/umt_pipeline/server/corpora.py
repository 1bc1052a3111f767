"""What is served of a corpus: champions of the registry, else the models that were trained last, with indexes of its videos."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import umt_pipeline as umt
from umt_pipeline.compute.names import Precision
from umt_pipeline.compute.precision import resolve_precision
from umt_pipeline.core.errors import CheckpointError, ConfigError, RegistryError
from umt_pipeline.evaluation.workers import default_device
from umt_pipeline.models.folders import SKIPPED_FILE
from umt_pipeline.project_config import ProjectConfigLoader, catalog_path, config_loader
from umt_pipeline.registry.names import registered_name
from umt_pipeline.registry.reading import Version
from umt_pipeline.registry.serving_settings import serving_settings
from umt_pipeline.server.building import Content, build, build_beside
from umt_pipeline.server.champion import Champion
from umt_pipeline.server.offers import Shop
from umt_pipeline.server.retrying import Retrying
from umt_pipeline.server.shelf import Served, name_for, open_index
from umt_pipeline.server.watching import Look, behind
from umt_pipeline.serving.index.layout import read_pointer
from umt_pipeline.serving.loading import load_found
from umt_pipeline.serving.models import Model
from umt_pipeline.serving.sources import Found

logger = logging.getLogger(__name__)

SEARCHES = "stage2"
# What a corpus may have besides, each asked in its own way.
SAYS = ("classification", "question_answering")


@dataclass(frozen=True)
class CorpusOffer:
    """A corpus whose models are served.

    Args:
        project: the project's folder.
        corpus: its name; None: the demo.
        shop: gets models ready.
        content: what an index of it is made of, read when one is made.
        update: whether indexes that are there are brought up to date before they are served.
    """

    project: Path
    corpus: str | None
    shop: Shop
    content: Callable[[], Content]
    update: bool = False

    @cached_property
    def loader(self) -> ProjectConfigLoader:
        """The corpus' configuration."""
        return config_loader(self.project, self.corpus)

    @cached_property
    def media(self) -> Path:
        """Folder of its videos and images."""
        return catalog_path(self.project, self.loader, "raw_media").resolve()

    def index_folder(self, model: Model) -> Path:
        """Return where the index of a model is: of each model another, so that a champion that comes back finds its own."""
        assert model.embedder is not None
        return self.project / str(self.loader["globals"]["data"]) / "09_index" / model.embedder.key[:16]

    def champion(self, kind: str) -> Champion:
        """Return what knows the champion of a kind of model."""
        note = catalog_path(self.project, self.loader, "workspace") / "serving" / f"champion_{kind}.json"
        return Champion(self.project, self.corpus, kind, note)

    def served(self, sources: Sequence[str]) -> tuple[list[Served], list[Look]]:
        """Return what to serve, ready, and what to look for while it is.

        Args:
            sources: of models, in place of the corpus' own.

        Raises:
            ConfigError: there is no model to search with.
            UmtError: a model or its index cannot be had.
        """
        if sources:
            found: list[Served] = []
            for source in sources:
                found.append(self._ready(name_for(source, [one.name for one in found]), self.shop.load(source)))
            return found, []
        looks = []
        found = []
        for kind in (SEARCHES, *SAYS):
            try:
                one, version = self._own(kind)
            except (CheckpointError, RegistryError) as error:
                if kind == SEARCHES:
                    folder = catalog_path(self.project, self.loader, f"{kind}_model")
                    raise type(error)(f"{error}\nTo search with another model, name it: umt serve --model {folder}") from error
                logger.warning("%s is not served: %s", registered_name(self.corpus, kind), error)
                continue
            if one is not None:
                found.append(one)
                looks.append(Look(one.name, "model", _Follow(self, kind, version.version if version else None).look))
        return found, looks

    def _own(self, kind: str) -> tuple[Served | None, Version | None]:
        name, champion = registered_name(self.corpus, kind), self.champion(kind).now()
        if champion is not None:
            version, files = champion
            return self._ready(name, self.load_version(files), champion=True), version
        folder = catalog_path(self.project, self.loader, f"{kind}_model")
        if not folder.is_dir() or (folder / SKIPPED_FILE).is_file():
            if kind == SEARCHES:
                raise ConfigError(
                    f"{folder}: expected a model to search with, found none, and the registry has no champion of {name}. Train "
                    "one (`dvc repro`), fetch it (`dvc pull`), or give one by --model"
                )
            return None, None
        options: Any = serving_settings(kind, self.project, self.loader).model_dump(mode="json") if kind in SAYS else {}
        return self._ready(name, umt.load(folder, **options)), None

    def load_version(self, files: Found) -> Model:
        """Load a registered version."""
        logger.info("loading %s", files.source)
        assert files.settings is not None, "a version has them"
        return load_found(files, files.settings)

    def _ready(self, name: str, model: Model, champion: bool = False) -> Served:
        model, index = self._as_indexed(model), None
        if model.embedder is not None:
            folder = self.index_folder(model)
            if self.update or read_pointer(folder) is None:
                build(self.content(), model, folder)
            index = open_index(folder)
        return self.shop.served(name, model, index, champion, self.media)

    def _as_indexed(self, model: Model) -> Model:
        """Return a model in the precision of the index of its weights that is there: ``auto`` may choose another one today."""
        if model.embedder is None or read_pointer(self.index_folder(model)) is not None:
            return model
        encoder, others = model.embedder.encoder, set(get_args(Precision)) - {model.embedder.encoder.precision}
        for precision in others:
            # Each kind of encoder is a dataclass with a precision; that it is one is no part of what they have in common.
            other: Any = replace(encoder, precision=precision)  # type: ignore[type-var]
            found = replace(model, embedder=replace(model.embedder, encoder=other))
            is_had = resolve_precision(precision, default_device()) == precision
            if is_had and read_pointer(folder := self.index_folder(found)) is not None:
                logger.info("%s: in %s, as there is an index of it: %s", model.source, precision, folder)
                return found
        return model

    def exchanged(self, name: str, files: Found) -> Served:
        """Return a registered version that takes the place of what is served, with its index."""
        model, index = self._as_indexed(self.load_version(files)), None
        if model.embedder is not None:
            folder = self.index_folder(model)
            if read_pointer(folder) is None:
                build_beside(self.content(), files, model, folder)
            index = open_index(folder)
        return self.shop.served(name, model, index, True, self.media)


class _Follow:
    """Looks whether a corpus has another champion.

    Args:
        offer: the corpus.
        kind: of the model.
        version: that is served; None: no champion is.
    """

    def __init__(self, offer: CorpusOffer, kind: str, version: str | None) -> None:
        self._offer, self._kind, self._version = offer, kind, version
        self._champion = offer.champion(kind)
        self._retrying = Retrying()

    def look(self) -> Served | None:
        """Return the new champion, ready; None: it is the one that is served.

        Raises:
            BehindError: it cannot be made ready; that is tried again, more and more seldom.
        """
        version = self._champion.look()
        if version is None or version.version == self._version:
            return None
        name = registered_name(self._offer.corpus, self._kind)

        def ready() -> Served:
            logger.info("%s version %s is the champion now: getting it ready", name, version.version)
            return self._offer.exchanged(name, self._champion.files(version))

        with behind(f"version {version.version} is the champion"):
            served = self._retrying.attempt(version.version, ready)
        self._version = version.version
        return served
