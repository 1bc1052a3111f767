"""What MLflow is told of a run: settings and provenance at its start, metrics on the way, finished files at its end.

DVC's files are the truth and MLflow is a view of them. So nothing here can stop work: a run hands over what there is to say
(:mod:`~umt_pipeline.tracking.live`) and a thread of its own says it (:mod:`~umt_pipeline.tracking.sender`). What a server
missed is read from the finished files again (:mod:`~umt_pipeline.tracking.replay`).

Nodes import this room; nothing downstairs does. Without tracking every function of a node's does nothing.
"""

from umt_pipeline.tracking.live import metric_logger
from umt_pipeline.tracking.provenance import page_provenance, provenance_tags
from umt_pipeline.tracking.rows import flatten_numbers

__all__ = ["flatten_numbers", "metric_logger", "page_provenance", "provenance_tags"]
