"""Find existing runs, and read what they have logged."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from segmentation.errors import InputError
from segmentation.metrics import of_model
from segmentation.system.processes import is_dead
from studies.base.checksum import MODEL_CODE
from studies.base.errors import FINAL, AwayError, raised_as_input_errors, unusable
from studies.tracking.journal import unsent_journals
from studies.tracking.run_journals import records_folder, sync_command, wait_until_sent
from studies.tracking.run_tags import process_of, processes_of
from studies.tracking.shared_view import LABELS, view_address
from studies.tracking.store import address, check_store, with_retries


class FoundRun(NamedTuple):
    """An existing run."""

    run_id: str
    name: str
    status: str
    kind: str
    """The entry point that made it."""
    process: Mapping[str, Any]
    """The process that works on it, or the last one that joined it, as `processes.me` returns it; empty if unknown."""
    processes: Sequence[Mapping[str, Any]] = ()
    """All processes that work on it: several for the run of a study."""
    study: str = ""
    """The study whose trial it is; empty for another run."""
    promises_model: bool = False
    """Whether its configuration logs the model."""
    keep: str = "best"
    """The epoch whose weights are its model: `best` or `last`."""
    model_code: str = ""
    """Checksum of the code of a user's own model; empty for torchvision's."""

    def is_dead(self) -> bool | None:
        """Return whether all its processes have ended; None if this machine cannot know."""
        found = [is_dead(each) for each in self.processes]
        if False in found:
            return False
        return None if None in found or not found else True


def find_run(run_id: str) -> FoundRun | None:
    """Return a run by its ID; None if it does not exist."""
    try:
        return _found(with_retries(lambda: mlflow.MlflowClient().get_run(run_id)))
    except MlflowException as error:
        if error.error_code in FINAL:
            return None
        raise unusable(error) from error


@raised_as_input_errors()
def runs_tagged(key: str, value: str) -> list[FoundRun]:
    """Return the runs of all experiments with this value of a tag, newest first."""
    return _runs_where(f"tags.`{key}` = {quoted(value)}")


@raised_as_input_errors()
def runs_beginning_with(digits: str) -> list[FoundRun]:
    """Return the runs of all experiments whose ID begins with some hexadecimal digits, newest first."""
    check_store()
    return _runs_where(f"attributes.run_id LIKE '{digits}%'")


@raised_as_input_errors()
def runs_under_way() -> list[FoundRun]:
    """Return the runs of all experiments whose status is RUNNING, newest first."""
    return _runs_where("attributes.status = 'RUNNING'")


@raised_as_input_errors()
def open_children(parent: str) -> list[str]:
    """Return the IDs of the runs nested in a run whose status is RUNNING."""

    def find() -> list[Run]:
        experiment = mlflow.MlflowClient().get_run(parent).info.experiment_id
        return every_run([experiment], f"tags.`mlflow.parentRunId` = '{parent}' AND attributes.status = 'RUNNING'")

    return [run.info.run_id for run in with_retries(find)]


def every_run(experiments: Sequence[str], condition: str, order: str = "attributes.start_time ASC") -> list[Run]:
    """Return all runs of some experiments that meet a condition, page by page; by default the oldest first.

    Args:
        experiments: IDs of experiments.
        condition: in MLflow's search syntax; see `quoted`.
        order: in MLflow's search syntax.
    """
    client = mlflow.MlflowClient()
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(list(experiments), condition, order_by=[order], page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def quoted(value: str) -> str:
    """Return a text as a literal of MLflow's search syntax.

    Raises:
        InputError: it contains both kinds of quotes, for which the syntax has no literal.
    """
    for quote in "'\"":
        if quote not in value:
            return f"{quote}{value}{quote}"
    raise InputError(f"MLflow cannot search for {value!r}, because it contains both ' and \"")


def stored_config(run_id: str) -> dict[str, Any]:
    """Return the configuration that a run has logged.

    Raises:
        InputError: it has logged none.
    """
    try:
        return dict(mlflow.artifacts.load_dict(f"runs:/{run_id}/config.json"))
    except (MlflowException, OSError, ValueError) as error:
        raise InputError(f"run {run_id} has no config.json: it was stopped too early. Start a new run") from error


@raised_as_input_errors()
def logged_steps(run_id: str, metric: str) -> set[int]:
    """Return the steps at which a run has logged a metric, once its unsent records are sent."""
    if not wait_until_sent(run_id):
        raise AwayError(f"MLflow does not accept the unsent records of run {run_id}; resume it when MLflow answers")
    found = with_retries(lambda: mlflow.MlflowClient().get_metric_history(run_id, metric))
    return {point.step for point in found}


@raised_as_input_errors()
def logged_epochs(run_id: str, metric: str | None = None) -> list[dict[str, float]]:
    """Return the metrics of each epoch of a training run, by name, from the first epoch on; of all metrics or one."""
    client = mlflow.MlflowClient()
    epochs: dict[int, dict[str, float]] = {}
    for name in with_retries(lambda: client.get_run(run_id)).data.metrics:
        if name.startswith((of_model(""), "best/", "system/")) or metric not in (None, name):
            continue
        for point in with_retries(partial(client.get_metric_history, run_id, name)):
            epochs.setdefault(point.step, {})[name] = point.value
    return [epochs[number] for number in sorted(epochs) if number > 0]


def where_to_look(run_id: str) -> str:
    """Return the line that says where to see a run: its address, or the command that starts the UI.

    If the run has a model, a line before it has the address of the list of runs with the metrics of their models.
    """
    uri = address()
    if unsent_journals(records_folder(), run_id):
        return f"To see the run, send its records first: {sync_command()}"
    try:
        run = mlflow.get_run(run_id)
        has_model = any(name.startswith(of_model("")) for name in run.data.metrics)
        view = view_address(run.info.experiment_id) if has_model else ""
    except MlflowException:  # everything is sent: a server that is gone since then is no failure
        return f"See run {run_id} in {uri}"
    # without the query the UI opens its pages for language models
    page = f"/#/experiments/{run.info.experiment_id}/runs/{run_id}?workflowType=machine_learning"
    server = uri.rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    all_runs = f"All runs with {LABELS}: {server}{view}\n" if view else ""
    if uri.startswith("http"):
        return f"{all_runs}See run {run_id}: {server}{page}"
    start = f"mlflow ui --backend-store-uri {uri}"
    shown = f"`make ui` (or `{start}`)" if Path("MLproject").is_file() else f"`{start}`"
    return f"{all_runs}See run {run_id}: {shown}, {server}{page}"


def _runs_where(condition: str) -> list[FoundRun]:
    experiments = [each.experiment_id for each in mlflow.MlflowClient().search_experiments()]
    return [_found(run) for run in every_run(experiments, condition, "attributes.start_time DESC")]


def _found(run: Run) -> FoundRun:
    tags = run.data.tags
    return FoundRun(
        run.info.run_id, run.info.run_name or "", run.info.status, tags.get("kind", ""), process_of(run),
        processes_of(run), study=tags.get("study", ""),
        promises_model=run.data.params.get("log_model", "").lower() == "true", keep=run.data.params.get("keep", "best"),
        model_code=tags.get(MODEL_CODE, ""),
    )  # fmt: skip


def tag_of_run(run_id: str, tag: str) -> str | None:
    """Return the value of a tag of a run; None if there is no such run or tag."""
    try:
        found = with_retries(lambda: mlflow.MlflowClient().get_run(run_id))
    except MlflowException as error:
        if error.error_code in FINAL:
            return None
        raise unusable(error) from error
    return found.data.tags.get(tag)
