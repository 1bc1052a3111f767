"""A training step by step: queues of batches, computing that varies, ranks that wait for each other, failures.

Shapes: G GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from studies.scaling.inputs import of
from studies.scaling.parts import BATCH, Job

STEPS, WARM_UP = 600, 100
# Batches that the loader of a rank reads ahead, per decoding process.
AHEAD = 2


@dataclass(frozen=True)
class Pace:
    """What a training does.

    Args:
        clips_per_s: of all devices.
        busy: share of the time in which a device computes.
        input: share in which it waits for its batch.
        others: share in which it waits for the other ranks.
        gradients: share in which it waits for gradients of other machines.
    """

    clips_per_s: float
    busy: float
    input: float
    others: float
    gradients: float

    def waits_for(self) -> str:
        """Return what takes most of the time."""
        shares = {"computing": self.busy, "input": self.input, "other ranks": self.others, "gradients": self.gradients}
        return max(shares, key=lambda name: shares[name])


def simulate(job: Job, seed: int = 0) -> Pace:
    """Walk through the steps of a training; the same seed gives the same numbers.

    Each rank's input side makes batches one after the other as long as fewer than the loader's number wait. A step begins on a
    rank when its batch is there and the last step has ended everywhere, and ends when the slowest rank and the part of the
    gradients' way that computing does not hide have ended.
    """
    rng = np.random.default_rng(seed)
    G, share = job.gpus, BATCH / job.gpus
    compute_s = share * job.flops / (of("peak") * 1e12 * of("mfu"))
    read_s = share * job.read_bytes * G / job.read_rate()
    decode_s = share / (job.workers * job.decode) if job.mode == "online" else 0.0
    exposed_s = max(job.gradient_s() - of("overlap") * compute_s, 0.0)
    queue = max(round(AHEAD * job.workers * 64 / max(share, 64)), 2)
    made_G = np.zeros(G)
    taken = np.zeros((queue, G))
    ended, sums = 0.0, np.zeros(4)
    for step in range(STEPS):
        # Files differ; of a batch the mean does less so.
        decoding_G = decode_s * np.maximum(1 + of("spread") / np.sqrt(share) * rng.standard_normal(G), 0.1)
        made_G = np.maximum(made_G, taken[step % queue]) + np.maximum(decoding_G, read_s)
        began_G = np.maximum(made_G, ended)
        stalls_G = of("hiccup_s") * (rng.random(G) < of("hiccup"))
        done_G = began_G + compute_s * np.maximum(1 + of("jitter") * rng.standard_normal(G), 0.5) + stalls_G
        taken[step % queue] = began_G
        end = done_G.max() + exposed_s
        if step >= WARM_UP:
            sums += compute_s, (began_G - ended).mean(), (end - exposed_s - done_G + stalls_G).mean(), exposed_s
        elif step == WARM_UP - 1:
            first = end
        ended = end
    whole = ended - first
    shares = sums / sums.sum()
    return Pace(BATCH * (STEPS - WARM_UP) / whole, *map(float, shares))


def checkpoint_s(job: Job) -> float:
    """Return the seconds that all wait for a checkpoint: weights and Adam's two moments in float32."""
    return 12 * job.model.parameters / (of("checkpoint") * 1e9)


def best_interval_s(job: Job, failures_per_s: float) -> float:
    """Return Young's interval between checkpoints: the root of twice the checkpoint's time by the time between failures."""
    return float(np.sqrt(2 * checkpoint_s(job) / failures_per_s))


def with_failures(job: Job, hours: float, interval_s: float, failures_per_s: float, seed: int = 0, runs: int = 200) -> float:
    """Return how many times as long a training takes with checkpoints and failures, on average over simulated runs.

    Args:
        job: that is trained.
        hours: without either.
        interval_s: of work between checkpoints.
        failures_per_s: of all machines together; they come at random, during work, checkpoints and restarts.
        seed: of the failures.
        runs: that are simulated.
    """
    rng = np.random.default_rng(seed)
    save, restart, total = checkpoint_s(job), of("restart_s"), 0.0
    for _ in range(runs):
        clock, saved, work = 0.0, 0.0, hours * 3600
        next_failure = rng.exponential(1 / failures_per_s)
        while True:
            # No checkpoint is written at the very end.
            left = work - saved
            needed = left + int(np.ceil(left / interval_s) - 1) * save
            if clock + needed <= next_failure:
                break
            saved += int((next_failure - clock) // (interval_s + save)) * interval_s
            clock = next_failure + restart
            next_failure = clock + rng.exponential(1 / failures_per_s)
        clock += needed
        total += clock
    return total / runs / (hours * 3600)
