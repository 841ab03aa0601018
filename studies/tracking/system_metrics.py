"""Samples of the machine while a run is under way, in MLflow's own names, sent through the run's journal."""

import logging
import threading
from collections.abc import Callable

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

SECONDS = 5
"""Between two samples, unless MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL says otherwise."""


class SystemMetrics(SystemMetricsMonitor):
    """MLflow's monitor, but it neither asks the store whether to go on nor ends when nobody answers."""

    def __init__(self, run_id: str, record: Callable[[dict[str, float], int], None]) -> None:
        """Make a monitor.

        Args:
            run_id: whose steps to go on with, if it has samples.
            record: gets the figures of a sample by name, and its step.
        """
        logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
        super().__init__(run_id, SECONDS, resume_logging=True)
        self._record = record

    def start(self) -> None:
        """Begin to sample."""
        self._thread = threading.Thread(target=self.monitor, daemon=True)
        self._thread.start()

    def monitor(self) -> None:
        """Sample until `finish` is called."""
        self.collect_metrics()
        while not self._shutdown_event.wait(self.sampling_interval):
            self.publish_metrics(self.aggregate_metrics())
            self.collect_metrics()

    def publish_metrics(self, metrics: dict[str, float]) -> None:
        """Hand a sample on."""
        self._record({f"{self._metrics_prefix}{name}": value for name, value in metrics.items()}, self._logging_step)
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()

    def finish(self) -> None:
        """Stop."""
        self._shutdown_event.set()
        self._thread.join()
