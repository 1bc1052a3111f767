"""decord, imported so that it leaves torch alone. Import it from here and from nowhere else."""

from __future__ import annotations

import sys

# decord2 loads every library of the pip packages named nvidia-*, for all to see. One of them, nvblas, then takes the place
# of the matrix products of a torch that is loaded later, and crashes where there is no GPU. We decode on the CPU, which
# needs none of them: while decord is imported, these packages are not to be found.
_nvidia = sys.modules.get("nvidia")
sys.modules["nvidia"] = None  # type: ignore[assignment]
try:
    import decord
    from decord._ffi.base import DECORDLimitReachedError  # exported nowhere else, and no DECORDError
finally:
    del sys.modules["nvidia"]
    if _nvidia is not None:
        sys.modules["nvidia"] = _nvidia

__all__ = ["DECORDLimitReachedError", "decord"]
