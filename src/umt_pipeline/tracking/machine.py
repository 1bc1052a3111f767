"""What a run asks of the machine: MLflow's system metrics, on the way of all other metrics."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from umt_pipeline.tracking.record import now_ms
from umt_pipeline.tracking.rows import Row, flatten_numbers

# MLflow shows metrics of this prefix on a page of their own.
PREFIX = "system"
INTERVAL_S = 10.0

_log = logging.getLogger(__name__)


class Machine:
    """Measures load until it is stopped: processors, memory, disks, network, and GPUs where nvidia-ml-py is installed.

    MLflow's own monitor would ask the server after each sample, and warn when it does not answer.

    Args:
        put: called from a thread with a row for each interval.
    """

    def __init__(self, put: Callable[[Row], None]) -> None:
        self._put = put
        self._stopped = threading.Event()
        # MLflow's name for it.
        self._interval_s = float(os.environ.get("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL") or INTERVAL_S)
        try:
            # Here and not in the thread: modules are not to be imported in two threads at once.
            from mlflow.system_metrics.metrics import cpu_monitor, disk_monitor, gpu_monitor, network_monitor
        except ImportError as error:
            _log.info("no system metrics: %s", error)
            return
        kinds = (cpu_monitor.CPUMonitor, disk_monitor.DiskMonitor, network_monitor.NetworkMonitor, gpu_monitor.GPUMonitor)
        threading.Thread(target=self._measure, args=(kinds,), name="system metrics", daemon=True).start()

    def stop(self) -> None:
        """Measure no more. Does not wait."""
        self._stopped.set()

    def _measure(self, kinds: Sequence[Callable[[], Any]]) -> None:
        monitors = []
        for kind in kinds:
            try:
                monitors.append(kind())
            except Exception as error:  # there is none such here
                _log.debug("no system metrics of this kind: %s", error)
        step = 0
        while not self._stopped.wait(self._interval_s):
            values: dict[str, float] = {}
            for monitor in monitors:
                try:
                    monitor.collect_metrics()
                    values |= flatten_numbers(monitor.aggregate_metrics(), PREFIX)
                    monitor.clear_metrics()
                except Exception as error:  # as of a device that went away
                    _log.debug("no system metrics at this moment: %s", error)
            self._put(Row(PREFIX, step, values, now_ms()))
            step += 1
