"""How large a test set must be to tell a difference: simulated test sets, judged by the gate.

A difference of two models is told by the clips on which one is right and the other wrong. For each number of clips and share
of such clips, the difference is shown that should be promoted on four of five test sets (at most the share: then one model is
right wherever they differ), and on how many simulated ones the gate did promote it.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from statistics import NormalDist

import numpy as np

from umt_pipeline.evaluation.evidence import CORRECT, evidence_rows
from umt_pipeline.evaluation.gate import GateParams, judge

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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, nargs="+", default=[50, 144, 500, 1_000, 5_000, 20_000])
    parser.add_argument("--differ", type=int, nargs="+", default=[5, 10, 20, 40], help="per cent of the clips")
    parser.add_argument("--sets", type=int, default=100, help="simulated test sets of each cell")
    given = parser.parse_args()
    print(f"`{shlex.join(['python', *sys.argv])}`:\n")
    print("| clips | " + " | ".join(f"models differ on {share} %" for share in given.differ) + " |")
    print("| ---: |" + " ---: |" * len(given.differ))
    for clips in given.clips:
        cells = []
        for share in (percent / 100 for percent in given.differ):
            # Four of five: both tails of a normal, that of the interval and that of one case in five.
            told = NormalDist().inv_cdf(0.5 + PARAMS.confidence / 2) + NormalDist().inv_cdf(0.8)
            difference = min(share, told * math.sqrt(share / clips))
            found = promoted(np.random.default_rng(clips), clips, share, difference, given.sets)
            cells.append(f"{100 * difference:.1f} ({found:.0%})")
        print(f"| {clips:,} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
