"""How targets lie on disk: a codec turns unit-norm vectors into arrays of fixed size per row and back.

A codec is a class of settings that owns all there is to it: options, arrays, packages, and what it learns from a corpus. A new
one is a class here and a member of :data:`AnyCodec`.

Legend: R rows (clip views), K aligned layers, V visible tokens, C target width, G sampled tokens, M sub-vectors of a token, Z
words of a code book, D values of a sub-vector (M * D = C).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError, StoreError
from umt_pipeline.core.files import staged_file
from umt_pipeline.core.processes import cores

# A sub-vector's code is one byte.
WORDS = 256
# 64 bytes for the 512 values of CLIP-B, one bit per value; a sub-vector of fewer values wastes its byte.
_MOST_BYTES = 64
_LEAST_VALUES = 8


class ArraySpec(NamedTuple):
    """One array of a record: its element type and its shape without the leading row axis."""

    dtype: np.dtype
    shape: tuple[int, ...]


class Codec(Config, ABC):
    """Encodes unit-norm targets row by row; what it writes for a row does not depend on the other rows.

    Attributes:
        kind: names it.
        packages: whose versions decide what it writes, besides those of extraction itself.
        sampled_tokens: tokens per layer that it learns from before it encodes; 0: it learns nothing.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    sampled_tokens: ClassVar[int] = 0

    kind: str

    def for_width(self, target_dim: int) -> Self:
        """Return the codec with all that depends on the targets' width decided.

        Raises:
            ConfigError: an option does not fit the width.
        """
        del target_dim
        return self

    @abstractmethod
    def arrays(self, layers: int, visible: int, target_dim: int) -> dict[str, ArraySpec]:
        """Return the arrays that :meth:`encode` makes, by name; ``pixels``, ``attention`` and ``visible`` are taken."""

    @abstractmethod
    def encode(self, targets_RKVC: Tensor, learnt: Tensor | None = None) -> dict[str, Tensor]:
        """Encode unit-norm float targets on their device, with what was learnt if the codec learns."""

    @abstractmethod
    def decode(self, arrays: Mapping[str, Tensor], learnt: Tensor | None = None) -> Tensor:
        """Return targets [R,K,V,C], on the arrays' device, in the cheapest type that adds no error of its own."""

    def sampled_rows(self) -> int:
        """Return from how many rows, drawn from the whole store, the sampled tokens are taken."""
        return 0

    def learn(self, tokens_KGC: Tensor) -> Tensor:
        """Return what encoding needs to know of the corpus; called if ``sampled_tokens`` is above 0.

        Args:
            tokens_KGC: a sample of its targets.
        """
        raise NotImplementedError(f"codec {self.kind} learns nothing")

    def learnt_shape(self, layers: int, target_dim: int) -> tuple[int, ...]:
        """Return the shape of what :meth:`learn` returns."""
        raise NotImplementedError(f"codec {self.kind} learns nothing")


class Fp16(Codec):
    """Half precision: relative error per value at most 2^-11, two bytes per value."""

    kind: Literal["fp16"] = "fp16"

    def arrays(self, layers: int, visible: int, target_dim: int) -> dict[str, ArraySpec]:
        return {"targets": ArraySpec(np.dtype("<f2"), (layers, visible, target_dim))}

    def encode(self, targets_RKVC: Tensor, learnt: Tensor | None = None) -> dict[str, Tensor]:
        return {"targets": targets_RKVC.detach().half().contiguous()}

    def decode(self, arrays: Mapping[str, Tensor], learnt: Tensor | None = None) -> Tensor:
        """Float16."""
        return arrays["targets"]


