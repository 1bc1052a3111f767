"""Arrays whose rows lie in safetensors files, read when they are needed.

With ordinary reads, not from mapped memory: so a process is charged for what it holds alone, and a file that was cut short
meanwhile is an error with a message, not the end of the process.

Shapes: S rows, B of them read at once.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from umt_pipeline.core.files import staged_file
from umt_pipeline.evaluation.metrics import EvaluationError

DTYPES = {"F16": torch.float16, "F32": torch.float32, "BOOL": torch.bool}


class StoredArray:
    """An array whose rows lie in files, read when they are needed. It can be sent to other processes.

    Each file is a path and the offset of the array's first byte there; a row is an index in one of the files. The shape is
    that of a row, the name for messages.
    """

    def __init__(
        self,
        name: str,
        files: Sequence[tuple[Path, int]],
        shape: Sequence[int],
        dtype: torch.dtype,
        file_S: np.ndarray,
        index_S: np.ndarray,
    ) -> None:
        self.name, self.files, self.dtype = name, list(files), dtype
        self.shape = (len(file_S), *shape)
        self._file_S, self._index_S = file_S, index_S

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray | Tensor | slice) -> Tensor:
        """Copy some rows [B, ...] into memory.

        Raises:
            EvaluationError: a file is gone or too short.
        """
        file_B, index_B = self._file_S[rows], self._index_S[rows]
        array = torch.empty((len(file_B), *self.shape[1:]), dtype=self.dtype)
        if array.numel() == 0:
            return array
        row_bytes = array[0].numel() * array.element_size()
        view = array.numpy().reshape(-1).view(np.uint8).data
        # Neighbours in a file are read at once.
        breaks = np.flatnonzero((np.diff(file_B) != 0) | (np.diff(index_B) != 1)) + 1
        starts = [0, *breaks.tolist(), len(file_B)]
        for start, stop in itertools.pairwise(starts):
            path, offset = self.files[file_B[start]]
            self._read(path, offset + int(index_B[start]) * row_bytes, view[start * row_bytes : stop * row_bytes])
        return array

    def all(self) -> Tensor:
        """Copy the whole array into memory."""
        return self[slice(None)]

    def _read(self, path: Path, offset: int, target: memoryview) -> None:
        try:
            with path.open("rb", buffering=0) as handle:
                handle.seek(offset)
                while len(target):
                    count = handle.readinto(target)
                    if not count:
                        raise EOFError(f"{len(target)} bytes are missing at its end")
                    target = target[count:]
        except (OSError, EOFError) as error:
            raise EvaluationError(
                f"{path}: expected the rows of {self.name!r} that this run found there before, found: {error}. Run again; what "
                "is damaged will be encoded anew"
            ) from error


def store_arrays(path: Path, arrays: Mapping[str, Tensor]) -> dict[str, StoredArray]:
    """Write arrays into one safetensors file, whole or not at all, and return them as they can be read there.

    Raises:
        EvaluationError: the file cannot be written.
    """
    size = sum(array.numel() * array.element_size() for array in arrays.values())
    try:
        with staged_file(path) as staged:
            save_file({name: array.contiguous() for name, array in arrays.items()}, staged)
    except Exception as error:  # safetensors wraps what the system says in an error of its own
        raise EvaluationError(
            f"{path}: cannot write {size / 1e9:.2f} GB of features: {error}. Make room; finished shards are kept and will be "
            "used"
        ) from error
    return {name: _one_file(name, path, entry) for name, entry in arrays_in_file(path).items()}


def arrays_in_file(path: Path) -> dict[str, dict[str, Any]]:
    """Return the dtype, the shape and the offset of each array in a safetensors file."""
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(length))
    return {
        name: {"dtype": entry["dtype"], "shape": entry["shape"], "offset": 8 + length + entry["data_offsets"][0]}
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _one_file(name: str, path: Path, entry: Mapping[str, Any]) -> StoredArray:
    rows, *shape = entry["shape"]
    return StoredArray(
        name, [(path, entry["offset"])], shape, DTYPES[entry["dtype"]], np.zeros(rows, dtype=np.int64), np.arange(rows)
    )
