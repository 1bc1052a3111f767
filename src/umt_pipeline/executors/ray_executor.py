"""Work by Ray Data: a stream of items through a pool of actors, each of which holds a core or a GPU.

Ray Data hands out items as workers get free and holds back while results wait to be taken; it starts a dead worker again, and
gives its items to others. A result is the same wherever it was made, and is kept as it comes: so that twice does no harm.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import secrets
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

# Nobody is told what you run.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import ray.cloudpickle
import ray.data
import ray.exceptions

from umt_pipeline import __version__
from umt_pipeline.core.errors import ConfigError, UmtError
from umt_pipeline.core.executor import Item, Needs, Result
from umt_pipeline.core.identity import PACKAGE, code_key
from umt_pipeline.core.processes import cores
from umt_pipeline.executors import ray_worker
from umt_pipeline.executors.ray_worker import ERROR, UNFIT, Job, Witness, Worker

logger = logging.getLogger(__name__)

# A cluster that is there answers in a few seconds; Ray itself would try for minutes, and then end this process.
ANSWERS_WITHIN_S = 60.0
# An item that kills its worker each time ends the run.
TRIES_AGAIN = 3
# Tables of items per worker: enough that all end at about the same time, few enough for Ray's books.
TABLES_PER_WORKER = 100
# Only items and results pass through it.
LOCAL_OBJECT_STORE_BYTES = 200 * 2**20
_TRY = "import sys, ray; ray.init(address=sys.argv[1], logging_level='error', log_to_driver=False); ray.shutdown()"


class WorkersDiedError(UmtError):
    """Ray's workers died again and again, or the cluster is gone."""


