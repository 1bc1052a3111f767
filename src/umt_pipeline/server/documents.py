"""What the server says in JSON."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


class IndexDocument(BaseModel):
    """An index as the page shows it."""

    generation: int
    edition: str = Field(description="Tells this generation of this index from all others; numbers of windows are of it.")
    files: int
    windows: int
    labels: list[str]
    splits: list[str]


class ModelDocument(BaseModel):
    """A model that is served; ``abilities`` are what it can do, ``index`` is missing where it does not search."""

    name: str
    kind: str
    source: str
    key: str = Field(description="SHA-256 of weights, sizes, view and precision; empty where the model does not embed.")
    champion: bool
    abilities: list[str]
    behind: list[str] = Field(description="Why something newer, such as another champion, is not served; empty: nothing is.")
    index: IndexDocument | None


class HitDocument(BaseModel):
    """A place in a file that answers a query."""

    rank: int
    file: str = Field(description="SHA-256 of the file's content.")
    name: str
    path: str
    start_s: float
    end_s: float
    score: float = Field(description="Cosine.")
    match: float | None = Field(description="Logit of the matching head where hits were re-ranked: by it and the cosine.")
    label: str | None
    split: str | None
    date: str | None
    window: int = Field(description="Number of the best window, in this edition of the index.")
    media_url: str
    thumbnail_url: str
    note: str = Field(description="What is wrong with the file now, such as that it has vanished; empty: nothing is.")


class FoundDocument(BaseModel):
    """The answer to a search."""

    query: str
    model: str
    generation: int
    edition: str = Field(description="Of the index; numbers of windows are of it.")
    took_ms: dict[str, float]
    nothing_found: bool = Field(description="No hit is above the cut-off.")
    cutoff: float | None
    notes: list[str] = Field(description="What the model does not read of the sentence, or why there is no cut-off any more.")
    hits: list[HitDocument]


class FrameDocument(BaseModel):
    """A frame that the model saw, and its share of the attention; the picture shows where in the frame it was."""

    second: float
    weight: float
    image_url: str


class WhyDocument(BaseModel):
    """Why a window was found: cosine and matching score of the text, and where the model looked."""

    score: float | None
    match: float | None
    frames: list[FrameDocument]


class AnswerDocument(BaseModel):
    """An answer, and how probable the model says it is among its answers."""

    text: str
    probability: float


class AnswersDocument(BaseModel):
    """Answers to a question, the likeliest first."""

    answers: list[AnswerDocument]


class LabelDocument(BaseModel):
    """A label, and how probable the model says it is."""

    label: str
    probability: float


class LabelsDocument(BaseModel):
    """Labels by task, the likeliest first."""

    tasks: dict[str, list[LabelDocument]]


class HealthDocument(BaseModel):
    """Whether the server answers as it did at its start; if not, what is different."""

    status: str
    problems: list[str]
