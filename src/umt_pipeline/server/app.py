"""The application: routes, and what stands before them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import umt_pipeline
from umt_pipeline.server import answering, files, operating, searching
from umt_pipeline.server.bodies import BoundedBodies
from umt_pipeline.server.cache import Cache
from umt_pipeline.server.health import Health
from umt_pipeline.server.limits import Few, Limits
from umt_pipeline.server.media import Unchanged
from umt_pipeline.server.metrics import Metrics
from umt_pipeline.server.problems import add_handlers
from umt_pipeline.server.security import Guard
from umt_pipeline.server.shelf import Served, Shelf
from umt_pipeline.server.state import Serving
from umt_pipeline.server.uploads import Uploads
from umt_pipeline.server.work import ModelThread


def make_serving(
    served: Iterable[Served], cache: Path, limits: Limits | None = None, uploads: Path | None = None
) -> Serving:
    """Put the parts of a server together, and start the thread in which models work.

    Args:
        served: the models.
        cache: folder for thumbnails and transcoded files.
        limits: None: the defaults.
        uploads: folder for uploaded files while they are looked at; None: where temporary files are.
    """
    limits, metrics = limits or Limits(), Metrics()
    shelf, thread = Shelf(served, metrics), ModelThread(limits, metrics)
    refused = metrics.refused.labels("transcodes").inc
    return Serving(
        limits=limits,
        metrics=metrics,
        shelf=shelf,
        thread=thread,
        uploads=Uploads(limits, metrics, uploads),
        unchanged=Unchanged(),
        cache=Cache(cache, int(limits.cache_mib * 2**20)),
        transcodes=Few(1, limits.transcodes, "files are made playable, or wait for it,", refused),
        health=Health(shelf, thread, limits, metrics),
    )


def make_app(serving: Serving, token: str | None = None, only_loopback: bool = True) -> ASGIApp:
    """Return the application.

    Args:
        serving: its parts.
        token: see :class:`~umt_pipeline.server.security.Guard`, as for ``only_loopback``.
        only_loopback: the server can be reached from this machine only.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        serving.thread.close()
        serving.cache.close()

    app = FastAPI(
        title="Search in videos",
        version=umt_pipeline.__version__,
        lifespan=lifespan,
        # They load scripts from elsewhere. /openapi.json is there.
        docs_url=None,
        redoc_url=None,
    )
    app.state.serving = serving
    for routes in (operating, searching, answering, files):
        app.include_router(routes.router)
    app.mount("/static", operating.PageFiles(directory=operating.STATIC), name="static")
    add_handlers(app)
    return Counted(Guard(BoundedBodies(app, serving.limits, serving.metrics), token, only_loopback), serving.metrics)


class Counted:
    """Counts requests and their time.

    Args:
        app: what answers them.
        metrics: where they are counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        finally:
            # What matched, not what was asked for: of addresses there are as many as a stranger likes.
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other"
            self._metrics.requests.labels(route, method, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - began)
