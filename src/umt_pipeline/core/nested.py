"""Nested mappings, such as parameters, as a list of their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield each value that is no mapping with values in it, with the keys that lead to it.

    Args:
        values: mappings in mappings.
        above: keys that lead to them.
    """
    for name, value in values.items():
        path = (*above, str(name))
        if isinstance(value, Mapping) and value:
            yield from leaves(value, path)
        else:
            yield path, value


def dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values by names as ``a.b``."""
    return {".".join(path): value for path, value in leaves(values)}
