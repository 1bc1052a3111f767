"""A run as it goes on: what is told to MLflow while nodes work, and what happens when nobody listens."""

from __future__ import annotations

import atexit
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from umt_pipeline.tracking.finished import Finished, Output, read_finished
from umt_pipeline.tracking.machine import Machine
from umt_pipeline.tracking.record import RunRecord, Status, keep, now_ms
from umt_pipeline.tracking.rows import Row, training_row
from umt_pipeline.tracking.sender import Sender
from umt_pipeline.tracking.target import Target, track_command

# All that a run ever waits for MLflow: at its end, for what is still on its way.
WAIT_S = 25.0
# The same of a run that was interrupted, by somebody who wants it to end.
WAIT_INTERRUPTED_S = 3.0
_MAX_WORDS = 300

_log = logging.getLogger(__name__)

_current: LiveRun | None = None


def metric_logger(series: str) -> Callable[[Mapping[str, Any]], None]:
    """Return a callback that sends a training loop's metric rows to MLflow.

    Args:
        series: name of the training, put before each metric's name, as in ``stage2/loss``.

    Returns:
        A function of one row: ``step`` and any number of values. Finite numbers are handed over, and sent in the background;
        everything else in the row is left out. It neither waits nor raises. Without a tracked run it does nothing.
    """
    run = _current
    return (lambda row: None) if run is None else (lambda row: run.put(training_row(series, row, now_ms())))


class LiveRun:
    """A run that is tracked. Nothing but :meth:`end` waits, at most :data:`WAIT_S`, and nothing raises.

    At the first failure there is one warning; from then on nothing is sent until the end, when one more try is made to send
    what the finished files say. The record that is kept in the workspace lets ``umt track`` do the same later.

    Args:
        target: where it is tracked.
        record: what is known at its start.
        workspace: folder for the record; None: there is none.
    """

    def __init__(self, target: Target, record: RunRecord, workspace: Path | None) -> None:
        # Imported here: commands that track nothing need no mlflow.
        from umt_pipeline.tracking.server import Server

        self._connect = lambda: Server(target.uri, target.experiment)
        self._target, self._record, self._workspace = target, record, workspace
        self._sent: set[tuple[str, int]] = set()
        self._has_warned = False
        self._keep()
        self._sender = Sender(self._send_rows, self._failed)
        self._sender.put(self._create)
        self._machine = Machine(self.put) if target.tracking.system_metrics else None
        atexit.register(self._interrupted)

    def put(self, row: Row) -> None:
        """Hand over a row of metrics."""
        self._sender.put(row)

    def end(self, status: Status, outputs: Mapping[str, Sequence[Output]], made: Mapping[str, str]) -> None:
        """End the run.

        Args:
            status: how it ended.
            outputs: of pipelines that ended well, by their names; of those of which a part ran, by "".
            made: tags of data and models that it made.
        """
        until = time.monotonic() + WAIT_S
        atexit.unregister(self._interrupted)
        if self._machine is not None:
            self._machine.stop()
        finished: dict[str, Finished] = {}
        self._record = self._record.ended(status, made)
        try:
            began_ms, ended_ms = self._record.began_ms, self._record.ended_ms or self._record.began_ms
            finished = {name: read_finished(files, began_ms, ended_ms) for name, files in outputs.items()}
            self._record = self._record.complete({name: entry.digest for name, entry in finished.items()})
        except Exception as error:  # what is wrong with tracking is no reason for a run to fail
            self._failed(error)
        self._keep()
        self._sender.put(lambda: self._send_end(finished))
        if not self._sender.drain(until - time.monotonic()) and finished and not self._sender.is_stuck:
            self._try_again(finished, until)

    # --- in the sender's thread -------------------------------------------------------------------------------------------
    def _create(self) -> None:
        self._server = self._connect()
        self._run_id = self._server.create(self._record)
        _log.info("%s is run %s of MLflow (%s)", self._record.name, self._run_id, self._target.uri)

    def _send_rows(self, rows: Sequence[Row]) -> None:
        self._server.log_rows(self._run_id, rows)
        self._sent.update((row.series, row.step) for row in rows)

    def _send_end(self, finished: Mapping[str, Finished]) -> None:
        for entry in finished.values():
            # Not sent yet: numbers of metrics files, and steps that an earlier process trained.
            self._server.log_rows(self._run_id, [row for row in entry.rows if (row.series, row.step) not in self._sent])
            self._server.log_files(self._run_id, entry.files)
        self._server.end(self._run_id, self._record)

    # --- when nobody listens ----------------------------------------------------------------------------------------------
    def _try_again(self, finished: Mapping[str, Finished], until: float) -> None:
        from umt_pipeline.tracking.replay import bring_up_to_date

        def replay() -> None:
            bring_up_to_date(self._connect(), self._record, finished)

        again = Sender(lambda rows: None, lambda error: _log.debug("MLflow still does not answer: %s", error))
        again.put(replay)
        if again.drain(until - time.monotonic()):
            _log.info("MLflow answers again: run %s has everything", self._record.name)

    def _failed(self, error: BaseException) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        words = " ".join(str(error).split()) or "no more is known"
        words = words if len(words) <= _MAX_WORDS else f"{words[:_MAX_WORDS]}..."
        _log.warning(
            "MLflow at %s cannot be told of this run: %s: %s. The run goes on without it, and its results are the same. When "
            "it has ended and MLflow answers again, `%s` sends what is missing.",
            self._target.uri, type(error).__name__, words, track_command(self._record.corpus),
        )  # fmt: skip

    def _keep(self) -> None:
        try:
            keep(self._record, self._workspace)
        except OSError as error:
            _log.info("no record of the run for `umt track`: %s", error)

    def _interrupted(self) -> None:
        if self._machine is not None:
            self._machine.stop()
        self._record = self._record.ended("KILLED", {})
        self._sender.put(lambda: self._send_end({}))
        self._sender.drain(WAIT_INTERRUPTED_S)


def begin(target: Target, record: RunRecord, workspace: Path | None) -> None:
    """Begin to track a run; one that was left open is ended."""
    global _current
    if _current is not None:
        end("KILLED", {}, {})
    _current = LiveRun(target, record, workspace)


def end(status: Status, outputs: Mapping[str, Sequence[Output]], made: Mapping[str, str]) -> None:
    """End the run that is tracked, if there is one; see :meth:`LiveRun.end`."""
    global _current
    run, _current = _current, None
    if run is not None:
        run.end(status, outputs, made)