class Int8(Codec):
    """One byte per value, one scale per token.

    Codes are values times 127 / largest magnitude of the token, rounded. The scale is one over the codes' length, not
    the magnitude, because targets are unit vectors: what comes back then has unit length and only its direction errs.
    """

    kind: Literal["int8"] = "int8"

    def arrays(self, layers: int, visible: int, target_dim: int) -> dict[str, ArraySpec]:
        return {
            "targets": ArraySpec(np.dtype("i1"), (layers, visible, target_dim)),
            "scales": ArraySpec(np.dtype("<f4"), (layers, visible)),
        }

    def encode(self, targets_RKVC: Tensor, learnt: Tensor | None = None) -> dict[str, Tensor]:
        targets = targets_RKVC.detach().float()
        # Zero vectors (no direction) stay zero: the clamps only keep their division finite.
        largest_RKV1 = targets.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12)
        codes = (targets * (127.0 / largest_RKV1)).round()
        scales_RKV = 1.0 / codes.norm(dim=-1).clamp(min=1.0)
        return {"targets": codes.to(torch.int8).contiguous(), "scales": scales_RKV.contiguous()}

    def decode(self, arrays: Mapping[str, Tensor], learnt: Tensor | None = None) -> Tensor:
        """Float32."""
        return arrays["targets"].float() * arrays["scales"].unsqueeze(-1)