class RayExecutor:
    """Does work in a Ray cluster, see :class:`umt_pipeline.core.executor.Executor`. To be used in a ``with`` block.

    It connects when there is something to do: what is known already costs nothing. If this process is connected by then, that
    is the cluster, whatever the address is, and it stays connected.

    Args:
        address: as in :class:`umt_pipeline.executors.OfflineParams`. None: a Ray of its own is started on this machine, and
            ended with the block.
        cpus: cores of such a Ray; None: all that this process may use.
    """

    def __init__(self, address: str | None, cpus: int | None = None) -> None:
        self._address, self._cpus = address, cpus or cores()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def connect(self) -> None:
        """Connect, unless this process is connected.

        Raises:
            ConfigError: the cluster does not answer, or is of another version.
        """
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.WARNING)
        if ray.is_initialized():
            return
        quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if self._address is not None:
            reach(self._address)
            ray.init(address=self._address, **quiet)
        else:
            folder = self._stack.enter_context(_session_folder())
            ray.init(
                address="local",
                num_cpus=self._cpus,
                object_store_memory=LOCAL_OBJECT_STORE_BYTES,
                include_dashboard=False,
                _temp_dir=str(folder),
                **quiet,
            )
        self._stack.callback(ray.shutdown)

    def map(
        self, start: Callable[[int], Callable[[Item], Result]], items: Sequence[Item], needs: Needs
    ) -> Generator[tuple[int, Result], None, None]:
        if not items:
            return
        self.connect()
        cpus, gpus, room = shares(needs, ray.nodes())
        workers = min(room, len(items), needs.workers or room)
        tables = math.ceil(len(items) / min(needs.at_once, math.ceil(len(items) / (workers * TABLES_PER_WORKER))))
        logger.info("Ray: %d items for %d workers of %g cores and %d GPUs each", len(items), workers, cpus, gpus)
        rows = [{"place": place, "item": pickle.dumps(item)} for place, item in enumerate(items)]
        with warnings.catch_warnings():
            # Ray will take away the only way to limit retries, which are endless by default; hence the bound in the extra.
            warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")
            outcomes = ray.data.from_items(rows, override_num_blocks=tables).map_batches(
                Worker,
                fn_constructor_args=(_job(start, max(1, int(cpus)), needs),),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=workers),
                num_cpus=cpus,
                num_gpus=gpus,
                ray_remote_args_fn=lambda: {"max_task_retries": TRIES_AGAIN},
            )
        done = 0
        # Without prefetching each result is here when it is there.
        batches: Iterator[Any] = iter(outcomes.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
        # What is left of it must end before Ray does. Who collects it as garbage later would start another Ray, which ends the
        # process where it cannot.
        close: Callable[[], None] = getattr(batches, "close", lambda: None)
        self._stack.callback(close)
        try:
            for table in batches:
                for place, outcome in zip(table["place"].to_pylist(), table["outcome"].to_pylist(), strict=True):
                    result = _taken(outcome)
                    done += 1
                    yield place, result
        except ray.exceptions.RayError as error:
            raise WorkersDiedError(
                f"Ray gave up after {done} of {len(items)} items: {_last_line(error)}. What was done is kept. If a worker died "
                f"{TRIES_AGAIN + 1} times over one item, look for its end in Ray's logs (memory that ran out?); else see "
                "whether the cluster is up (`ray status`). Then run again"
            ) from error
        finally:
            close()


def _job(start: Callable[[int], Any], share: int, needs: Needs) -> Job:
    # With its module, which a worker may lack or have in another version.
    ray.cloudpickle.register_pickle_by_value(ray_worker)
    witnesses = tuple(witness for path in needs.shared if (witness := Witness.of(path)) is not None)
    versions = {PACKAGE: __version__, **{name: version(name) for name in needs.packages}}
    return Job(pickle.dumps(start), share, witnesses, needs.code, code_key(*needs.code), versions)


def _taken(outcome: bytes) -> Any:
    kind, content = pickle.loads(outcome)
    if kind == UNFIT:
        raise ConfigError(content)
    if kind == ERROR:
        error, host = content
        error.add_note(f"(in a worker of Ray on host {host})")
        raise error
    return content


def shares(needs: Needs, nodes: Sequence[Mapping[str, Any]]) -> tuple[float, int, int]:
    """Return cores and GPUs of a worker, and for how many there is room.

    Raises:
        ConfigError: there is room for none.
    """
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    with_gpus = [machine for machine in machines if machine.get("GPU", 0) >= 1]
    if needs.gpu and with_gpus:
        # Of the machine where a GPU's share of the cores is smallest, so that it fits everywhere.
        share = min(machine.get("CPU", 0) / machine["GPU"] for machine in with_gpus)
        return math.floor(share) if share >= 1 else share, 1, sum(int(machine["GPU"]) for machine in with_gpus)
    with_cores = [machine for machine in machines if machine.get("CPU", 0) >= 1]
    if not with_cores:
        raise ConfigError("Ray: expected a machine with cores for workers, found none. See `ray status`")
    cpus = 1.0
    if needs.per_machine is not None:
        cpus = min(machine["CPU"] for machine in with_cores) / needs.per_machine
        cpus = math.floor(cpus) if cpus >= 1 else cpus
    return cpus, 0, sum(int(machine["CPU"] / cpus) for machine in with_cores)


def reach(address: str) -> None:
    """See whether a cluster answers, in a process that can be ended: Ray waits long, and ends its process if it is in vain."""
    try:
        tried = subprocess.run(
            [sys.executable, "-c", _TRY, address], capture_output=True, text=True, timeout=ANSWERS_WITHIN_S, check=False
        )
    except subprocess.TimeoutExpired:
        problem = f"no answer within {ANSWERS_WITHIN_S:.0f} s"
    else:
        if tried.returncode == 0:
            return
        problem = (tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"])[-1]
    raise ConfigError(
        f"ray_address: expected a Ray cluster of version {ray.__version__} at {address!r}, found: {problem}. Is it up "
        "(`ray status` on its head), of the same versions of Ray and Python, and with the same token?"
    )


@contextmanager
def _session_folder() -> Iterator[Path]:
    """Yield a folder for a Ray of this process alone, and remove it with logs and all.

    Its path is short, since the paths of Unix sockets in it may not be longer than 107 characters. The word by which the
    processes of this Ray know each other is in it too; Ray would leave one in the home folder.
    """
    near = Path(tempfile.gettempdir())
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir=near if len(str(near)) <= 20 else "/tmp"))
    word = folder / "word"
    word.write_text(secrets.token_hex(32), encoding="ascii")  # mkdtemp made the folder for this user alone
    before = {name: os.environ.pop(name, None) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")}
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(word)
    try:
        yield folder
    finally:
        del os.environ["RAY_AUTH_TOKEN_PATH"]
        os.environ.update({name: value for name, value in before.items() if value is not None})
        shutil.rmtree(folder, ignore_errors=True)


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].rstrip(".")
