"""A trained model with the methods that a notebook, a command or a server wants; which it has depends on its kind.

==========================  =================================================================
kind                        abilities
==========================  =================================================================
stage2, retrieval           videos, texts, match, attention
open_clip, teacher          videos, attention; texts, where there is a text tower
stage1, encoder             videos, attention
classification              classify
question_answering          ask
==========================  =================================================================

Shapes: n videos or texts, E embedding width, P pairs of a video and a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd
from torch import Tensor

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.evaluation.encoders import VideoTextEncoder
from umt_pipeline.serving.answering import Answer, Answerer
from umt_pipeline.serving.attending import Attention, attention_of
from umt_pipeline.serving.classifying import Classified, Classifiers
from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.serving.encoding import Embeddings, embed, match_pairs
from umt_pipeline.serving.inputs import Span, Video, clip_of, require_texts

if TYPE_CHECKING:
    from umt_pipeline.serving.index.reading import Index
    from umt_pipeline.serving.search.search import Hit

Item = TypeVar("Item")


@dataclass(frozen=True)
class Model:
    """What :func:`umt_pipeline.load` returns.

    A video is the path of a file, a file's bytes, or frames as uint8 [T, H, W, 3], in an array or a tensor. Methods that a
    model of its kind has not raise :class:`ConfigError`.

    Args:
        kind: what it is.
        source: what it was loaded from.
        embedder: embeds videos, and maybe texts; None: it does not.
        classifiers: give labels; None: there are none.
        answerer: answers questions; None: it does not.
    """

    kind: str
    source: str
    embedder: Embedder | None = None
    classifiers: Classifiers | None = None
    answerer: Answerer | None = None

    @property
    def abilities(self) -> frozenset[str]:
        """What it can do: some of videos, texts, match, classify, ask, attention."""
        found = set()
        if self.embedder is not None:
            found |= {"videos", "attention"}
            found |= {"texts"} if self.embedder.reads_text else set()
            found |= {"match"} if self.embedder.matches else set()
        if self.classifiers is not None:
            found.add("classify")
        if self.answerer is not None:
            found.add("ask")
        return frozenset(found)

    def embed_videos(self, videos: Iterable[Video]) -> Embeddings:
        """Return unit vectors [n, E]: of each video, frames evenly spaced over all of it, the square in the middle.

        What cannot be read is a failure by its number; :meth:`Embeddings.all` refuses an answer with failures.
        """
        return embed(self._embedder("videos"), _several(videos))

    def embed_texts(self, texts: Iterable[str]) -> Tensor:
        """Return unit vectors, float32 [n, E] on the CPU; a text longer than the model's limit is cut.

        Raises:
            ConfigError: a text is blank; it is named by its number.
        """
        return self._embedder("texts").encode_texts(_texts(texts))

    def match(self, videos: Iterable[Video], texts: Iterable[str]) -> Tensor:
        """Return how well each video and its text belong together, by the matching head that re-ranks.

        Args:
            videos: P videos; each is encoded once, however many texts stand beside it.
            texts: P texts; text i stands beside video i.

        Returns:
            The head's logits, float32 [P] on the CPU: higher is better; 0 is no border between right and wrong.

        Raises:
            ConfigError: a text is blank; it is named by its number.
            ValueError: there are not as many texts as videos.
            VideoError: a video cannot be read; it is named.
        """
        encoder = self._embedder("match").encoder
        assert isinstance(encoder, VideoTextEncoder), "only such a model matches"
        return match_pairs(encoder, _several(videos), _texts(texts))

    def search(self, text: str, index: Index | str | Path, k: int = 10, rerank: int = 0) -> list[Hit]:
        """Return the places of an index that fit a text best.

        Args:
            text: what is looked for.
            index: an index of this model, or its folder.
            k: places.
            rerank: so many best places are put in order anew by cosine and matching head; 0: none.

        Raises:
            ConfigError: the text is blank.
            IndexingError: it is no index, or one of another model.
        """
        from umt_pipeline.serving.index.reading import Index as OpenIndex
        from umt_pipeline.serving.search.search import Query, search

        embedder, query = self._embedder("texts"), Query(text=text, k=k, rerank=rerank)
        if isinstance(index, OpenIndex):
            return list(search(embedder, index, query).hits)
        with OpenIndex.open(Path(index)) as opened:
            return list(search(embedder, opened, query).hits)

    def classify(self, videos: Iterable[Video], spans: Sequence[Span | None] | None = None) -> Classified:
        """Return the probability of each label of each task, as in the model's test.

        Args:
            videos: in any form.
            spans: of each, first and last second of the part that is meant, or None for all of it; None: all of each.

        Raises:
            ValueError: there are not as many spans as videos.
        """
        if self.classifiers is None:
            raise self._cannot("classify")
        return self.classifiers.classify(_several(videos), spans)

    def ask(self, video: Video, question: str, span: Span | None = None) -> tuple[Answer, ...]:
        """Return the likeliest answers of the model's list, best first.

        Args:
            video: in any form.
            question: about it.
            span: first and last second of the part that is meant; None: all of it.

        Raises:
            ConfigError: the question is blank.
            VideoError: the video cannot be read, or ends before the span begins; it is named.
        """
        if self.answerer is None:
            raise self._cannot("ask")
        # Read here: what cannot be read is an error, and no question of a test.
        frames = clip_of(video, self.answerer.view, span)
        return self.answerer.answer([frames], [question]).all()[0]

    def attention(self, video: Video, text: str | None = None, span: Span | None = None) -> Attention:
        """Return where the model looks in a video: a weight of each frame and each patch.

        Args:
            video: in any form.
            text: what it looks for. A video-text model then says where the words of the text attend to, a CLIP which frames
                fit it. None: where the model looks anyway.
            span: first and last second of the part that it is shown; None: all of it.

        Raises:
            VideoError: the video cannot be read, or ends before the span begins.
        """
        return attention_of(self._embedder("attention").encoder, video, text, span)

    def _embedder(self, ability: str) -> Embedder:
        if self.embedder is None or ability not in self.abilities:
            raise self._cannot(ability)
        return self.embedder

    def _cannot(self, ability: str) -> ConfigError:
        can = ", ".join(sorted(self.abilities)) or "nothing"
        return ConfigError(f"{self.source}: a model of kind {self.kind!r} can do {can}; {ability!r} was asked of it")


def _several(items: Iterable[Item]) -> list[Item]:
    """Return videos or texts in their order, by which a column of a table goes, too, and not by its index.

    Raises:
        ConfigError: it is one video or text: of a path, each letter would be taken for one. Or what has names, not an order.
    """
    given: object = items
    if isinstance(given, Mapping | pd.DataFrame):
        raise ConfigError(f"expected a list of videos or texts, found a {type(items).__name__}: give one of its columns")
    is_one = isinstance(given, str | bytes | Path) or (isinstance(given, np.ndarray | Tensor) and given.ndim not in (1, 5))
    if is_one or not isinstance(given, Iterable):
        raise ConfigError(f"expected a list of videos or texts, found one of type {type(items).__name__}: put it into a list")
    return list(items)


def _texts(items: Iterable[str]) -> list[str]:
    texts = _several(items)
    require_texts(texts, "text")
    return texts
