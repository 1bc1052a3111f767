"""What the routes share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from umt_pipeline.server.cache import Cache
from umt_pipeline.server.health import Health
from umt_pipeline.server.limits import Few, Limits
from umt_pipeline.server.media import Unchanged
from umt_pipeline.server.metrics import Metrics
from umt_pipeline.server.shelf import Shelf
from umt_pipeline.server.uploads import Uploads
from umt_pipeline.server.work import ModelThread


@dataclass(frozen=True)
class Serving:
    """A server's parts.

    Attributes:
        limits: what it allows.
        metrics: what it counts.
        shelf: the models.
        thread: where they work.
        uploads: how files come in.
        unchanged: how files go out.
        cache: what was made of them.
        transcodes: how what browsers cannot play is made playable.
        health: whether all is as it was at the start.
    """

    limits: Limits
    metrics: Metrics
    shelf: Shelf
    thread: ModelThread
    uploads: Uploads
    unchanged: Unchanged
    cache: Cache
    transcodes: Few
    health: Health


def _serving(request: Request) -> Serving:
    found: Serving = request.app.state.serving
    return found


State = Annotated[Serving, Depends(_serving)]
