"""Vectors of windows and of queries that are drawn: a million windows without the videos.

Windows of a file lie close together, files gather in topics of unequal size, directions matter unequally, all windows
share a direction and all texts another one, as those of contrastive models do (the "modality gap"). So a query lies outside of
the windows' cloud, and its nearest windows are many that are almost equally near: the hard case for an approximate index.

Shapes: n windows, Q queries, E embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

PER_FILE = 10
TOPICS = 2000
BLOCK_FILES = 10_000
# Lengths of the parts that a vector is made of, before it is scaled to length 1.
SHARED, TOPIC, FILE, WINDOW, NOISE = 0.6, 0.7, 0.5, 0.25, 0.15
QUERY, QUERY_NOISE = 0.6, 0.3


@dataclass(frozen=True)
class World:
    """Where topics and files lie.

    Args:
        dim: E.
        windows: n.
        seed: of everything that is drawn.
    """

    dim: int
    windows: int
    seed: int = 0

    @property
    def files(self) -> int:
        return -(-self.windows // PER_FILE)

    def rng(self, *name: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.dim, *name))

    def latents(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Return vectors [count, E] of length about 1 whose first directions matter most, before they are turned."""
        scale_E = (np.arange(self.dim, dtype=np.float32) + 4) ** -0.6
        return rng.standard_normal((count, self.dim), dtype=np.float32) * (scale_E / np.linalg.norm(scale_E))

    def turned(self) -> np.ndarray:
        """Return the rotation [E, E] that hides which directions matter."""
        return np.linalg.qr(self.rng(1).standard_normal((self.dim, self.dim)))[0].astype(np.float32)

    def shared(self, number: int) -> np.ndarray:
        """Return the direction [E] of all windows (0) or all texts (1)."""
        return SHARED * unit(self.rng(2, number).standard_normal((1, self.dim), dtype=np.float32))

    def file_block(self, number: int) -> np.ndarray:
        """Return the latents [files, E] of a block of files."""
        topics = self.latents(self.rng(3), TOPICS)
        share = 1 / (np.arange(TOPICS) + 20.0)
        rng = self.rng(4, number)
        count = min(BLOCK_FILES, self.files - number * BLOCK_FILES)
        return TOPIC * topics[rng.choice(TOPICS, count, p=share / share.sum())] + FILE * self.latents(rng, count)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the windows' unit vectors, float32 [.., E], in order: all of a file, then the next file's."""
        turned_EE, shared_E, left = self.turned(), self.shared(0), self.windows
        for number in range(-(-self.files // BLOCK_FILES)):
            rng = self.rng(5, number)
            files = self.file_block(number)
            latents = np.repeat(files, PER_FILE, axis=0) + WINDOW * self.latents(rng, PER_FILE * len(files))
            noise = rng.standard_normal(latents.shape, dtype=np.float32) * (NOISE / self.dim**0.5)
            yield unit((latents + noise) @ turned_EE + shared_E)[:left]
            left -= PER_FILE * len(files)

    def queries(self, count: int) -> np.ndarray:
        """Return unit vectors [Q, E] of texts, each about a file of the first block."""
        rng, files = self.rng(6), self.file_block(0)
        latents = files[rng.integers(0, len(files), count)] + QUERY * self.latents(rng, count)
        noise = rng.standard_normal(latents.shape, dtype=np.float32) * (QUERY_NOISE / self.dim**0.5)
        return unit((latents + noise) @ self.turned() + self.shared(1))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
