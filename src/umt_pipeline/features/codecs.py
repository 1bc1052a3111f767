"""How targets lie on disk: a codec turns unit-norm vectors into arrays of fixed size per row and back.

Legend: R rows (clip views), K aligned layers, V visible tokens, C target width, M sub-vectors of a token, W words of a code
book, D values of a sub-vector (M * D = C).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, NamedTuple, assert_never

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError

CodecName = Literal["fp16", "int8", "pq"]

# A sub-vector's code is one byte.
WORDS = 256
# 64 bytes for the 512 values of CLIP-B, one bit per value; a sub-vector of fewer values wastes its byte.
_MOST_BYTES = 64
_LEAST_VALUES = 8


class PqConfig(Config):
    """Product quantisation.

    Args:
        bytes_per_token: sub-vectors per token, one byte each; must divide the target width. null: the largest divisor
            that is at most 64 and leaves a sub-vector at least 8 values (64 for widths 512 and 768, 16 for 128).
        sample_rows: rows, drawn from the whole store, whose tokens the code books are trained on.
    """

    bytes_per_token: int | None = Field(None, ge=1)
    sample_rows: int = Field(1024, ge=1)

    def resolved(self, target_dim: int) -> PqConfig:
        """Return the configuration with ``bytes_per_token`` decided for a target width.

        Raises:
            ConfigError: it does not divide the width.
        """
        if self.bytes_per_token is None:
            sizes = range(1, min(_MOST_BYTES, target_dim) + 1)
            fitting = [size for size in sizes if target_dim % size == 0 and target_dim // size >= _LEAST_VALUES]
            return self.model_copy(update={"bytes_per_token": max(fitting, default=1)})
        if target_dim % self.bytes_per_token:
            raise ConfigError(
                f"teacher_features.pq.bytes_per_token: expected a divisor of the target width {target_dim}, "
                f"found {self.bytes_per_token}"
            )
        return self


class ArraySpec(NamedTuple):
    """One array of a record: its element type and its shape without the leading row axis."""

    dtype: np.dtype
    shape: tuple[int, ...]


class Codec(ABC):
    """Encodes unit-norm targets row by row; what it writes for a row does not depend on the other rows."""

    name: CodecName

    def to(self, device: torch.device) -> None:
        """Move what decoding needs to the device, once; nothing for most codecs."""
        return

    @abstractmethod
    def arrays(self, layers: int, visible: int, target_dim: int) -> dict[str, ArraySpec]:
        """Return the arrays that :meth:`encode` makes, by name."""

    @abstractmethod
    def encode(self, targets_RKVC: Tensor) -> dict[str, np.ndarray]:
        """Encode unit-norm float targets [R,K,V,C]."""

    @abstractmethod
    def decode(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """Return targets [R,K,V,C], on the arrays' device, in the cheapest type that adds no error of its own."""


