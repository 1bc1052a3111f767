"""What changes while the server runs: a newer generation of an index, another champion. Both are taken over as they come."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from umt_pipeline.core.errors import IndexingError, UmtError
from umt_pipeline.server.retrying import Retrying
from umt_pipeline.server.shelf import Served, open_index
from umt_pipeline.server.state import Serving
from umt_pipeline.serving.index.layout import Pointer, read_manifest, read_pointer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """Looks whether something else is to be served under a name.

    Attributes:
        name: what is served has.
        what: may be another one: the model, the index.
        find: returns what is to be served, ready; None: all is as it was.
    """

    name: str
    what: str
    find: Callable[[], Served | None]


class BehindError(UmtError):
    """Something newer is there and cannot be served; what was served is served on."""


@contextmanager
def behind(newer: str) -> Iterator[None]:
    """Let whatever fails in the block be said of something newer.

    Args:
        newer: what is there, as the begin of a sentence.

    Raises:
        BehindError: the block failed.
    """
    try:
        yield
    except Exception as error:
        # Of a defect, the words are for the log.
        why = str(error) if isinstance(error, UmtError | OSError) else f"{type(error).__name__}; the server's log says more"
        raise BehindError(f"{newer}, and is not served: {why}") from error


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
        self._retrying: dict[str, Retrying] = defaultdict(Retrying)
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
        names = [served.name for served in self._serving.shelf.all]
        for look in [*self._looks, *(Look(name, "index", partial(self._newer, name)) for name in names)]:
            try:
                found = look.find()
                if found is not None and not self._ended.is_set():
                    self._exchange(found)
                self._serving.shelf.tell_behind(look.name, look.what, None)
            except BehindError as error:
                self._serving.shelf.tell_behind(look.name, look.what, str(error))
                cause = error.__cause__
                self._say_once(f"{look.name}: {error}", None if isinstance(cause, UmtError) else cause)
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
        if (pointer := read_pointer(served.index.folder)) is None:
            return None
        with behind(f"generation {pointer.generation} of the index is there"):
            return self._retrying[name].attempt((served.embedder.key, pointer), lambda: _with_newer(served, pointer))

    def _exchange(self, found: Served) -> None:
        # Where searches are done, so that none is in the middle of what goes.
        self._serving.thread.hand(lambda: self._serving.shelf.put(found)).result()
        generation = f", generation {found.index.generation} of its index" if found.index else ""
        logger.info("serving %s now: %s%s", found.name, found.model.source, generation)

    def _say_once(self, text: str, defect: BaseException | None = None) -> None:
        if text not in self._said:
            self._said.add(text)
            logger.warning("%s", text, exc_info=defect)


def _with_newer(served: Served, pointer: Pointer) -> Served:
    assert served.index is not None, "only then there is a newer one"
    folder = served.index.folder
    # Before it is opened, which reads all of it.
    found = read_manifest(folder, pointer)
    if found.model.key != served.embedder.key:
        raise IndexingError(
            f"{folder}: generation {found.generation} is of another model, {found.model.source}; generation "
            f"{served.index.generation} is served on. To search with the other model, start the server again; to go on with "
            f"this one: `umt index FOLDER --model {served.model.source} --out {folder}`"
        )
    return replace(served, index=open_index(folder))
