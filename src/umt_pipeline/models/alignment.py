"""Which blocks of student and teacher are aligned. K aligned blocks."""

from __future__ import annotations


def aligned_layers(depth: int, count: int, interval: float = 1.0) -> list[int]:
    """Return the indices of the ``count`` aligned blocks of ``depth``, ascending; the last block is always among them.

    Args:
        depth: number of blocks.
        count: K.
        interval: blocks from one to the next, from the last one down: block ``depth - 1 - int(i * interval)`` for i below K. 1,
            as in every published recipe: the last K.

    Raises:
        ValueError: there are not so many blocks, or two of them would be the same.
    """
    layers = [depth - 1 - int(index * interval) for index in range(count)]
    if not layers or min(layers) < 0 or len(set(layers)) != count:
        raise ValueError(
            f"cannot align {count} of {depth} blocks at an interval of {interval:g}: expected at least one, all different and "
            f"within the {depth}, found {layers}"
        )
    return layers[::-1]
