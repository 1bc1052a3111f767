"""Code books of the codec ``pq``: trained by faiss on a sample of the targets, kept in the store beside the codes.

Legend: K aligned layers, S sampled tokens, C target width, M sub-vectors of a token, W words of a code book, D values of a
sub-vector (M * D = C).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from umt_pipeline.core.errors import ConfigError, StoreError
from umt_pipeline.core.files import staged_file
from umt_pipeline.features.codecs import WORDS

BOOKS_FILE = "codebooks.safetensors"
# Tokens per layer: 128 for each word, in the middle of what faiss asks for (39 to 256).
SAMPLED_TOKENS = 128 * WORDS


def train_books(tokens_KSC: Tensor, bytes_per_token: int) -> Tensor:
    """Train one set of code books per layer, since layers differ; the same tokens give the same bytes.

    Args:
        tokens_KSC: unit-norm targets.
        bytes_per_token: M, a divisor of C.

    Returns:
        float32 [K,M,W,D].

    Raises:
        ConfigError: there are fewer tokens than words.
    """
    if tokens_KSC.shape[1] < WORDS:
        raise ConfigError(
            f"teacher_features.codec pq: expected at least {WORDS} sampled tokens per layer to train {WORDS} words on, found "
            f"{tokens_KSC.shape[1]}. Raise teacher_features.pq.sample_rows, extract more clips, or choose the codec int8"
        )
    layers = [np.ascontiguousarray(tokens_SC) for tokens_SC in tokens_KSC.detach().float().cpu().numpy()]
    # Each layer in one thread of its own: sums then do not depend on the number of cores. faiss' setting holds for the
    # thread that makes it, so torch and scikit-learn keep theirs.
    with ThreadPoolExecutor(min(len(layers), os.cpu_count() or 1)) as pool:
        return torch.from_numpy(np.stack(list(pool.map(_train_layer, layers, [bytes_per_token] * len(layers)))))


def _train_layer(tokens_SC: np.ndarray, bytes_per_token: int) -> np.ndarray:
    # Here, not at the top: training reads code books and never loads faiss.
    import faiss

    faiss.omp_set_num_threads(1)
    width = tokens_SC.shape[1]
    quantiser = faiss.ProductQuantizer(width, bytes_per_token, 8)
    quantiser.cp.seed = 0
    # The sample is chosen already: take all of it, and do not complain about a small corpus.
    quantiser.cp.max_points_per_centroid = len(tokens_SC)
    quantiser.cp.min_points_per_centroid = 1
    quantiser.train(tokens_SC)
    return faiss.vector_to_array(quantiser.centroids).reshape(bytes_per_token, WORDS, width // bytes_per_token)


def write_books(folder: Path, books_KMWD: Tensor) -> None:
    """Write code books into a store's folder, whole or not at all."""
    with staged_file(folder / BOOKS_FILE) as staged:
        save_file({"books": books_KMWD.contiguous()}, staged)


def read_books(folder: Path, layers: int, bytes_per_token: int, target_dim: int) -> Tensor:
    """Read the code books of a store's folder, float32 [K,M,W,D].

    Raises:
        StoreError: they cannot be read, or have another shape.
    """
    path = folder / BOOKS_FILE
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path}: cannot be read: {error}. Make the feature store again") from error
    expected = (layers, bytes_per_token, WORDS, target_dim // bytes_per_token)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != {"books": expected}:
        raise StoreError(f"{path}: expected 'books' of shape {expected}, found {found}. Make the feature store again")
    return tensors["books"]
