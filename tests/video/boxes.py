"""Changing MP4 files byte by byte: what no writer writes, but files contain."""

from __future__ import annotations

import struct
from collections.abc import Iterator


def boxes(data: bytes | bytearray, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, first byte of the content, end) of the boxes between two places."""
    while start + 8 <= stop:
        size, kind = struct.unpack_from(">I4s", data, start)
        yield bytes(kind), start + 8, start + size
        start += size


def box(data: bytes | bytearray, *path: bytes) -> tuple[int, int]:
    """Return where the content of the first box of a path begins and ends."""
    start, stop = 0, len(data)
    for wanted in path:
        start, stop = next(found[1:] for found in boxes(data, start, stop) if found[0] == wanted)
    return start, stop


def in_track(kind: bytes) -> tuple[bytes, ...]:
    """Return the path of a box of the first track's table of samples."""
    return b"moov", b"trak", b"mdia", b"minf", b"stbl", kind
