"""What changes while the server runs: a newer generation of an index, another champion. Both are taken over as they come."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from umt_pipeline.core.errors import UmtError
from umt_pipeline.server.shelf import Served, open_index
from umt_pipeline.server.state import Serving
from umt_pipeline.serving.index.layout import read_manifest, read_pointer

logger = logging.getLogger(__name__)

Look = Callable[[], Served | None]
"""Looks whether something else is to be served under a name, and returns it, ready; None: all is as it was."""


class Watcher:
    """Looks around in a thread of its own, until it is closed. What cannot be looked at stays as it is, and that is said once.

    Args:
        serving: whose models and indexes are exchanged.
        looks: beside looking for newer generations of the indexes that are served.
        every_s: seconds from one look to the next.
    """

    def __init__(self, serving: Serving, looks: Sequence[Look], every_s: float) -> None:
        self._serving, self._looks, self._every_s = serving, looks, every_s
        self._said: set[str] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Not waited for: it may be in the middle of asking a registry that does not answer.
        self._ended.set()

    def look(self) -> None:
        """Look once."""
        newer: list[Look] = [partial(self._newer, served.name) for served in self._serving.shelf.all]
        for look in [*self._looks, *newer]:
            try:
                found = look()
                if found is not None and not self._ended.is_set():
                    self._exchange(found)
            except UmtError as error:
                self._say_once(str(error))
            except Exception as error:
                # A defect of ours, or of the disk: what is served goes on, the other looks are taken, and the log has it.
                if not self._ended.is_set():
                    self._say_once(f"looking for newer models and indexes failed: {error!r}", error)

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            self.look()

    def _newer(self, name: str) -> Served | None:
        served = self._serving.shelf.now(name)  # another model may have taken its place in this very look
        if served.index is None or not served.index.changed():
            return None
        folder, embedder = served.index.folder, served.embedder
        # Before it is opened, which reads all of it.
        if (pointer := read_pointer(folder)) is None or (found := read_manifest(folder, pointer)).model.key == embedder.key:
            return replace(served, index=open_index(folder))
        self._say_once(
            f"{folder}: generation {found.generation} is of another model, {found.model.source}; generation "
            f"{served.index.generation} is served on. Start the server again to search with the other model."
        )
        return None

    def _exchange(self, found: Served) -> None:
        # Where searches are done, so that none is in the middle of what goes.
        self._serving.thread.hand(lambda: self._serving.shelf.put(found)).result()
        generation = f", generation {found.index.generation} of its index" if found.index else ""
        logger.info("serving %s now: %s%s", found.name, found.model.source, generation)

    def _say_once(self, text: str, defect: Exception | None = None) -> None:
        if text not in self._said:
            self._said.add(text)
            logger.warning("%s", text, exc_info=defect)
