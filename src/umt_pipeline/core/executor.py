"""What offline work asks of whoever spreads it over other machines. Who that is, the library does not know."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Needs:
    """What a worker needs, and what it must have in common with this process.

    Attributes:
        shared: files and folders that each worker must find under the same paths. What this process cannot read either is not
            asked of them.
        code: modules, by their names within the package, that must do on each worker what they do here.
        packages: that must be of the same versions on each worker.
        gpu: a worker takes a GPU, and its share of the machine's cores, where there are any.
        per_machine: workers that share the cores of a machine where they take no GPU; None: one per core.
        workers: at most so many; None: as many as there is room for.
        at_once: items that a worker may take at once, so that their results come together: a loss is larger, and less is
            spent on handing out.
    """

    shared: tuple[Path, ...]
    code: tuple[str, ...]
    packages: tuple[str, ...]
    gpu: bool = False
    per_machine: int | None = None
    workers: int | None = None
    at_once: int = 1


class Executor(Protocol):
    """Does one piece of work for many items, in processes that may be on other machines."""

    def map(
        self, start: Callable[[int], Callable[[Item], Result]], items: Sequence[Item], needs: Needs
    ) -> Generator[tuple[int, Result], None, None]:
        """Do the work for each item.

        An item whose worker died is done again, so the work must be such that twice is the same as once.

        Args:
            start: called once in each worker, with the number of cores that it may use; what it returns is called with items,
                one after the other. It, the items and the results are pickled.
            items: what there is to do.
            needs: of a worker.

        Yields:
            The place of an item in ``items`` and its result, as they come.

        Raises:
            ConfigError: a worker lacks what it needs: a path, the same code, room.
            Exception: what the work itself raised, first of all.
        """
        ...
