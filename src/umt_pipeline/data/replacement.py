"""Training goes on when a medium can no longer be read: another sample of its corpus takes the whole place."""

from __future__ import annotations

import logging
from collections.abc import Callable

from torch import Tensor

from umt_pipeline.core.errors import TrainingError, VideoError
from umt_pipeline.data.samples import Batch, Sample
from umt_pipeline.video.views import counter_hash

logger = logging.getLogger(__name__)

# So many media in a row cannot be bad luck: the folder is gone, or the wrong one.
MAX_TRIES = 10

Read = Callable[[int, int], Sample]


def read_or_replace(read: Read, index: int, number: int, candidates: range, corpus: str) -> tuple[Sample, int]:
    """Read a sample, or in its place another one, drawn by hash, so that every rank and every resumed run draws the same.

    The caller takes everything that belongs to the sample (caption, id) from the returned index: the published code keeps
    the caption of the medium that it could not read, beside another one.

    Args:
        read: returns the sample (index, pass) or raises :class:`VideoError`.
        index: the wanted sample.
        number: its pass.
        candidates: the samples of its corpus.
        corpus: its name, for messages.

    Returns:
        The sample, whose ``unreadable`` says how many media were tried in vain; and its index.

    Raises:
        TrainingError: ten samples in a row cannot be read.
    """
    errors: list[VideoError] = []
    tried = index
    while len(errors) < MAX_TRIES:
        try:
            sample = read(tried, number)
        except VideoError as error:
            logger.warning("corpus %s, sample %d cannot be read, another one takes its place: %s", corpus, tried, error)
            errors.append(error)
            # Any of the others, not the same one again.
            step = 1 + counter_hash("replacement", index, number, len(errors)) % max(1, len(candidates) - 1)
            tried = candidates[(candidates.index(tried) + step) % len(candidates)]
        else:
            return {**sample, "unreadable": len(errors)}, tried
    raise TrainingError(
        f"corpus {corpus!r}: {MAX_TRIES} media in a row cannot be read, though ingestion could; the first: {errors[0]}. Is "
        "the folder of media still there, and the same?"
    )


def unreadable_share(batch: Batch) -> dict[str, Tensor]:
    """Return what is logged of the media of an online batch: how many could not be read and were replaced, per sample."""
    return {"unreadable": batch["unreadable"].float().mean()} if "unreadable" in batch else {}
