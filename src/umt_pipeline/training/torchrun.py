"""torchrun for schedulers: takes torchrun's own arguments, and ends with a status that says what to do next.

    python -m umt_pipeline.training.torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:PORT \
      --max-restarts 3 -m umt_pipeline.training.launch RUN_DIR/spec.json

    0    the run is finished
    75   it was asked to stop (SIGTERM, SIGUSR1, SIGINT) and saved a checkpoint: start it again
    1    it failed; the log says why

torchrun itself gives ranks 30 seconds after a signal, does not know SIGUSR1, and ends with 1 however they ended. Here signals
go to the ranks alone, and these take the time that a checkpoint needs. One machine that is asked stops all; one that died may
come back.

``--rdzv-conf join_timeout=600`` is the deadline, in seconds, by which all machines must have come. One that has waited in vain
says who came, as each leaves a file in ``RUN_DIR/machines`` while it is there.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from torch.distributed import DistStoreError
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousTimeoutError,
)
from torch.distributed.run import parse_args, run

from umt_pipeline.core.errors import TrainingError, TrainingInterrupted
from umt_pipeline.core.files import read_json, write_json
from umt_pipeline.core.processes import follow_parent
from umt_pipeline.training import stopping

JOIN_TIMEOUT_S = 600.0
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# A machine says so often that it is there, and is taken for gone after three times as long.
_SIGN_OF_LIFE_S = 5.0


class Machine:
    """This machine's part in a run: signals, the ranks that run here, and a sign of life for the others.

    Args:
        arguments: of torchrun.
    """

    def __init__(self, arguments: list[str]) -> None:
        # Of the signals torchrun keeps one for itself, since it wants some.
        self._arguments = ["--signals-to-handle", "SIGQUIT", *arguments]
        self._args = parse_args(self._arguments)
        conf = dict(pair.split("=", 1) for pair in self._args.rdzv_conf.split(",") if "=" in pair)
        if not self._args.training_script_args:
            raise TrainingError("expected -m umt_pipeline.training.launch RUN_DIR/spec.json at the end, found no spec")
        self._timeout = float(conf.get("join_timeout", JOIN_TIMEOUT_S))
        self._machines = Path(self._args.training_script_args[-1]).parent / "machines"
        self._asked = False

    def run(self) -> None:
        """Start the ranks, again if they fail, and wait for their end.

        Raises:
            TrainingError: they failed, or the machines did not come together.
            TrainingInterrupted: they were asked to stop, here or elsewhere, and did.
        """
        with tempfile.TemporaryDirectory(prefix="umt-ranks-") as name:
            self._ranks = Path(name)
            os.environ[stopping.FOLDER_VARIABLE] = name
            # Else a machine that comes later waits for an address that others (torch 2.14) publish in the first round only.
            os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
            for number in _SIGNALS:
                signal.signal(number, self._pass_on)
            with self._sign_of_life():
                self._run_ranks()
            if self._asked or (self._ranks / stopping.INTERRUPTED).exists():
                if self._finished():
                    return
                raise TrainingInterrupted(
                    f"{self._machines.parent}: stopped before its end, as it was asked to; start it again"
                )

    def _run_ranks(self) -> None:
        began = time.monotonic()
        while True:
            ranks = set(self._ranks.iterdir())
            try:
                run(parse_args(self._arguments))
            except RendezvousConnectionError as error:
                # The machine of the endpoint may come later than this one, and come back if it dies.
                if set(self._ranks.iterdir()) != ranks:
                    began = time.monotonic()
                if time.monotonic() - began < self._timeout:
                    time.sleep(1.0)
                    continue
                raise TrainingError(self._nobody("could not be reached", began)) from error
            except RendezvousTimeoutError as error:
                raise TrainingError(self._nobody("did not complete", began)) from error
            except (RendezvousClosedError, DistStoreError) as error:
                raise TrainingError(
                    f"another machine of run {self._args.rdzv_id!r} gave it up, or the one of {self._args.rdzv_endpoint} is "
                    f"gone; its log says why. What was seen here: {error!r}"
                ) from error
            except ChildFailedError as error:
                raise TrainingError(str(error)) from error
            except SignalException as error:
                raise TrainingError(f"ended by {error.sigval.name}") from error
            return

    def _finished(self) -> bool:
        # As training.state has it, which would bring all of training into this small process.
        return (self._machines.parent / "final" / "result.json").exists()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._asked = True
        (self._ranks / stopping.STOP).touch()
        ranks = stopping.ranks_at_work(self._ranks)
        for rank in ranks:
            with suppress(ProcessLookupError):
                os.kill(rank, signal.SIGTERM)
        if not ranks:
            raise TrainingInterrupted(f"{self._machines.parent}: asked to stop while no rank was at work; start it again")

    def _nobody(self, what: str, began: float) -> str:
        came = ", ".join(f"{name} (since {since})" for name, since in self._present().items())
        return (
            f"the rendezvous at {self._args.rdzv_endpoint} {what} within {time.monotonic() - began:.0f} seconds (join_timeout "
            f"{self._timeout:g}): expected {self._args.nnodes} machines of run {self._args.rdzv_id!r}, came: {came}. Look at "
            "the logs of the others, and whether they reach this host and port"
        )

    def _present(self) -> dict[str, str]:
        """Machines whose sign of life is fresh, measured by this one's own, for clocks differ."""
        own = self._sign().stat().st_mtime
        files = [path for path in self._machines.glob("*.json") if own - path.stat().st_mtime < 3 * _SIGN_OF_LIFE_S]
        return {path.stem: read_json(path)["since"] for path in sorted(files)}

    def _sign(self) -> Path:
        return self._machines / f"{socket.gethostname()}-{os.getpid()}.json"

    @contextmanager
    def _sign_of_life(self) -> Iterator[None]:
        ended = threading.Event()
        sign = self._sign()
        write_json(sign, {"since": time.strftime("%H:%M:%S"), "ranks": str(self._args.nproc_per_node)})

        def repeat() -> None:
            while not ended.wait(_SIGN_OF_LIFE_S):
                if sign.exists():
                    sign.touch()

        threading.Thread(target=repeat, daemon=True, name="umt-sign-of-life").start()
        try:
            yield
        finally:
            ended.set()
            sign.unlink(missing_ok=True)
            if self._machines.is_dir() and not any(self._machines.iterdir()):
                self._machines.rmdir()


def main(arguments: list[str]) -> int:
    """Run this machine's ranks and return the exit status."""
    if (parent := os.environ.pop(stopping.STARTED_BY_VARIABLE, None)) is not None:
        follow_parent(int(parent))  # its ranks then save a checkpoint and end, as they do wherever their launcher is gone
    try:
        Machine(arguments).run()
    except TrainingInterrupted as interrupted:
        print(interrupted, file=sys.stderr)
        return stopping.INTERRUPTED_STATUS
    except TrainingError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
