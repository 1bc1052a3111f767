"""How large a test set must be to tell a difference: simulated test sets, judged by the gate.

A difference of two models is told by the clips on which one is right and the other wrong. For each number of clips and share of
such clips, the difference is found by bisection that is promoted on four of five simulated test sets.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys

import numpy as np

from umt_pipeline.evaluation.evidence import CORRECT, evidence_rows
from umt_pipeline.evaluation.gate import GateParams, judge

POWER = 0.8
PARAMS = GateParams(metrics={"test": 0.0}, resamples=1_000)


def promoted(rng: np.random.Generator, clips: int, share: float, difference: float, sets: int) -> float:
    """Return the share of simulated test sets on which the better model is promoted.

    Args:
        rng: draws the test sets.
        clips: of each test set.
        share: of clips on which the models differ.
        difference: true one, at most ``share``.
        sets: test sets.
    """
    items = np.arange(clips)
    videos = items.astype(str)
    count = 0
    for _ in range(sets):
        # Who is right where they differ; where they agree does not matter.
        draw = rng.random(clips)
        better, worse = draw < (share + difference) / 2, draw > 1 - (share - difference) / 2
        champion, challenger = (evidence_rows("test", CORRECT, items, videos, right) for right in (worse, better))
        count += judge(champion, challenger, PARAMS).verdict == "promoted"
    return count / sets


def smallest(rng: np.random.Generator, clips: int, share: float, sets: int) -> float | None:
    """Return the difference that is promoted with a probability of 80 %; None where none is."""
    low, high = 0.0, min(share, 5 * math.sqrt(share / clips))
    if promoted(rng, clips, share, high, sets) < POWER:
        return None
    while high - low > 0.02 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if promoted(rng, clips, share, middle, sets) >= POWER else (middle, high)
    return high


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, nargs="+", default=[50, 144, 500, 1_000, 5_000, 20_000])
    parser.add_argument("--differ", type=int, nargs="+", default=[5, 10, 20, 40], help="per cent of the clips")
    parser.add_argument("--sets", type=int, default=300, help="simulated test sets of each trial")
    given = parser.parse_args()
    print(f"`{shlex.join(['python', *sys.argv])}`:\n")
    print("| clips | " + " | ".join(f"models differ on {share} %" for share in given.differ) + " |")
    print("| ---: |" + " ---: |" * len(given.differ))
    for clips in given.clips:
        found = [smallest(np.random.default_rng(0), clips, share / 100, given.sets) for share in given.differ]
        cells = ["never" if one is None else f"{100 * one:.1f}" for one in found]
        print(f"| {clips:,} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
