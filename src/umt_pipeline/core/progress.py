"""How far long work is: a bar on a terminal, lines in the log where there is none (CI, DVC, a batch system)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

logger = logging.getLogger(__name__)

# Often enough to see that something moves, seldom enough for a log of a day.
SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def progress(title: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
    """Show progress while the block runs.

    Args:
        title: what is done.
        total: how many units there are.
        unit: what they are, in the singular.

    Yields:
        A function to be called with the number of units that are done by now, and what else is to be said, if anything. What
        the first call reports may have been done before: speed and time left are counted from there.
    """
    first: tuple[float, int] | None = None
    said = time.perf_counter()
    # disable=None: nothing is drawn where no terminal is attached.
    with tqdm(total=total, desc=title, unit=unit, disable=None, leave=False) as bar:

        def show(done: int, more: str = "") -> None:
            nonlocal first, said
            now = time.perf_counter()
            first = first or (now, done)
            if not bar.disable:
                bar.set_postfix_str(more, refresh=False)
                bar.update(done - bar.n)
            elif now - said >= SECONDS_BETWEEN_LINES and now > first[0] and first[1] < done < total:
                said, pace = now, (done - first[1]) / (now - first[0])
                text = "%s: %d of %d %ss (%.0f%%), %.1f %ss/s, %sleft %s"
                left = clock((total - done) / pace)
                more = f"{more}, " if more else ""
                logger.info(text, title, done, total, unit, 100 * done / total, pace, unit, more, left)

        yield show


def clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds: ``1:02:03``, ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
