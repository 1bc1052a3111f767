"""Routes that give files: media of the index, thumbnails, and pictures of what a model looked at."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi import Path as InPath
from starlette.responses import FileResponse

from umt_pipeline.core.errors import VideoError
from umt_pipeline.server.decoding import transcode_for_browsers
from umt_pipeline.server.limits import RefusedError
from umt_pipeline.server.media import playable_type
from umt_pipeline.server.pictures import thumbnail
from umt_pipeline.server.problems import PROBLEMS
from umt_pipeline.server.shelf import EDITION
from umt_pipeline.server.state import Serving, State
from umt_pipeline.video.media import Refusal

router = APIRouter(responses={**PROBLEMS, 206: {"description": "A part of the file."}, 416: {"description": "No such part."}})

FileId = Annotated[str, InPath(pattern="^[0-9a-f]{64}$", description="SHA-256 of a file's content.")]
# A browser may keep it, and asks whether it is still the same: a file can vanish, or stop being what was indexed.
_REVALIDATE = {"Cache-Control": "private, no-cache"}


@router.head("/media/{file_id}", include_in_schema=False)
@router.get("/media/{file_id}", response_class=FileResponse)
async def media(
    state: State,
    file_id: FileId,
    transcode: Annotated[bool, Query(description="As H.264, whatever it is: for a browser that could not play it.")] = False,
) -> FileResponse:
    """Give a file of the index, whole or in parts; what browsers cannot play, as H.264."""
    path = await asyncio.to_thread(state.unchanged.path, state.shelf.file(file_id))
    try:
        kind = await asyncio.to_thread(playable_type, path)
    except VideoError as error:
        raise RefusedError(409, str(error)) from error
    if kind is None or (transcode and kind.startswith("video/")):
        path, kind = await _transcoded(state, file_id, path), "video/mp4"
    return FileResponse(path, media_type=kind, headers=_REVALIDATE)


@router.head("/thumbnails/{model}/{window}.jpg", include_in_schema=False)
@router.get("/thumbnails/{model}/{window}.jpg", response_class=FileResponse)
async def thumbnails(
    state: State,
    model: Annotated[str, InPath(max_length=200)],
    window: Annotated[int, InPath(ge=0, le=2**62)],
    edition: Annotated[str | None, Query(pattern=EDITION)] = None,
) -> FileResponse:
    """Give a picture of a window: the frame in its middle."""
    place = state.shelf.get(model).place(window, edition)
    source = await asyncio.to_thread(state.unchanged.path, place.file)
    middle = (place.start_s + place.end_s) / 2

    async def make(target: Path) -> None:
        try:
            content = await asyncio.to_thread(thumbnail, source, middle)
        except VideoError as error:
            raise RefusedError(409, str(error)) from error
        await asyncio.to_thread(target.write_bytes, content)

    path = await state.cache.file(f"thumbnail-{place.file.file_id}-{round(1000 * middle)}.jpg", make)
    return FileResponse(path, media_type="image/jpeg", headers=_REVALIDATE)


@router.head("/pictures/{name}", include_in_schema=False)
@router.get("/pictures/{name}", response_class=FileResponse)
async def pictures(state: State, name: Annotated[str, InPath(pattern=r"^why-[0-9a-f]{32}-[0-9]{3}\.jpg$")]) -> FileResponse:
    """Give a picture that /api/why has named."""
    path = state.cache.known(name)
    if path is None:
        raise RefusedError(404, "this picture is not kept any more: ask /api/why again")
    return FileResponse(path, media_type="image/jpeg", headers=_REVALIDATE)


async def _transcoded(state: Serving, file_id: str, source: Path) -> Path:
    async def make(target: Path) -> None:
        found = await state.transcodes.run(transcode_for_browsers, source, target, state.limits.decoding)
        if isinstance(found, Refusal):
            raise RefusedError(409, f"{source.name}: it cannot be made playable: {found.reason}: {found.detail}")

    return await state.cache.file(f"media-{file_id}.mp4", make)
