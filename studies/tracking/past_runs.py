"""Runs that are there already: found again, and what they have logged."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from segmentation.errors import InputError
from segmentation.system.processes import is_dead
from studies.base.errors import FINAL, AwayError, raised_as_input_errors, unusable
from studies.tracking.journal import journals
from studies.tracking.queries import every_run, quoted
from studies.tracking.runs import how_to_sync, process_of, processes_of, records_folder, wait_until_sent
from studies.tracking.store import address, patiently


class FoundRun(NamedTuple):
    """A run that is there."""

    run_id: str
    name: str
    status: str
    kind: str
    """The entry point that made it."""
    process: Mapping[str, Any]
    """What does it, or joined it last, as `processes.me` records it; empty if it is not known."""
    processes: Sequence[Mapping[str, Any]] = ()
    """All that are at it: several at the run of a study."""
    study: str = ""
    """The study whose trial it is; empty if it is no trial's."""
    promises_model: bool = False
    """Whether its configuration logs the model."""

    def is_dead(self) -> bool | None:
        """Whether all its processes have ended; None if that cannot be seen from here."""
        found = [is_dead(each) for each in self.processes]
        if False in found:
            return False
        return None if None in found or not found else True


def find_run(run_id: str) -> FoundRun | None:
    """A run by its id; None if there is none."""
    try:
        return _found(patiently(lambda: mlflow.MlflowClient().get_run(run_id)))
    except MlflowException as error:
        if error.error_code in FINAL:
            return None
        raise unusable(error) from error


@raised_as_input_errors()
def runs_tagged(key: str, value: str) -> list[FoundRun]:
    """The runs of any experiment that have a tag of this value, newest first."""
    return _runs_where(f"tags.`{key}` = {quoted(value)}")


@raised_as_input_errors()
def runs_under_way() -> list[FoundRun]:
    """The runs of any experiment that say that they are RUNNING, newest first."""
    return _runs_where("attributes.status = 'RUNNING'")


@raised_as_input_errors()
def open_children(parent: str) -> list[str]:
    """The ids of the runs nested in a run that are still RUNNING."""

    def find() -> list[Run]:
        experiment = mlflow.MlflowClient().get_run(parent).info.experiment_id
        return every_run([experiment], f"tags.`mlflow.parentRunId` = '{parent}' AND attributes.status = 'RUNNING'")

    return [run.info.run_id for run in patiently(find)]


def _runs_where(condition: str) -> list[FoundRun]:
    experiments = [each.experiment_id for each in mlflow.MlflowClient().search_experiments()]
    return [_found(run) for run in every_run(experiments, condition, "attributes.start_time DESC")]


def _found(run: Run) -> FoundRun:
    tags = run.data.tags
    return FoundRun(
        run.info.run_id, run.info.run_name or "", run.info.status, tags.get("kind", ""), process_of(run),
        processes_of(run), study=tags.get("study", ""),
        promises_model=run.data.params.get("log_model", "").lower() == "true",
    )  # fmt: skip


def stored_config(run_id: str) -> dict[str, Any]:
    """The configuration that a run has logged.

    Raises:
        InputError: it has logged none.
    """
    try:
        return dict(mlflow.artifacts.load_dict(f"runs:/{run_id}/config.json"))
    except (MlflowException, OSError, ValueError) as error:
        raise InputError(f"run {run_id} has stored no configuration: it was stopped too early, begin anew") from error


@raised_as_input_errors()
def logged_steps(run_id: str, metric: str) -> set[int]:
    """The epochs of which a run has a figure, as far as MLflow has been told."""
    if not wait_until_sent(run_id):
        raise AwayError(f"MLflow does not take what run {run_id} has recorded before; resume it when MLflow answers")
    found = patiently(lambda: mlflow.MlflowClient().get_metric_history(run_id, metric))
    return {point.step for point in found}


@raised_as_input_errors()
def logged_epochs(run_id: str, metric: str | None = None) -> list[dict[str, float]]:
    """The figures that a training run has logged, all or one, by name, for each of its epochs from the first."""
    client = mlflow.MlflowClient()
    epochs: dict[int, dict[str, float]] = {}
    for name in patiently(lambda: client.get_run(run_id)).data.metrics:
        if name.startswith(("best/", "system/")) or metric not in (None, name):
            continue
        for point in patiently(partial(client.get_metric_history, run_id, name)):
            epochs.setdefault(point.step, {})[name] = point.value
    return [epochs[number] for number in sorted(epochs) if number > 0]


def where_to_look(run_id: str) -> str:
    """The line that tells how to see a run: its address, or the command that opens the UI."""
    uri = address()
    if journals(records_folder(), run_id):
        return f"Look at it when MLflow has taken it all: {how_to_sync()}"
    try:
        run = mlflow.get_run(run_id)
    except MlflowException:  # all is recorded: that the server has gone away since is no failure
        return f"Look at run {run_id} in {uri}"
    # without what is asked for, the UI opens with its pages for language models
    page = f"/#/experiments/{run.info.experiment_id}/runs/{run_id}?workflowType=machine_learning"
    if uri.startswith("http"):
        return f"Look at it: {uri.rstrip('/')}{page}"
    return f"Look at it: `make ui` (or `mlflow ui --backend-store-uri {uri}`), http://127.0.0.1:5000{page}"
