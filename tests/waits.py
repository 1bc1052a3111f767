"""What would make a host wait for a GPU in a training step, found on a CPU: operations whose result the host must know."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten: Any = torch.ops.aten
# The host asks for a value, or the size of the result depends on values.
_ASKS = {aten._local_scalar_dense, aten.equal, aten.is_nonzero, aten.item, aten.masked_select, aten.nonzero}
_ASKS |= {aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount, aten.repeat_interleave}
# Values of the host become a tensor: on a GPU, a copy from memory that is not page-locked.
_FROM_HOST = {aten.lift_fresh}
_INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class NoWaits(TorchDispatchMode):
    """Raises AssertionError at an operation that would make the host wait."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = func.overloadpacket
        if kind in _ASKS and func is not aten.repeat_interleave.self_int:
            raise AssertionError(f"{func} makes the host wait for the device")
        if kind in _FROM_HOST:
            raise AssertionError(f"{func}: a tensor of host values is copied to the device in every step")
        if kind in _INDEXING and any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]):
            raise AssertionError(f"{func}: boolean indexing makes the host wait for the device")
        return func(*args, **(kwargs or {}))
