"""Log the machine's CPU, memory, disk, network and GPU use of a run, under MLflow's names, through its journal."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

SECONDS = 5
"""Interval between two samples, unless MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL is set."""
PREFIX = "system/"
CPU = f"{PREFIX}cpu_utilization_percentage"
"""A metric that every sample has."""


def next_step(run: Run) -> int:
    """Return the step of a run's next sample: 0, or one more than that of the last one."""
    if CPU in run.data.metrics:
        with suppress(MlflowException):
            return 1 + max(point.step for point in mlflow.MlflowClient().get_metric_history(run.info.run_id, CPU))
    return 0


class SystemMetrics:
    """Sample the machine in a thread.

    MLflow's own thread asks the tracking server before each sample whether the run is still RUNNING, and stops if the
    server does not answer. This one does not depend on the server.
    """

    def __init__(self, run_id: str, record: Callable[[dict[str, float], int], None], step: int) -> None:
        """Prepare the sampling.

        Args:
            run_id: the run that is sampled.
            record: called with the metrics of each sample by name, and its step.
            step: of the first sample.
        """
        logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
        self._sampler = SystemMetricsMonitor(run_id, SECONDS)
        self._record, self._step = record, step
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def start(self) -> None:
        """Start sampling."""
        self._thread.start()

    def finish(self) -> None:
        """Stop sampling."""
        self._finished.set()
        self._thread.join()

    def _sample(self) -> None:
        self._sampler.collect_metrics()
        while not self._finished.wait(self._sampler.sampling_interval):
            metrics = self._sampler.aggregate_metrics()
            self._record({f"{PREFIX}{name}": value for name, value in metrics.items()}, self._step)
            self._step += 1
            for monitor in self._sampler.monitors:
                monitor.clear_metrics()
            self._sampler.collect_metrics()
