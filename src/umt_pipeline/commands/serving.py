"""What `umt serve` does: takes the port, gets models and indexes ready, and answers until it is told to end."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from umt_pipeline.commands.clean_tables import clean_tables
from umt_pipeline.commands.corpus import existing_corpus
from umt_pipeline.commands.terminal import project_folder
from umt_pipeline.core.caches import cache_folder
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.project_config import catalog_path, config_loader
from umt_pipeline.registry.names import own_corpus
from umt_pipeline.server.app import make_serving
from umt_pipeline.server.building import Content
from umt_pipeline.server.corpora import CorpusOffer
from umt_pipeline.server.known import write_known_clip
from umt_pipeline.server.offers import Shop, pairs
from umt_pipeline.server.own_folder import OwnFolder
from umt_pipeline.server.running import Address, bound, end_now, run
from umt_pipeline.server.shelf import Served
from umt_pipeline.server.watching import Look, Watcher
from umt_pipeline.serving.embedding.gathering import Asked as Gather


@dataclass(frozen=True)
class Asked:
    """The arguments of `umt serve`.

    Attributes:
        corpus: name; None: the demo.
        indexes: folders, in place of a corpus.
        models: where they come from.
        host: to listen at.
        port: likewise.
        token: that requests have to bring, if any.
        every_s: seconds from one look for newer things to the next.
        update: bring the indexes of a corpus up to date first.
    """

    corpus: str | None
    indexes: tuple[Path, ...]
    models: tuple[str, ...]
    host: str
    port: int
    token: str | None
    every_s: float
    update: bool


def serve_until_told(asked: Asked) -> None:
    """Serve.

    Raises:
        ConfigError: the port is taken, or arguments do not go together.
        UmtError: a model or an index cannot be had.
    """
    console = Console(soft_wrap=True, highlight=False)
    _log_to_stderr()
    address = Address(asked.host, asked.port, asked.token).with_token()
    with ExitStack() as stack:
        taken = stack.enter_context(bound(address))
        folder = stack.enter_context(OwnFolder("umt-serve-"))
        clip = folder / "known.mp4"
        write_known_clip(clip)
        served, looks = _offered(asked, Shop(clip))
        serving = make_serving(served, cache_folder("served"), uploads=folder)
        stack.enter_context(Watcher(serving, looks, asked.every_s))
        run(serving, address, taken, lambda url: console.print(f"The search page: {url}", markup=False))
    end_now()


def _offered(asked: Asked, shop: Shop) -> tuple[list[Served], list[Look]]:
    """Return what to serve, and what to look for while it is."""
    if asked.indexes:
        if asked.corpus is not None or asked.update:
            raise ConfigError("expected either a corpus or --index, found both; --update is for a corpus (`umt index` else)")
        found: list[Served] = []
        for index, source in pairs(asked.indexes, asked.models):
            found.append(shop.of_index(index, source, [one.name for one in found]))
        return found, []
    project, corpus = project_folder(), own_corpus(asked.corpus)
    if corpus is not None:
        existing_corpus(project, corpus)
    offer = CorpusOffer(project, corpus, shop, lambda: _content(project, corpus), asked.update)
    return offer.served(asked.models)


def _content(project: Path, corpus: str | None) -> Content:
    env = corpus or "base"
    known, captions = clean_tables(project, env)
    folder = catalog_path(project, config_loader(project, env), "raw_media")
    return Content(Gather(folder, known=known), captions)


def _log_to_stderr() -> None:
    # In place of Kedro's, which writes tables for pipelines to standard output.
    form = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, datefmt="%H:%M:%S", stream=sys.stderr, force=True)
    for talkative in ("uvicorn.error", "httpx", "asyncio"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