class Fp16Codec(Codec):
    """Half precision: relative error per value at most 2^-11, two bytes per value."""

    name = "fp16"

    def arrays(self, layers: int, visible: int, target_dim: int) -> dict[str, ArraySpec]:
        return {"targets": ArraySpec(np.dtype("<f2"), (layers, visible, target_dim))}

    def encode(self, targets_RKVC: Tensor) -> dict[str, np.ndarray]:
        return {"targets": targets_RKVC.detach().half().cpu().contiguous().numpy()}

    def decode(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """Float16."""
        return arrays["targets"]


class Int8Codec(Codec):
    """One byte per value, one scale per token.

    Codes are values times 127 / largest magnitude of the token, rounded. The scale is one over the codes' length, not
    the magnitude, because targets are unit vectors: what comes back then has unit length and only its direction errs.
    """

    name = "int8"

    def arrays(self, layers: int, visible: int, target_dim: int) -> dict[str, ArraySpec]:
        return {
            "targets": ArraySpec(np.dtype("i1"), (layers, visible, target_dim)),
            "scales": ArraySpec(np.dtype("<f4"), (layers, visible)),
        }

    def encode(self, targets_RKVC: Tensor) -> dict[str, np.ndarray]:
        targets = targets_RKVC.detach().float()
        # Zero vectors (no direction) stay zero: the clamps only keep their division finite.
        largest_RKV1 = targets.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12)
        codes = (targets * (127.0 / largest_RKV1)).round()
        scales_RKV = 1.0 / codes.norm(dim=-1).clamp(min=1.0)
        return {
            "targets": codes.to(torch.int8).cpu().contiguous().numpy(),
            "scales": scales_RKV.cpu().contiguous().numpy(),
        }

    def decode(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """Float32."""
        return arrays["targets"].float() * arrays["scales"].unsqueeze(-1)


class PqCodec(Codec):
    """Product quantisation: each of M sub-vectors of a token is the number of the nearest word in its code book.

    Args:
        bytes_per_token: M.
        books_KMWD: code books, one set per aligned layer (see :mod:`umt_pipeline.features.codebooks`); None where only
            the layout is asked for.
    """

    name = "pq"

    def __init__(self, bytes_per_token: int, books_KMWD: Tensor | None = None) -> None:
        self._bytes = bytes_per_token
        self._books_KMWD = books_KMWD

    def to(self, device: torch.device) -> None:
        """Moves the code books."""
        if self._books_KMWD is not None:
            self._books_KMWD = self._books_KMWD.to(device)

    def arrays(self, layers: int, visible: int, target_dim: int) -> dict[str, ArraySpec]:
        return {"targets": ArraySpec(np.dtype("u1"), (layers, visible, self._bytes))}

    def encode(self, targets_RKVC: Tensor) -> dict[str, np.ndarray]:
        """On the targets' device.

        Row by row: a matrix product of another shape rounds differently, and of two words that are equally near another
        one would then be taken, depending on how many rows came at once.
        """
        books_KMWD = self._books().to(targets_RKVC.device)
        # |x - w|^2 without |x|^2, which is the same for all words.
        half_squares_KM1W = 0.5 * books_KMWD.square().sum(-1).unsqueeze(2)
        words_KMDW = books_KMWD.transpose(2, 3)
        codes = []
        for targets_KVC in targets_RKVC.detach().float():
            parts_KMVD = targets_KVC.unflatten(-1, (self._bytes, -1)).transpose(1, 2)
            codes.append((half_squares_KM1W - parts_KMVD @ words_KMDW).argmin(dim=-1).transpose(1, 2).to(torch.uint8))
        return {"targets": torch.stack(codes).cpu().contiguous().numpy()}

    def decode(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """Float32. A gather of words; the result is brought to unit length."""
        codes_RKVM = arrays["targets"]
        books_KMWD = self._books().to(codes_RKVM.device)
        K, M, W, _ = books_KMWD.shape
        starts_K1M = torch.arange(0, K * M * W, W, device=codes_RKVM.device, dtype=torch.int32).reshape(K, 1, M)
        return F.normalize(F.embedding(codes_RKVM.int() + starts_K1M, books_KMWD.flatten(0, 2)).flatten(-2), dim=-1)

    def _books(self) -> Tensor:
        if self._books_KMWD is None:
            raise ValueError("codec pq: expected code books to encode and decode with, found none")
        return self._books_KMWD


def make_codec(name: CodecName, pq: PqConfig | None = None, books_KMWD: Tensor | None = None) -> Codec:
    """Return the codec of that name.

    Args:
        name: of the codec.
        pq: for ``pq``: its configuration, resolved.
        books_KMWD: for ``pq``: its code books; not needed to ask for the layout.
    """
    match name:
        case "fp16":
            return Fp16Codec()
        case "int8":
            return Int8Codec()
        case "pq":
            assert pq is not None
            assert pq.bytes_per_token is not None
            return PqCodec(pq.bytes_per_token, books_KMWD)
    assert_never(name)


def cosine_error(targets: Tensor, decoded: Tensor) -> Tensor:
    """Return 1 - cosine between vectors on the last axis, float64 so that small errors are not rounded away."""
    return 1.0 - F.cosine_similarity(targets.double(), decoded.double(), dim=-1)
