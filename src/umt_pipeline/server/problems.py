"""Errors as answers: always ``{"detail": TEXT}``, with a status that says whose affair it is."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from umt_pipeline.core.errors import ConfigError, IndexingError, VideoError
from umt_pipeline.server.documents import Problem
from umt_pipeline.server.limits import RefusedError

logger = logging.getLogger(__name__)

# What any route may answer.
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        400: "The request is not well formed.",
        401: "The token is missing or wrong.",
        403: "The request comes from another site's page.",
        404: "There is no such thing.",
        408: "The request took too long to come.",
        409: "The thing is not what it was.",
        410: "The thing is gone.",
        413: "The file is too large.",
        415: "The file is no video.",
        422: "Something in the request cannot be answered.",
        503: "Too much is asked at the moment; Retry-After says when to come again.",
        507: "The server cannot keep what it made: its disk is full.",
    }.items()
}


def add_handlers(app: FastAPI) -> None:
    """Let errors become answers."""

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse({"detail": error.detail}, error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        told = [f"{'.'.join(map(str, one['loc'][1:])) or one['loc'][0]}: {one['msg']}" for one in error.errors()]
        return JSONResponse({"detail": "; ".join(told)}, 422)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"detail": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(ConfigError)
    async def config(_: Request, error: ConfigError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(VideoError)
    async def video(_: Request, error: VideoError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(IndexingError)
    async def indexing(_: Request, error: IndexingError) -> JSONResponse:
        # What is asked for is looked at before: an index that refuses then is damaged, or its model says no numbers.
        logger.error("%s", error)
        return JSONResponse({"detail": str(error)}, 500)

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> JSONResponse:
        # Its words may hold anything; they are for the log.
        logger.error("%s %s", request.method, request.url.path, exc_info=error)
        return JSONResponse({"detail": "the server has a defect; its log says more"}, 500)
