"""Routes for who runs the server, and the page."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import FileResponse, PlainTextResponse
from starlette.staticfiles import StaticFiles

from umt_pipeline.server.documents import HealthDocument, ModelDocument
from umt_pipeline.server.problems import PROBLEMS
from umt_pipeline.server.state import State

router = APIRouter(responses=PROBLEMS)

STATIC = Path(__file__).with_name("static")
# May be kept, and is asked for again each time: a newer version of the page shows at once.
_REVALIDATE = {"Cache-Control": "no-cache"}


class PageFiles(StaticFiles):
    """What the page consists of."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response: Response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers.update(_REVALIDATE)
        return response


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Give the page."""
    return FileResponse(STATIC / "index.html", media_type="text/html; charset=utf-8", headers=_REVALIDATE)


@router.get("/api/models")
async def models(state: State) -> list[ModelDocument]:
    """Say which models are served, and what their indexes hold."""
    return state.shelf.documents


@router.get("/healthz", responses={503: {"model": HealthDocument, "description": "Something is not as it was."}})
async def healthz(state: State, response: Response) -> HealthDocument:
    """Embed a known clip and a known text, and compare with what came out at the start."""
    found = await state.health.check()
    response.status_code = 200 if found.status == "ok" else 503
    return found


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(state: State) -> Response:
    """Give numbers to Prometheus."""
    return Response(state.metrics.page(), media_type=CONTENT_TYPE_LATEST)
