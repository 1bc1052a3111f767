"""Codecs: small error of direction, unit length, fixed sizes, row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from umt_pipeline.features.codecs import CodecName, cosine_error, get_codec

LARGEST_ERROR = {"fp16": 1e-6, "int8": 2e-4}


def unit_vectors(shape: tuple[int, ...], seed: int, peak: float = 0.0) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    values[..., 0] += peak
    return torch.nn.functional.normalize(values, dim=-1)


def decode(name: CodecName, encoded: dict[str, np.ndarray]) -> torch.Tensor:
    return get_codec(name).decode({key: torch.from_numpy(array) for key, array in encoded.items()})


@pytest.mark.parametrize("name", ["fp16", "int8"])
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.sampled_from([8, 64, 512]), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_direction_errs_little_and_length_stays_one(
    name: CodecName, rows: int, layers: int, visible: int, width: int, seed: int
) -> None:
    targets = unit_vectors((rows, layers, visible, width), seed)
    encoded = get_codec(name).encode(targets)
    specs = get_codec(name).arrays(layers, visible, width)
    assert {key: (array.dtype, array.shape[1:]) for key, array in encoded.items()} == specs
    decoded = decode(name, encoded)
    assert decoded.shape == targets.shape
    assert cosine_error(targets, decoded).max() < LARGEST_ERROR[name]
    torch.testing.assert_close(decoded.float().norm(dim=-1), torch.ones(rows, layers, visible), rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", ["fp16", "int8"])
def test_a_row_is_encoded_without_regard_to_the_others(name: CodecName) -> None:
    targets = unit_vectors((4, 2, 3, 16), 0)
    together = get_codec(name).encode(targets)
    alone = get_codec(name).encode(targets[2:3])
    assert all((together[key][2:3] == alone[key]).all() for key in together)


def test_int8_bears_one_dominant_value_and_zero_vectors() -> None:
    peaked = unit_vectors((1, 1, 50, 512), 1, peak=100.0)
    assert cosine_error(peaked, decode("int8", get_codec("int8").encode(peaked))).max() < 2e-2
    assert (decode("int8", get_codec("int8").encode(torch.zeros(1, 1, 1, 8))) == 0).all()
