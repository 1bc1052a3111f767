"""Where clips are encoded and searched: the folder of their features, and the processes that make and read them.

Shapes: U texts, L text length, D width, S clips with features, V tokens, G pairs of a text and a clip.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from torch import Tensor

from umt_pipeline.evaluation.encoders import PAIRS_PER_PASS, ClipEncoder, ClipLoader, VideoTextEncoder
from umt_pipeline.evaluation.feature_cache import (
    Features,
    ShardGroup,
    encode_group,
    missing_groups,
    plan_features,
    read_features,
    remove_others,
)
from umt_pipeline.evaluation.reranking import PairScorer
from umt_pipeline.evaluation.stored_arrays import StoredArray, store_arrays
from umt_pipeline.evaluation.workers import Workers
from umt_pipeline.training.state import run_lock

logger = logging.getLogger(__name__)


class SearchModels(Protocol):
    """What is loaded to search with."""

    @property
    def video_text(self) -> Sequence[VideoTextEncoder]:
        """The models that know text and video, each with a name of its own."""

    @property
    def weights(self) -> Mapping[str, str | None]:
        """Model name -> SHA-256 of its weights file."""


T = TypeVar("T", bound=SearchModels)


@dataclass(frozen=True)
class Part(Generic[T]):
    """Clips that the same encoders see.

    Args:
        video_ids: the clips.
        choose: picks the encoders among what is loaded. It is sent to the processes, so it is no lambda.
    """

    video_ids: Sequence[str]
    choose: Callable[[T], Sequence[ClipEncoder]]


@dataclass(frozen=True)
class Workplace(Generic[T]):
    """The folder of the features, and the processes, each of which holds the models."""

    folder: Path
    workers: Workers[T]

    @property
    def models(self) -> T:
        """The models in this process."""
        return self.workers.here

    def features(
        self,
        parts: Mapping[str, Part[T]],
        contents: Mapping[str, str],
        load: ClipLoader,
        *,
        batch_size: int,
        threads: int | None = None,
    ) -> dict[str, Features]:
        """Return the features of each part. What the folder has is read; the rest is made, and what no part uses deleted.

        Args:
            parts: clips and encoders by the title that the progress bar shows.
            contents: video_id -> something that changes when the clip does.
            load: decodes one view of one clip.
            batch_size: clips per forward pass.
            threads: decoding threads of each process; None means as many as there are cores for it.

        Raises:
            EvaluationError: an encoder gave NaN or infinity for a clip, the disk is full, or a process ended.
        """
        started = time.perf_counter()
        plans = {
            title: plan_features(
                self.folder, part.video_ids, part.choose(self.models), contents,
                batch_size=batch_size, threads=self.workers.threads(threads), title=title,
            )
            for title, part in parts.items()
        }  # fmt: skip
        remove_others(self.folder, plans.values())
        for title, plan in plans.items():
            work = [(parts[title].choose, load, group) for group in missing_groups(plan, self.workers.count)]
            for _ in self.workers.map(_encode, work):
                pass  # what it made lies in files
        clips = sum(len(plan.video_ids) for plan in plans.values())
        logger.info("features of %d clips in %.1f s", clips, time.perf_counter() - started)
        return {title: read_features(plan) for title, plan in plans.items()}

    @contextmanager
    def pair_scorer(self, model: str, text_ULD: Tensor, mask_UL: Tensor, video_SVD: StoredArray) -> Iterator[PairScorer]:
        """Give a function from text and clip indices [G], sorted by clip, to match logits [G, 2]; all processes share its work.

        The texts' tokens lie in a file meanwhile, so the caller need not keep them.

        Args:
            model: name of the one whose matching head gives the logits.
            text_ULD: tokens of texts from :meth:`VideoTextEncoder.encode_text`.
            mask_UL: their mask.
            video_SVD: tokens of the clips.

        Raises:
            EvaluationError: the disk is full; or, from the function, a process ended or a file of features is gone.
        """
        with tempfile.TemporaryDirectory(prefix="texts-", dir=self.folder) as scratch:
            texts = store_arrays(Path(scratch) / "texts.safetensors", {"tokens": text_ULD.cpu(), "mask": mask_UL.cpu()})
            del text_ULD, mask_UL

            def score(text_G: np.ndarray, row_G: np.ndarray) -> np.ndarray:
                # Cut where the matching head's runs end, so that every run is the same whoever does it. Neighbours in the
                # order of clips: a process reads its own part of the tokens.
                runs = -(-len(text_G) // PAIRS_PER_PASS)
                edges = [runs * number // self.workers.count * PAIRS_PER_PASS for number in range(self.workers.count + 1)]
                parts = [slice(start, stop) for start, stop in itertools.pairwise(edges) if stop > start]
                stored = (texts["tokens"], texts["mask"], video_SVD)
                logits_G2 = np.zeros((len(text_G), 2), dtype=np.float32)
                work = [(model, stored, text_G[part], row_G[part]) for part in parts]
                for index, logits in self.workers.map(_score, work):
                    logits_G2[parts[index]] = logits
                return logits_G2

            yield score


@contextmanager
def open_workplace(load: Callable[[], T], folder: Path, nproc: int = 1) -> Iterator[Workplace[T]]:
    """Open a workplace; the processes end with it.

    Args:
        load: loads the models onto :func:`umt_pipeline.evaluation.workers.default_device`, in each process.
        folder: keeps the features, so that the next search with the same models and clips reads them; whatever else lies
            there is deleted.
        nproc: processes, one per GPU. On a CPU they share the cores.

    Raises:
        TrainingError: another process is at work in ``folder``.
    """
    # The lock lies beside the folder, in which another evaluation would delete what this one reads.
    with run_lock(folder.with_name(f"{folder.name}.lock")), Workers(load, nproc) as workers:
        yield Workplace(folder, workers)


def _score(models: SearchModels, work: tuple[str, tuple[StoredArray, ...], np.ndarray, np.ndarray]) -> np.ndarray:
    name, (text_ULD, mask_UL, video_SVD), text_G, row_G = work
    encoder = next(model for model in models.video_text if model.name == name)
    return encoder.pair_scorer(text_ULD, mask_UL, video_SVD)(text_G, row_G)


def _encode(models: T, work: tuple[Callable[[T], Sequence[ClipEncoder]], ClipLoader, ShardGroup]) -> None:
    choose, load, group = work
    encode_group(choose(models), load, group)
