"""Bodies of requests: no longer than allowed, and not for ever under way."""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from umt_pipeline.server.limits import Limits, busy
from umt_pipeline.server.metrics import Metrics

# Of a body beside the file in it: boundaries, names, a question.
_MORE_BYTES = 64 * 1024


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
        most = self._limits.upload_bytes + _MORE_BYTES
        stated = Headers(scope=scope).get("content-length", "")
        is_told = stated.isdigit() and int(stated) > most
        taken, ended, until = 0, False, time.monotonic() + self._limits.upload_s

        async def receive_bounded() -> Message:
            nonlocal taken, ended
            if ended:
                return await receive()  # what comes now is the end of the connection, and may take its time
            if is_told:
                raise self._too_long()
            try:
                message = await asyncio.wait_for(receive(), until - time.monotonic())
            except TimeoutError as error:
                detail = f"expected the whole request within {self._limits.upload_s:g} s"
                raise HTTPException(408, detail, {"Connection": "close"}) from error
            taken += len(message.get("body", b""))
            ended = message["type"] != "http.request" or not message.get("more_body", False)
            if taken > most:
                raise self._too_long()
            return message

        await self._app(scope, receive_bounded, send)

    def _too_long(self) -> HTTPException:
        detail = f"expected a file of at most {self._limits.upload_mib:g} MiB, found a longer one"
        return HTTPException(413, detail, {"Connection": "close"})
