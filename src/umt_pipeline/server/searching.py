"""Routes that search: by a text, by a window, by an uploaded clip; and why something was found."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import date
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
import torch
from fastapi import APIRouter, Depends, File, Query, UploadFile
from torch import Tensor

from umt_pipeline.server.bodies import FormRoute
from umt_pipeline.server.documents import FoundDocument, FrameDocument, HitDocument, WhyDocument
from umt_pipeline.server.limits import RefusedError, busy
from umt_pipeline.server.pictures import seen
from umt_pipeline.server.problems import PROBLEMS
from umt_pipeline.server.shelf import EDITION, Place, Served
from umt_pipeline.server.state import Serving, State
from umt_pipeline.serving.search.filters import Filters
from umt_pipeline.serving.search.search import Found, Hit, search
from umt_pipeline.serving.search.search import Query as SearchQuery
from umt_pipeline.serving.search.texts import clean_text

router = APIRouter(prefix="/api", responses=PROBLEMS, route_class=FormRoute)

Text = Annotated[str, Query(min_length=1, max_length=2000, description="A sentence.")]
Count = Annotated[int, Query(ge=1, le=100, description="Hits that are wanted.")]
Rerank = Annotated[
    int, Query(ge=0, le=100, description="Best places to rank anew by cosine and matching head; costs seconds on a CPU.")
]
ModelName = Annotated[str | None, Query(max_length=200, description="Name of a model; without it the first that fits.")]
Word = Annotated[str | None, Query(max_length=500)]
Day = Annotated[date | None, Query(description="A day, such as 2024-05-01.")]
# What does not fit into 64 bits is no number of a window, and of no use to numpy.
Window = Annotated[int, Query(ge=0, le=2**62, description="Number of a window.")]
Edition = Annotated[
    str | None, Query(pattern=EDITION, description="Of the index that the number is of; if another one is served: 409.")
]


def _filters(label: Word = None, split: Word = None, path: Word = None, after: Day = None, before: Day = None) -> Filters:
    return Filters(label or None, path or None, split or None, _iso(after), _iso(before))


Wanted = Annotated[Filters, Depends(_filters)]


@router.get("/search")
async def search_by_text(
    state: State, q: Text, filters: Wanted, k: Count = 12, rerank: Rerank = 0, model: ModelName = None
) -> FoundDocument:
    """Find the places in videos that a sentence describes."""
    served = state.shelf.get(model)
    text = clean_text(q)

    def find(vector_E: Tensor) -> FoundDocument:
        now = state.shelf.get(served.name)  # what it was embedded for may have been exchanged meanwhile
        if now.model is not served.model:
            return answer(now, None)
        return answer(now, vector_E)

    def answer(now: Served, vector_E: Tensor | None) -> FoundDocument:
        vector = None if vector_E is None else vector_E.numpy()
        query = SearchQuery(text=text, vector=vector, k=k, rerank=rerank, filters=filters)
        return _found(now, text, search(now.embedder, now.searched(), query))

    if not served.embedder.reads_text:
        raise RefusedError(422, f"model {served.name!r} reads no text: choose another model, or search by a clip")
    return await state.thread.do_with_text(served.embedder, text, find)


@router.get("/similar")
async def similar_to_window(
    state: State, window: Window, filters: Wanted, k: Count = 12, model: ModelName = None, edition: Edition = None
) -> FoundDocument:
    """Find the places that look like a window of the index."""
    served = state.shelf.get(model)

    def find() -> FoundDocument:
        now = state.shelf.get(served.name)
        place = now.place(window, edition)
        query = SearchQuery(window=window, k=k, filters=filters)
        return _found(now, place.file.path.name, search(None, now.searched(), query))

    return await state.thread.do(find)


@router.post("/similar")
async def similar_to_upload(
    state: State,
    file: Annotated[UploadFile, File(description="A video or image.")],
    filters: Wanted,
    k: Count = 12,
    model: ModelName = None,
) -> FoundDocument:
    """Find the places that look like an uploaded clip, which is forgotten at once."""
    served = state.shelf.get(model)
    view = served.embedder.view
    async with state.uploads.file(file) as path:
        frames_TSSC = await state.uploads.frames(path, view)

    def find() -> FoundDocument:
        now = state.shelf.get(served.name)
        if now.embedder.view != view:
            raise busy(f"model {now.name!r} was exchanged while the file came in", 1)
        vector_E = now.embedder.encode_clips(torch.from_numpy(frames_TSSC)[None])[0].numpy()
        query = SearchQuery(vector=vector_E, k=k, filters=filters)
        return _found(now, Path(file.filename or "").name, search(now.embedder, now.searched(), query))

    return await state.thread.do(find)


@router.get("/why")
async def why(
    state: State, window: Window, q: Text | None = None, model: ModelName = None, edition: Edition = None
) -> WhyDocument:
    """Say why a window was found by a sentence: its scores, and where the model looked; without one, where it looks anyway."""
    served = state.shelf.get(model)
    text = None if q is None else clean_text(q)
    if "attention" not in served.model.abilities:
        raise RefusedError(422, f"model {served.name!r} does not tell where it looks: choose another model")
    place = served.place(window, edition)
    path = await asyncio.to_thread(state.unchanged.path, place.file)

    def explain() -> WhyDocument:
        now = state.shelf.get(served.name)
        if now.place(window, edition) != place:
            raise RefusedError(409, f"the index of model {now.name!r} was exchanged meanwhile: search again")
        return _why(state, now, place, path, text)

    return await state.thread.do(explain)


def _why(state: Serving, served: Served, place: Place, path: Path, text: str | None) -> WhyDocument:
    embedder = served.embedder
    seen_text = text if embedder.reads_text else None
    looked = served.model.attention(path, seen_text, place.span)
    score = match = None
    if text and embedder.reads_text:
        vector_E = served.searched().vectors(np.array([place.number]))[0]
        score = float(embedder.encode_texts([text])[0].numpy() @ vector_E)
    if text and embedder.matches:
        match = float(embedder.match(torch.from_numpy(np.ascontiguousarray(looked.frames))[None], [text])[0])
    asked = f"{embedder.key} {place.file.file_id} {place.span} {seen_text}"
    name = hashlib.sha256(asked.encode()).hexdigest()[:32]
    frames = []
    for number, (frame_SSC, patch_hw) in enumerate(zip(looked.frames, looked.patch_weights, strict=True)):
        picture = f"why-{name}-{number:03d}.jpg"
        state.cache.put(picture, seen(frame_SSC, patch_hw))
        second, weight = float(np.nan_to_num(looked.seconds[number])), float(looked.frame_weights[number])
        frames.append(FrameDocument(second=second, weight=weight, image_url=f"/pictures/{picture}"))
    return WhyDocument(score=score, match=match, frames=frames)


def _found(served: Served, query: str, found: Found) -> FoundDocument:
    index = served.searched()
    return FoundDocument(
        query=query,
        model=served.name,
        generation=index.generation,
        edition=index.edition,
        took_ms={name: round(ms, 3) for name, ms in found.took.items()},
        nothing_found=found.nothing_found,
        cutoff=None if found.cutoff is None else found.cutoff.score,
        notes=found.notes,
        hits=[_hit(served, index.edition, hit) for hit in found.hits],
    )


def _hit(served: Served, edition: str, hit: Hit) -> HitDocument:
    folder = served.root
    path = Path(hit.path)
    shown = path.relative_to(folder) if folder is not None and path.is_relative_to(folder) else path
    kept: dict[str, Any] = {
        name: getattr(hit, name)
        for name in ("rank", "start_s", "end_s", "score", "match", "label", "split", "date", "window", "note")
    }
    thumbnail = f"/thumbnails/{quote(served.name, safe='')}/{hit.window}.jpg?edition={edition}"
    return HitDocument(
        file=hit.file_id, name=path.name, path=str(shown), media_url=f"/media/{hit.file_id}", thumbnail_url=thumbnail, **kept
    )


def _iso(day: date | None) -> str | None:
    return None if day is None else day.isoformat()
