"""Media and their captions as one data set: what a provider reads of a clip or an image, and one of its captions.

Shapes: B samples, L text length.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.data.captions import Captions
from umt_pipeline.data.replacement import read_or_replace
from umt_pipeline.data.samples import Batch, Corpus, Sample, SampleDataset, stack_samples
from umt_pipeline.features.provider import ClipDataset, DecodedClips


class CaptionedDataset(SampleDataset):
    """Media of one or two kinds, each with one of its captions, drawn by a counter hash of (medium, pass).

    Args:
        captions: samples and captions.
        clips: where the samples' media are read, by kind.
        weights: of corpora by name.

    Raises:
        ConfigError: a sample is not among the clips of its kind.
    """

    def __init__(self, captions: Captions, clips: Mapping[str, ClipDataset], weights: Mapping[str, float]) -> None:
        self._captions, self._clips = captions, dict(clips)
        self._corpora = captions.corpora(weights, group_by_media=True)
        # Corpus i is samples bounds[i] to bounds[i + 1].
        self._bounds = np.cumsum([0, *(corpus.size for corpus in self._corpora)])
        # The row of each sample among the clips of its kind.
        self._rows = np.full(len(self), -1, dtype=np.int64)
        ids = captions.samples.values("video_id")
        for corpus, start, stop in zip(self._corpora, self._bounds[:-1], self._bounds[1:], strict=True):
            own = ids.slice(start, stop - start)
            self._rows[start:stop] = rows = self._clips[corpus.group].indices(own)
            if (missing := np.flatnonzero(rows < 0)).size:
                raise ConfigError(
                    f"corpus {corpus.name}: {missing.size} of {corpus.size} media are not in the feature store, the first is "
                    f"{own[int(missing[0])].as_py()!r}: run teacher_features again"
                )

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def corpora(self) -> tuple[Corpus, ...]:
        """A group is a kind of media."""
        return self._corpora

    def pin(self) -> None:
        for clips in self._clips.values():
            clips.pin()

    def batch(self, indices_B: np.ndarray, passes_B: np.ndarray) -> Batch:
        """The provider's batch, ids [B, L], mask [B, L], media (ids)."""
        clips = self._clips[self._corpus(int(indices_B[0]))[0].group]
        if isinstance(clips, DecodedClips):
            # What cannot be read is replaced with its captions, so the clips' own replacement is of no use.
            keys = zip(indices_B.tolist(), passes_B.tolist(), strict=True)
            read = [self._read(clips, index, number) for index, number in keys]
            batch = stack_samples([sample for sample, _ in read])
            indices_B = np.array([index for _, index in read])
        else:
            batch = clips.batch(self._rows[indices_B], passes_B)
        keys = zip(indices_B.tolist(), passes_B.tolist(), strict=True)
        rows_B = np.concatenate([self._captions.draw(index, number, 1) for index, number in keys])
        ids_BL, mask_BL = self._captions.encode(rows_B)
        media_B = self._captions.samples.numbers("media_id")[indices_B]
        return {**batch, "ids": ids_BL, "mask": mask_BL, "media": media_B}

    def _read(self, clips: DecodedClips, index: int, number: int) -> tuple[Sample, int]:
        corpus, candidates = self._corpus(index)
        return read_or_replace(
            lambda tried, same: clips.read(int(self._rows[tried]), same), index, number, candidates, corpus.name
        )

    def _corpus(self, index: int) -> tuple[Corpus, range]:
        """The corpus of a sample, and its samples."""
        number = int(np.searchsorted(self._bounds, index, side="right")) - 1
        return self._corpora[number], range(int(self._bounds[number]), int(self._bounds[number + 1]))
