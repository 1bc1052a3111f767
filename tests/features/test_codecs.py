"""Codecs: small error of direction, unit length, fixed sizes, row by row; code books of the same bytes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from umt_pipeline.core.errors import ConfigError, StoreError
from umt_pipeline.features.codecs import AnyCodec, Codec, Coder, Int8, Pq, cosine_error, read_learnt, write_learnt

# Every codec; what it errs by in direction, at most, on random unit vectors.
LARGEST_ERROR: dict[str, float] = {"fp16": 1e-6, "int8": 2e-4, "pq": 1.0}
CODECS: tuple[type[Codec], ...] = get_args(get_args(AnyCodec)[0])


def unit_vectors(shape: tuple[int, ...], seed: int, peak: float = 0.0) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    values[..., 0] += peak
    return torch.nn.functional.normalize(values, dim=-1)


def pq(bytes_per_token: int, learnt: torch.Tensor | None = None) -> Coder:
    return Coder(Pq(bytes_per_token=bytes_per_token), learnt)


def train_books(tokens_KGC: torch.Tensor, bytes_per_token: int) -> torch.Tensor:
    return Pq(bytes_per_token=bytes_per_token).learn(tokens_KGC)


@functools.cache
def coder(kind: type[Codec], width: int) -> Coder:
    """A codec with its defaults, which has learnt from random vectors of three layers if it learns."""
    codec = kind()  # type: ignore[call-arg]
    learnt = codec.learn(unit_vectors((3, 512, width), seed=7)) if codec.sampled_tokens else None
    assert learnt is None or learnt.shape == codec.learnt_shape(3, width)
    return Coder(codec, learnt)


@pytest.fixture(scope="module")
def books() -> torch.Tensor:
    """Code books of two layers of 16 values, 2 bytes per token."""
    return train_books(unit_vectors((2, 4096, 16), seed=7), 2)


@pytest.mark.parametrize("kind", CODECS)
@given(st.integers(1, 3), st.integers(1, 5), st.sampled_from([8, 64, 512]), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_direction_errs_little_and_length_stays_one(kind: type[Codec], rows: int, visible: int, width: int, seed: int) -> None:
    targets, codec = unit_vectors((rows, 3, visible, width), seed), coder(kind, width)
    encoded = codec.encode(targets)
    specs = codec.codec.arrays(3, visible, width)
    assert {key: (array.numpy().dtype, tuple(array.shape[1:])) for key, array in encoded.items()} == specs
    decoded = codec.decode(encoded)
    assert decoded.shape == targets.shape
    assert cosine_error(targets, decoded).max() < LARGEST_ERROR[codec.codec.kind]
    torch.testing.assert_close(decoded.float().norm(dim=-1), torch.ones(rows, 3, visible), rtol=0, atol=2e-3)


@pytest.mark.parametrize("kind", CODECS)
@given(st.integers(1, 6), st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_a_row_is_encoded_without_regard_to_the_others(kind: type[Codec], rows: int, seed: int) -> None:
    codec, targets = coder(kind, 16), unit_vectors((rows, 3, 30, 16), seed)
    together = codec.encode(targets)
    for row in range(rows):
        alone = codec.encode(targets[row : row + 1])
        assert all((together[key][row : row + 1] == alone[key]).all() for key in together)


def test_int8_bears_one_dominant_value_and_zero_vectors() -> None:
    peaked = unit_vectors((1, 1, 50, 512), 1, peak=100.0)
    codec = Coder(Int8())
    assert cosine_error(peaked, codec.decode(codec.encode(peaked))).max() < 2e-2
    assert (codec.decode(codec.encode(torch.zeros(1, 1, 1, 8))) == 0).all()


# --- product quantisation ---------------------------------------------------------------------------------------------


def test_pq_takes_the_nearest_word_of_its_layer_and_gives_unit_vectors(books: torch.Tensor) -> None:
    codec = pq(2, books)
    targets = unit_vectors((3, 2, 5, 16), seed=1)
    encoded = codec.encode(targets)
    assert codec.codec.arrays(2, 5, 16) == {"targets": (np.dtype("u1"), (2, 5, 2))}
    assert (encoded["targets"].dtype, encoded["targets"].shape) == (torch.uint8, (3, 2, 5, 2))
    parts = targets.unflatten(-1, (2, 8))
    distance = (parts.unsqueeze(-2) - books[None, :, None]).square().sum(-1)
    assert (encoded["targets"].long() == distance.argmin(-1)).all()
    decoded = codec.decode(encoded)
    first, second = encoded["targets"][2, 1, 4]
    by_hand = torch.cat((books[1, 0, int(first)], books[1, 1, int(second)]))
    torch.testing.assert_close(decoded[2, 1, 4], torch.nn.functional.normalize(by_hand, dim=0))
    torch.testing.assert_close(decoded.norm(dim=-1), torch.ones(3, 2, 5))


def test_pq_codes_are_those_of_faiss(books: torch.Tensor) -> None:
    import faiss

    targets = unit_vectors((1, 2, 500, 16), seed=3)
    codes = pq(2, books).encode(targets)["targets"]
    for layer in range(2):
        quantiser = faiss.ProductQuantizer(16, 2, 8)
        faiss.copy_array_to_vector(books[layer].numpy().ravel(), quantiser.centroids)
        assert (codes[0, layer].numpy() == quantiser.compute_codes(targets[0, layer].numpy())).all()


def test_pq_learns_what_it_is_trained_on() -> None:
    """256 distinct tokens have 256 words: nothing is lost. Layers have books of their own."""
    tokens = unit_vectors((2, 256, 16), seed=4)
    codec = pq(1, train_books(tokens, 1))
    targets = tokens.unsqueeze(0)
    assert cosine_error(targets, codec.decode(codec.encode(targets))).max() < 1e-6
    swapped = targets.flip(1)
    assert cosine_error(swapped, codec.decode(codec.encode(swapped))).mean() > 0.1


def test_more_bytes_err_less() -> None:
    tokens = unit_vectors((1, 4096, 16), seed=5)
    held_out = unit_vectors((1, 1, 500, 16), seed=6)
    errors = []
    for size in (1, 2, 4):
        codec = pq(size, train_books(tokens, size))
        errors.append(float(cosine_error(held_out, codec.decode(codec.encode(held_out))).mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05


def test_books_have_the_same_bytes_for_any_number_of_threads(books: torch.Tensor) -> None:
    import faiss

    before = faiss.omp_get_max_threads()
    try:
        for threads in (1, 4):
            faiss.omp_set_num_threads(threads)
            assert torch.equal(train_books(unit_vectors((2, 4096, 16), seed=7), 2), books)
            assert faiss.omp_get_max_threads() == threads, "the caller's setting is left alone"
    finally:
        faiss.omp_set_num_threads(before)


@pytest.mark.parametrize(("width", "size"), [(512, 64), (768, 64), (1024, 64), (128, 16), (64, 8), (16, 2), (7, 1)])
def test_default_bytes_per_token(width: int, size: int) -> None:
    assert Pq().for_width(width).bytes_per_token == size


def test_what_pq_cannot_do_is_refused(books: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a divisor of the target width 16, found 5"):
        Pq(bytes_per_token=5).for_width(16)
    with pytest.raises(ConfigError, match=r"expected at least 256 sampled tokens per layer .* found 255"):
        train_books(unit_vectors((1, 255, 16), seed=0), 2)
    with pytest.raises(ValueError, match="expected code books"):
        pq(2).encode(torch.zeros(1, 1, 1, 16))
    path, codec = tmp_path / "codec.safetensors", Pq(bytes_per_token=2)
    write_learnt(path, books)
    assert torch.equal(read_learnt(path, codec.learnt_shape(2, 16)), books)
    with pytest.raises(StoreError, match=r"expected 'learnt' of shape \(3, 2, 256, 8\), found .*\(2, 2, 256, 8\)"):
        read_learnt(path, codec.learnt_shape(3, 16))
    path.write_bytes(b"x" * 100)
    with pytest.raises(StoreError, match=r"codec\.safetensors: cannot be read"):
        read_learnt(path, codec.learnt_shape(2, 16))
