"""Bodies of requests: no longer than allowed, and not for ever under way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from umt_pipeline.server.limits import Limits, busy
from umt_pipeline.server.metrics import Metrics

# Of a body beside the file in it: boundaries, names, a question.
_MORE_BYTES = 64 * 1024
_MOST_FIELDS = 16
# Of other kinds of bodies nothing goes into a file: all would be held in memory.
_WITH_FILE = "multipart/form-data"


class _Form(Request):
    def form(self, **_: object) -> Any:
        # A file goes to the disk when it is longer than 1 MiB: of a thousand shorter ones all would be held in memory.
        return super().form(max_files=1, max_fields=_MOST_FIELDS, max_part_size=_MORE_BYTES)


class FormRoute(APIRoute):
    """A route that takes a form with one file and few fields."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        handle = super().get_route_handler()

        async def handle_form(request: Request) -> Response:
            return await handle(_Form(request.scope, request.receive))

        return handle_form


class BoundedBodies:
    """Ends a request whose body is too long, as soon as that is seen, with 413, and one that takes too long with 408.

    Args:
        app: the application.
        limits: of uploads.
        metrics: are told what was refused.
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
        elif self._count >= self._limits.bodies:
            # Before the first byte is read: what is taken in goes into files.
            self._metrics.refused.labels("bodies").inc()
            refused = busy(f"{self._count} requests are taken in already", 5)
            headers = {**refused.headers, "Connection": "close"}
            await JSONResponse({"detail": refused.detail}, refused.status, headers)(scope, receive, send)
        else:
            self._count += 1
            try:
                await self._bounded(scope, receive, send)
            finally:
                self._count -= 1

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        has_file = headers.get("content-type", "").lower().startswith(_WITH_FILE)
        most = _MORE_BYTES + (self._limits.upload_bytes if has_file else 0)
        stated = headers.get("content-length", "")
        is_told = stated.isdigit() and int(stated) > most
        taken, ended, until = 0, False, time.monotonic() + self._limits.upload_s

        async def receive_bounded() -> Message:
            nonlocal taken, ended
            if ended:
                return await receive()  # what comes now is the end of the connection, and may take its time
            if is_told:
                raise self._too_long(has_file)
            try:
                message = await asyncio.wait_for(receive(), until - time.monotonic())
            except TimeoutError as error:
                detail = f"expected the whole request within {self._limits.upload_s:g} s"
                raise HTTPException(408, detail, {"Connection": "close"}) from error
            taken += len(message.get("body", b""))
            ended = message["type"] != "http.request" or not message.get("more_body", False)
            if taken > most:
                raise self._too_long(has_file)
            return message

        await self._app(scope, receive_bounded, send)

    def _too_long(self, has_file: bool) -> HTTPException:
        detail = f"expected a file of at most {self._limits.upload_mib:g} MiB, found a longer one"
        if not has_file:
            detail = f"expected at most {_MORE_BYTES // 1024} KiB, or a file as a part of {_WITH_FILE}, found more"
        return HTTPException(413, detail, {"Connection": "close"})
