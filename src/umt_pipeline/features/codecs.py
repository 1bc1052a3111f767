"""How targets lie on disk: a codec turns unit-norm vectors into arrays of fixed size per row and back.

Legend: R rows (clip views), K aligned layers, V visible tokens, C target width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

CodecName = Literal["fp16", "int8"]


class ArraySpec(NamedTuple):
    """One array of a record: its element type and its shape without the leading row axis."""

    dtype: np.dtype
    shape: tuple[int, ...]


class Codec(ABC):
    """Encodes unit-norm targets row by row; what it writes for a row does not depend on the other rows."""

    name: CodecName

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
        """See :class:`Codec`."""
        return {"targets": ArraySpec(np.dtype("<f2"), (layers, visible, target_dim))}

    def encode(self, targets_RKVC: Tensor) -> dict[str, np.ndarray]:
        """See :class:`Codec`."""
        return {"targets": targets_RKVC.detach().half().cpu().contiguous().numpy()}

    def decode(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """See :class:`Codec`; float16."""
        return arrays["targets"]


class Int8Codec(Codec):
    """One byte per value, one scale per token.

    Codes are values times 127 / largest magnitude of the token, rounded. The scale is one over the codes' length, not
    the magnitude, because targets are unit vectors: what comes back then has unit length and only its direction errs.
    """

    name = "int8"

    def arrays(self, layers: int, visible: int, target_dim: int) -> dict[str, ArraySpec]:
        """See :class:`Codec`."""
        return {
            "targets": ArraySpec(np.dtype("i1"), (layers, visible, target_dim)),
            "scales": ArraySpec(np.dtype("<f4"), (layers, visible)),
        }

    def encode(self, targets_RKVC: Tensor) -> dict[str, np.ndarray]:
        """See :class:`Codec`."""
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
        """See :class:`Codec`; float32."""
        return arrays["targets"].float() * arrays["scales"].unsqueeze(-1)


_CODECS: dict[CodecName, type[Codec]] = {"fp16": Fp16Codec, "int8": Int8Codec}


def get_codec(name: CodecName) -> Codec:
    """Return the codec of that name."""
    return _CODECS[name]()


def cosine_error(targets: Tensor, decoded: Tensor) -> Tensor:
    """Return 1 - cosine between vectors on the last axis, float64 so that small errors are not rounded away."""
    return 1.0 - torch.nn.functional.cosine_similarity(targets.double(), decoded.double(), dim=-1)