class Pq(Codec):
    """Product quantisation: each of M sub-vectors of a token is the number of the nearest word in its code book.

    What it learns are code books float32 [K,M,Z,D], trained by faiss, one set per layer, since layers differ.

    Attributes:
        bytes_per_token: M, sub-vectors per token, one byte each; must divide the target width. None: the largest divisor that
            is at most 64 and leaves a sub-vector at least 8 values (64 for widths 512 and 768, 16 for 128).
        sample_rows: rows, drawn from the whole store, whose tokens the code books are trained on.
    """

    packages: ClassVar[tuple[str, ...]] = ("faiss-cpu",)
    # 128 for each word, in the middle of what faiss asks for (39 to 256).
    sampled_tokens: ClassVar[int] = 128 * WORDS

    kind: Literal["pq"] = "pq"
    bytes_per_token: int | None = Field(None, ge=1)
    sample_rows: int = Field(1024, ge=1)

    def for_width(self, target_dim: int) -> Self:
        if self.bytes_per_token is None:
            sizes = range(1, min(_MOST_BYTES, target_dim) + 1)
            fitting = [size for size in sizes if target_dim % size == 0 and target_dim // size >= _LEAST_VALUES]
            return self.model_copy(update={"bytes_per_token": max(fitting, default=1)})
        if target_dim % self.bytes_per_token:
            raise ConfigError(
                f"teacher_features.codec.bytes_per_token: expected a divisor of the target width {target_dim}, "
                f"found {self.bytes_per_token}"
            )
        return self

    def arrays(self, layers: int, visible: int, target_dim: int) -> dict[str, ArraySpec]:
        return {"targets": ArraySpec(np.dtype("u1"), (layers, visible, self._sub_vectors(target_dim)))}

    def encode(self, targets_RKVC: Tensor, learnt: Tensor | None = None) -> dict[str, Tensor]:
        """Encode on the targets' device.

        Row by row: a matrix product of another shape rounds differently, and of two words that are equally near another
        one would then be taken, depending on how many rows came at once.
        """
        books_KMZD = _books(learnt).to(targets_RKVC.device)
        # |x - w|^2 without |x|^2, which is the same for all words.
        half_squares_KM1Z = 0.5 * books_KMZD.square().sum(-1).unsqueeze(2)
        words_KMDZ = books_KMZD.transpose(2, 3)
        codes = []
        for targets_KVC in targets_RKVC.detach().float():
            parts_KMVD = targets_KVC.unflatten(-1, (books_KMZD.shape[1], -1)).transpose(1, 2)
            codes.append((half_squares_KM1Z - parts_KMVD @ words_KMDZ).argmin(dim=-1).transpose(1, 2).to(torch.uint8))
        return {"targets": torch.stack(codes).contiguous()}

    def decode(self, arrays: Mapping[str, Tensor], learnt: Tensor | None = None) -> Tensor:
        """Float32. A gather of words; the result is brought to unit length."""
        codes_RKVM = arrays["targets"]
        books_KMZD = _books(learnt).to(codes_RKVM.device)
        K, M, Z, _ = books_KMZD.shape
        starts_K1M = torch.arange(0, K * M * Z, Z, device=codes_RKVM.device, dtype=torch.int32).reshape(K, 1, M)
        return F.normalize(F.embedding(codes_RKVM.int() + starts_K1M, books_KMZD.flatten(0, 2)).flatten(-2), dim=-1)

    def sampled_rows(self) -> int:
        return self.sample_rows

    def learn(self, tokens_KGC: Tensor) -> Tensor:
        """Train code books; the same tokens give the same bytes.

        Raises:
            ConfigError: there are fewer tokens than words.
        """
        if tokens_KGC.shape[1] < WORDS:
            raise ConfigError(
                f"teacher_features.codec pq: expected at least {WORDS} sampled tokens per layer to train {WORDS} words on, "
                f"found {tokens_KGC.shape[1]}. Raise teacher_features.codec.sample_rows, extract more clips, or choose the "
                "codec int8"
            )
        layers = [np.ascontiguousarray(tokens_GC) for tokens_GC in tokens_KGC.detach().float().cpu().numpy()]
        sizes = [self._sub_vectors(tokens_KGC.shape[2])] * len(layers)
        # Each layer in one thread of its own: sums then do not depend on the number of cores. faiss' setting holds for the
        # thread that makes it, so torch and scikit-learn keep theirs.
        with ThreadPoolExecutor(min(len(layers), cores())) as pool:
            return torch.from_numpy(np.stack(list(pool.map(_train_layer, layers, sizes))))

    def learnt_shape(self, layers: int, target_dim: int) -> tuple[int, ...]:
        sub_vectors = self._sub_vectors(target_dim)
        return (layers, sub_vectors, WORDS, target_dim // sub_vectors)

    def _sub_vectors(self, target_dim: int) -> int:
        size = self.for_width(target_dim).bytes_per_token
        assert size is not None
        return size


def _short_form(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


# `int8` is short for `{kind: int8}`.
AnyCodec = Annotated[Fp16 | Int8 | Pq, Field(discriminator="kind"), BeforeValidator(_short_form)]


@dataclass(frozen=True)
class Coder:
    """A codec with what it has learnt.

    Attributes:
        codec: the codec.
        learnt: from :meth:`Codec.learn`; None if it learns nothing.
    """

    codec: Codec
    learnt: Tensor | None = None

    def to(self, device: torch.device) -> Coder:
        """Return it with what it has learnt on a device."""
        return Coder(self.codec, None if self.learnt is None else self.learnt.to(device))

    def encode(self, targets_RKVC: Tensor) -> dict[str, Tensor]:
        """Encode targets; see :meth:`Codec.encode`."""
        return self.codec.encode(targets_RKVC, self.learnt)

    def decode(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """Return targets [R,K,V,C]; see :meth:`Codec.decode`."""
        return self.codec.decode(arrays, self.learnt)


def write_learnt(path: Path, learnt: Tensor) -> None:
    """Write what a codec has learnt, whole or not at all."""
    with staged_file(path) as staged:
        save_file({"learnt": learnt.contiguous()}, staged)


def read_learnt(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Read what a codec has learnt.

    Raises:
        StoreError: it cannot be read, or has another shape.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path}: cannot be read: {error}. Make the feature store again") from error
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != {"learnt": shape}:
        raise StoreError(f"{path}: expected 'learnt' of shape {shape}, found {found}. Make the feature store again")
    return tensors["learnt"]


def cosine_error(targets: Tensor, decoded: Tensor) -> Tensor:
    """Return 1 - cosine between vectors on the last axis, float64 so that small errors are not rounded away."""
    return 1.0 - F.cosine_similarity(targets.double(), decoded.double(), dim=-1)


def _books(learnt: Tensor | None) -> Tensor:
    if learnt is None:
        raise ValueError("codec pq: expected code books to encode and decode with, found none")
    return learnt


def _train_layer(tokens_GC: np.ndarray, sub_vectors: int) -> np.ndarray:
    # Here, not at the top: training reads code books and never loads faiss.
    import faiss

    faiss.omp_set_num_threads(1)
    width = tokens_GC.shape[1]
    quantiser = faiss.ProductQuantizer(width, sub_vectors, 8)
    quantiser.cp.seed = 0
    # The sample is chosen already: take all of it, and do not complain about a small corpus.
    quantiser.cp.max_points_per_centroid = len(tokens_GC)
    quantiser.cp.min_points_per_centroid = 1
    quantiser.train(tokens_GC)
    return faiss.vector_to_array(quantiser.centroids).reshape(sub_vectors, WORDS, width // sub_vectors)
