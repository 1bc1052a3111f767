"""Classifiers of one or more label tasks, asked as in their test: the mean over several views of each video.

Shapes: n videos, R views of a video, T frames, C classes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from umt_pipeline.compute.names import Precision
from umt_pipeline.compute.precision import autocast
from umt_pipeline.core.processes import cores
from umt_pipeline.core.progress import progress
from umt_pipeline.evaluation.decoding import decoded
from umt_pipeline.evaluation.workers import default_device
from umt_pipeline.serving.files import require_all
from umt_pipeline.serving.inputs import Span, Video, views_of
from umt_pipeline.tasks.classification.model import Classifier
from umt_pipeline.tasks.classification.testing import MultiViewTest
from umt_pipeline.video.action_views import ClipConfig
from umt_pipeline.video.pixels import normalise_patches, patchify


@dataclass(frozen=True)
class Classified:
    """What classifiers say of videos.

    Attributes:
        classes: of each label task, its C labels.
        probabilities: of each label task, float64 [n, C]; a row of NaN where the video could not be read.
        failures: number of a video, from 0, to why it could not be read.
    """

    classes: Mapping[str, tuple[str, ...]]
    probabilities: Mapping[str, np.ndarray]
    failures: Mapping[int, str]

    def all(self) -> Mapping[str, np.ndarray]:
        """Return the probabilities of all videos.

        Raises:
            VideoError: some could not be read; they are named.
        """
        require_all({f"video {number}": reason for number, reason in self.failures.items()})
        return self.probabilities

    def best(self, number: int, count: int | None = None) -> dict[str, list[tuple[str, float]]]:
        """Return of each label task the labels of a video with their probabilities, the likeliest first.

        Args:
            number: of the video, from 0.
            count: labels of each task; None: all.

        Raises:
            VideoError: the video could not be read.
        """
        require_all({f"video {number}": reason for failed, reason in self.failures.items() if failed == number})
        found = {}
        for task, classes in self.classes.items():
            share_C = self.probabilities[task][number]
            order = np.argsort(-share_C, kind="stable")[:count]
            found[task] = [(classes[index], float(share_C[index])) for index in order]
        return found


@dataclass(frozen=True)
class Classifiers:
    """Classifiers that are shown videos in the same way.

    Args:
        parts: of each label task, its labels and its classifier, on the device that it runs on and in eval mode.
        clip: frames of a view, and how they are sampled.
        test: number of views.
        precision: what the models run in.
    """

    parts: Mapping[str, tuple[tuple[str, ...], Classifier]]
    clip: ClipConfig
    test: MultiViewTest
    precision: Precision

    def classify(self, videos: Sequence[Video], spans: Sequence[Span | None] | None = None) -> Classified:
        """Return the probabilities of all labels; a video is decoded once, whatever the number of tasks.

        Args:
            videos: n videos.
            spans: of each, first and last second of the part that is meant, or None for all of it; None: all of each.

        Raises:
            ValueError: there are not as many spans as videos.
        """
        parts = list(zip(videos, [None] * len(videos) if spans is None else spans, strict=True))
        classes = {task: names for task, (names, _) in self.parts.items()}
        shares = {task: np.full((len(videos), len(names)), np.nan) for task, names in classes.items()}
        failures: dict[int, str] = {}
        batch = max(1, self.test.batch_size // (self.test.clips * self.test.crops))
        load = functools.partial(self._load, parts)
        with progress("classifying", len(videos), "video") as show:
            for views, failed in decoded(range(len(videos)), load, batch, self.test.workers or cores()):
                failures |= failed
                for task, (_, model) in self.parts.items():
                    if views:
                        shares[task][list(views)] = self._shares(model, list(views.values()))
                show(max([*views, *failed]) + 1)
        return Classified(classes, shares, failures)

    def _load(self, parts: Sequence[tuple[Video, Span | None]], number: int) -> np.ndarray:
        video, span = parts[number]
        return views_of(video, self.clip, self.test, span)

    @torch.inference_mode()
    def _shares(self, model: Classifier, views: Sequence[np.ndarray]) -> np.ndarray:
        """Return the mean over its views of each video's softmax, float64 [n, C], as in the test."""
        device = default_device()
        frames_RTSSC = torch.from_numpy(np.concatenate(views)).to(device)
        with autocast(self.precision, device):
            logits_RC = model(normalise_patches(patchify(frames_RTSSC, model.config.vision.patch_size)))
        shares = logits_RC.double().softmax(dim=-1).split([len(part) for part in views])
        return torch.stack([share.mean(dim=0) for share in shares]).cpu().numpy()
