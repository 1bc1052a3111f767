"""What `umt serve` does: takes the port, gets models and indexes ready, and answers until it is told to end."""

from __future__ import annotations

import logging
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from umt_pipeline.core.caches import cache_folder
from umt_pipeline.server.app import make_serving
from umt_pipeline.server.known import write_known_clip
from umt_pipeline.server.offers import Shop, pairs
from umt_pipeline.server.running import Address, bound, run
from umt_pipeline.server.shelf import Served
from umt_pipeline.server.watching import Watcher


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
    """

    corpus: str | None
    indexes: tuple[Path, ...]
    models: tuple[str, ...]
    host: str
    port: int
    token: str | None
    every_s: float


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
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="umt-serve-")))
        clip = folder / "known.mp4"
        write_known_clip(clip)
        shop = Shop(clip)
        served: list[Served] = []
        for index, source in pairs(asked.indexes, asked.models):
            served.append(shop.of_index(index, source, [one.name for one in served]))
        serving = make_serving(served, cache_folder("served"))
        stack.enter_context(Watcher(serving, [], asked.every_s))
        run(serving, address, taken, lambda url: console.print(f"The search page: {url}", markup=False))


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    for talkative in ("uvicorn.error", "httpx", "asyncio"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
