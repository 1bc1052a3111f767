"""Routes of models that say something of a clip: labels, and answers to questions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, File, Form, UploadFile

from umt_pipeline.server.documents import AnswerDocument, AnswersDocument, LabelDocument, LabelsDocument
from umt_pipeline.server.limits import RefusedError
from umt_pipeline.server.problems import PROBLEMS
from umt_pipeline.server.state import Serving, State

router = APIRouter(prefix="/api", responses=PROBLEMS)

Upload = Annotated[UploadFile | None, File(description="A video or image; or else a window.")]
Window = Annotated[int | None, Form(ge=0, le=2**62, description="Number of a window of an index, whose file is meant.")]
ModelName = Annotated[str | None, Form(max_length=200, description="Name of a model; without it the first that is able to.")]
IndexedBy = Annotated[str | None, Form(max_length=200, description="Name of the model whose index the window is of.")]
Generation = Annotated[int | None, Form(ge=0, le=2**62, description="Of the index that the window is of; an older one: 409.")]
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
    generation: Generation = None,
) -> LabelsDocument:
    """Say which labels a video has."""
    served = state.shelf.get(model, "classify")
    async with _video(state, file, _Asked(window, index, generation)) as path:
        found = await state.thread.do(lambda: state.shelf.get(served.name, "classify").model.classify([path]).best(0, _MOST))
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
    generation: Generation = None,
) -> AnswersDocument:
    """Answer a question about a video."""
    if not question.strip():
        raise RefusedError(422, "question: expected a text, found a blank one")
    served = state.shelf.get(model, "ask")
    async with _video(state, file, _Asked(window, index, generation)) as path:
        found = await state.thread.do(lambda: state.shelf.get(served.name, "ask").model.ask(path, question))
    return AnswersDocument(answers=[AnswerDocument(text=one.text, probability=one.probability) for one in found[:_MOST]])


@dataclass(frozen=True)
class _Asked:
    """A window of an index, if one is asked about."""

    window: int | None
    index: str | None
    generation: int | None


@asynccontextmanager
async def _video(state: Serving, upload: UploadFile | None, asked: _Asked) -> AsyncIterator[Path]:
    """Yield the path of an uploaded file, which is gone afterwards, or of a window's file."""
    if (upload is None) == (asked.window is None):
        raise RefusedError(422, f"expected one of file and window, found {'none' if upload is None else 'both'}")
    if upload is not None:
        async with state.uploads.file(upload) as path:
            await state.uploads.check(path)
            yield path
    else:
        assert asked.window is not None
        place = state.shelf.get(asked.index).place(asked.window, asked.generation)
        yield await asyncio.to_thread(state.unchanged.path, place.file)
