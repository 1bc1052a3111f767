"""Routes of models that say something of a clip: labels, and answers to questions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, File, Form, UploadFile

from umt_pipeline.server.bodies import FormRoute
from umt_pipeline.server.documents import AnswerDocument, AnswersDocument, LabelDocument, LabelsDocument
from umt_pipeline.server.limits import RefusedError
from umt_pipeline.server.problems import PROBLEMS
from umt_pipeline.server.shelf import EDITION
from umt_pipeline.server.state import Serving, State
from umt_pipeline.serving.inputs import Span

router = APIRouter(prefix="/api", responses=PROBLEMS, route_class=FormRoute)

Upload = Annotated[UploadFile | None, File(description="A video or image; or else a window.")]
Window = Annotated[int | None, Form(ge=0, le=2**62, description="Number of a window of an index.")]
ModelName = Annotated[str | None, Form(max_length=200, description="Name of a model; without it the first that is able to.")]
IndexedBy = Annotated[str | None, Form(max_length=200, description="Name of the model whose index the window is of.")]
Edition = Annotated[
    str | None, Form(pattern=EDITION, description="Of the index that the number is of; if another one is served: 409.")
]
Question = Annotated[str, Form(min_length=1, max_length=2000)]
# Labels of a task, and answers, that are told.
_MOST = 10


@router.post("/classify")
async def classify(
    state: State,
    file: Upload = None,
    window: Window = None,
    model: ModelName = None,
    index: IndexedBy = None,
    edition: Edition = None,
) -> LabelsDocument:
    """Say which labels a video has."""
    served = state.shelf.get(model, "classify")
    async with _video(state, file, _Asked(window, index, edition)) as (path, span):

        def work() -> dict[str, list[tuple[str, float]]]:
            return state.shelf.get(served.name, "classify").model.classify([path], [span]).best(0, _MOST)

        found = await state.thread.do(work)
    told = {task: [LabelDocument(label=label, probability=share) for label, share in shares] for task, shares in found.items()}
    return LabelsDocument(tasks=told)


@router.post("/ask")
async def ask(
    state: State,
    question: Question,
    file: Upload = None,
    window: Window = None,
    model: ModelName = None,
    index: IndexedBy = None,
    edition: Edition = None,
) -> AnswersDocument:
    """Answer a question about a video."""
    if not question.strip():
        raise RefusedError(422, "question: expected a text, found a blank one")
    served = state.shelf.get(model, "ask")
    async with _video(state, file, _Asked(window, index, edition)) as (path, span):
        found = await state.thread.do(lambda: state.shelf.get(served.name, "ask").model.ask(path, question, span))
    return AnswersDocument(answers=[AnswerDocument(text=one.text, probability=one.probability) for one in found[:_MOST]])


@dataclass(frozen=True)
class _Asked:
    """A window of an index, if one is asked about."""

    window: int | None
    index: str | None
    edition: str | None


@asynccontextmanager
async def _video(state: Serving, upload: UploadFile | None, asked: _Asked) -> AsyncIterator[tuple[Path, Span | None]]:
    """Yield the path of an uploaded file, which is gone afterwards; or that of a window's file, and the window's seconds."""
    if (upload is None) == (asked.window is None):
        raise RefusedError(422, f"expected one of file and window, found {'none' if upload is None else 'both'}")
    if upload is not None:
        async with state.uploads.file(upload) as path:
            await state.uploads.check(path)
            yield path, None
    else:
        assert asked.window is not None
        place = state.shelf.get(asked.index).place(asked.window, asked.edition)
        yield await asyncio.to_thread(state.unchanged.path, place.file), place.span
