"""Bodies of requests: no longer than allowed, and not for ever under way."""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from umt_pipeline.server.limits import Limits

# Of a body beside the file in it: boundaries, names, a question.
_MORE_BYTES = 64 * 1024


class BoundedBodies:
    """Ends a request whose body is too long, as soon as that is seen, with 413, and one that takes too long with 408.

    Args:
        app: the application.
        limits: of uploads.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
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
