"""Bring a run of MLflow up to date with the finished files: what it lacks is sent, and nothing twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from umt_pipeline.tracking.finished import Finished
from umt_pipeline.tracking.record import RunRecord
from umt_pipeline.tracking.server import Server


@dataclass(frozen=True)
class Sent:
    """What was sent to a run.

    Attributes:
        run_id: of MLflow.
        fresh: the run was made.
        facts: how many tags, parameters, inputs of data and lists of dependencies, and that the run has ended.
        values: how many values of metrics.
        files: how many artifacts.
    """

    run_id: str
    fresh: bool
    facts: int
    values: int
    files: int

    @property
    def anything(self) -> bool:
        """Whether something was sent."""
        return self.fresh or bool(self.facts or self.values or self.files)


def bring_up_to_date(server: Server, record: RunRecord, finished: Mapping[str, Finished]) -> Sent:
    """Send what the run of a record lacks; the run is made if it is not there.

    Args:
        server: where it is tracked.
        record: of the run, which has ended.
        finished: the finished files by pipeline.

    Raises:
        Exception: one of :data:`umt_pipeline.tracking.server.SERVER_ERRORS`. What was sent by then stays; the next call goes
            on from there.
    """
    found = server.find_record(record)
    run_id = found or server.create(record)
    facts = server.describe(run_id, record) if found else len(record.params) + len(record.tags)
    rows = server.lacking(run_id, (row for entry in finished.values() for row in entry.rows))
    server.log_rows(run_id, rows)
    files = server.log_files(run_id, (file for entry in finished.values() for file in entry.files))
    # Last: a run that says it has everything has it.
    facts += server.end(run_id, record.complete({name: entry.digest for name, entry in finished.items()}))
    return Sent(run_id, found is None, facts, sum(len(row.values) for row in rows), files)
