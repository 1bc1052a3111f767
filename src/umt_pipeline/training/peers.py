"""The processes that train together, as one of them sees them: what they agree on beside the training, on the CPU."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from umt_pipeline.core.errors import TrainingError, UmtError
from umt_pipeline.training.device import rank_and_world

T = TypeVar("T")

# How gloo, NCCL and the store begin their complaints; gloo's are plain RuntimeErrors.
_LOST = re.compile(r"gloo|NCCL|closed by peer|[Tt]imed out|[Cc]onnection (reset|refused|closed)|Broken pipe")


class Peers:
    """Talk among all processes of ``torch.distributed``, over a group of its own that never waits for a device.

    Every process makes one, and calls the same methods in the same order.

    Args:
        timeout: seconds after which a process that does not answer is given up.
    """

    def __init__(self, timeout: float) -> None:
        self.rank, self.world = rank_and_world()
        self._group: dist.ProcessGroup | None = None
        if self.world > 1:
            group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
            assert isinstance(group, dist.ProcessGroup)  # all processes are in it
            self._group = group
        self._vote: tuple[Any, Tensor] | None = None

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self._group)
        return values

    def decided_by_first(self, decide: Callable[[], T]) -> T:
        """Return, in every process, what ``decide`` returns in the first; an error is raised in every process too."""
        if self._group is None:
            return decide()
        box: list[Any] = [None, None]
        failure: Exception | None = None
        if self.rank == 0:
            try:
                box[0] = decide()
            except Exception as error:  # raised below, once the others know
                failure = error
                box[1] = error if isinstance(error, UmtError) else TrainingError(f"process 0 failed: {error!r}")
        dist.broadcast_object_list(box, 0, group=self._group)
        if box[1] is not None:
            raise failure or box[1]
        decided: T = box[0]
        return decided

    def agree_to_stop(self, wish: bool) -> bool:
        """Whether any process wished to stop when this was called the last time; called by each once per step.

        The votes of a step travel while the next one is computed, so that nobody waits for them; all processes read the same
        outcome at the same step. A process by itself is heard at once.
        """
        if self._group is None:
            return wish
        outcome = self._outcome()
        ballot = torch.tensor(int(wish))
        self._vote = dist.all_reduce(ballot, dist.ReduceOp.MAX, group=self._group, async_op=True), ballot
        return outcome

    def _outcome(self) -> bool:
        if self._vote is None:
            return False
        work, ballot = self._vote
        self._vote = None
        work.wait()
        return bool(ballot)

    def meet(self) -> None:
        """Wait until all processes are here."""
        if self._group is not None:
            self._outcome()
            dist.barrier(group=self._group)


@contextmanager
def lost_peers_named(rank: int, world: int, host: str, timeout: float) -> Iterator[None]:
    """Say in plain words that another process is gone, where gloo or NCCL name sockets.

    Raises:
        TrainingError: the block ended because another process did not answer.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not _LOST.search(str(error)):
            raise
        raise TrainingError(
            f"process {rank} of {world} on {host} lost the others: one ended, its machine or the network between them is gone, "
            f"or it did not answer within `timeout: {timeout:g}` seconds. Its own log says why, if it could. Started again, "
            f"the run goes on from its newest checkpoint. What was seen here: {str(error).strip().splitlines()[0]}"
        ) from error
