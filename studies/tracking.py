"""One piece of work as one MLflow run, with a status that tells the truth. The only place that writes to MLflow."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import mlflow
import numpy as np
import torch
from matplotlib.figure import Figure
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking.context.registry import resolve_tags
from PIL import Image
from tqdm import tqdm

from segmentation import plots
from segmentation.datasets import Split
from segmentation.errors import InputError
from segmentation.models import Segmenter
from segmentation.processes import is_dead, me
from studies import serving
from studies.commands import here
from studies.journal import Entry, Journal
from studies.run_search import every_run
from studies.secrets import hidden, keep_apart, without_password
from studies.sending import FINAL, MODEL, allowed, sender
from studies.system_metrics import SystemMetrics

T = TypeVar("T")


class Stopped(Exception):  # noqa: N818 - nothing has gone wrong
    """A training is to end before its last epoch; the message says why. Its run ends as KILLED."""


REASON = "status_reason"
"""Tag that says why a run did not finish."""
VERSIONS_OF = ("torch", "torchvision", "mlflow", "numpy")
PROCESS = "process"
"""Tag of a run: the process that does it."""
UNSENT = Path("unsent")
"""Where the journals of runs lie while not all of it is sent."""
PATIENCE, SHORT_PATIENCE = 60.0, 10.0
"""Seconds without any answer after which MLflow is no longer waited for; the second when told to stop."""
REQUESTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}  # fmt: skip
"""MLflow's own patience, unless the user has set it: 7 attempts of 120 s each, before our journal may try again; and no
lines of its own among ours."""
NOTE_LENGTH = 7900
"""Characters that fit into a tag."""
NOTE_WIDTH = 560
"""Pixels; wider pictures push aside what the UI shows beside a description."""


class _OpenRun(NamedTuple):
    run_id: str
    journal: Journal
    monitor: SystemMetrics


_open: list[_OpenRun] = []
"""The runs that this process is in the middle of, the innermost last."""


@contextmanager
def tracked_run(experiment: str, name: str, tags: Mapping[str, str], run_id: str | None = None) -> Iterator[str]:
    """Open an MLflow run, or the one that `mlflow run` has opened, and close it with the status it deserves.

    What is logged inside goes through a journal, so that MLflow may be away meanwhile. What could not be sent by the
    end stays in the journal, and a line says how to send it later.

    Args:
        experiment: its experiment, unless `mlflow run` has chosen one.
        name: its name.
        tags: further tags.
        run_id: a run that is there already, to go on with.

    Yields:
        The run's id. An exception inside ends the run as FAILED, an interruption or `Stopped` as KILLED, and the tag
        `status_reason` says why.

    Raises:
        InputError: the tracking store cannot be reached, or has refused what was logged.
    """
    check_store(PATIENCE if run_id else 0.0)
    try:
        run = _begun(experiment, name, tags, run_id or os.environ.pop("MLFLOW_RUN_ID", None))
    except (MlflowException, OSError) as error:
        raise _unusable(error) from error
    run_id = run.info.run_id
    journal = _opened_journal(run_id)
    opened = _OpenRun(run_id, journal, SystemMetrics(run_id, partial(_log_sample, journal)))
    _open.append(opened)
    opened.monitor.start()
    try:
        yield run_id
    except KeyboardInterrupt as error:
        _close(opened, "KILLED", f"killed by {error}" if str(error) else "interrupted", SHORT_PATIENCE)
        raise
    except Stopped as reason:
        _close(opened, "KILLED", str(reason))
        raise
    except MlflowException as error:
        _close(opened, "FAILED", f"{type(error).__name__}: {error}")
        raise _unusable(error) from error
    except BaseException as error:
        _close(opened, "FAILED", f"{type(error).__name__}: {error}")
        raise
    _close(opened, "FINISHED")
    if journal.refusal:
        raise InputError(journal.refusal)


def _unusable(error: Exception) -> InputError:
    why = without_password(str(error))
    told = f"MLflow at {store()} cannot be used: {next(iter(why.splitlines()), type(error).__name__)}"
    if "error code 401" in why:
        told += ". Give user and password in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    return InputError(told)


def _begun(experiment: str, name: str, tags: Mapping[str, str], run_id: str | None) -> Run:
    """A run that is RUNNING: a new one, or one that is there."""
    client = mlflow.MlflowClient()
    tags = {"git_commit": _git_commit(), **_versions(), **tags, PROCESS: json.dumps(me())}
    if run_id is None:
        if _open:
            tags["mlflow.parentRunId"] = _open[-1].run_id
        return client.create_run(_experiment_id(experiment), tags=resolve_tags(tags), run_name=name)
    run = _patiently(lambda: client.get_run(run_id))
    if run.info.lifecycle_stage != "active":
        raise InputError(f"run {run_id} was deleted; restore it with `mlflow runs restore --run-id {run_id}`")
    client.update_run(run_id, status="RUNNING", name=name)
    for key, value in tags.items():
        client.set_tag(run_id, key, value)
    if REASON in run.data.tags:
        client.delete_tag(run_id, REASON)
    return run


def _close(opened: _OpenRun, status: str, reason: str | None = None, patience: float | None = None) -> None:
    """End a run when everything is sent, or when nobody has listened for so many seconds, by default `PATIENCE`."""
    run_id, journal = opened.run_id, opened.journal
    opened.monitor.finish()
    try:
        if not journal.wait(0.0):
            _tell(f"Waiting for MLflow, which has not yet taken {journal.unsent()} record(s).")
            journal.wait(PATIENCE if patience is None else patience)
        if status == "FINISHED" and journal.refusal:
            status, reason = "FAILED", journal.refusal
    finally:
        _open.remove(opened)
        if reason is not None:
            journal.add("records", {"what": "tags", "values": {REASON: without_password(reason)[:5000]}})
        journal.add("records", {"what": "end", "status": status, "time": _now()})
        journal.wait(0.0)
        journal.close()
        if journal.unsent():
            _tell(
                f"{journal.unsent()} record(s) of run {run_id} were not taken by MLflow. They are kept in "
                f"{journal.folder}; to send them when it answers again:\n  {here('sync')}"
            )


def _opened_journal(run_id: str) -> Journal:
    def tell(error: str) -> None:
        if error:
            why = without_password(error)[:160]  # in this order: half a password would not be known as one
            _tell(f"MLflow takes no records ({why}): they are kept in {UNSENT / run_id} until it does.")
        else:
            _tell("MLflow takes records again.")

    return Journal(UNSENT / run_id, sender(run_id), tell)


@contextmanager
def _journal(run_id: str | None = None) -> Iterator[Journal]:
    """The journal of a run, by default of the one that is open here; one that is not open is sent at once."""
    opened = next((each for each in reversed(_open) if run_id in (None, each.run_id)), None)
    if opened is not None:
        if opened.journal.refusal:
            raise InputError(opened.journal.refusal)
        yield opened.journal
        return
    assert run_id is not None
    journal = _opened_journal(run_id)
    try:
        yield journal
        journal.wait(PATIENCE)
    finally:
        journal.close()
    if journal.refusal:
        raise InputError(journal.refusal)


def store() -> str:
    """Where runs are recorded."""
    return without_password(mlflow.get_tracking_uri())


def wait_until_sent() -> bool:
    """Wait until MLflow has taken all that was logged in the open run so far; returns whether it has."""
    with _journal() as journal:
        return journal.wait(PATIENCE)


def send_unsent(folder: Path) -> int:
    """Send what a journal of a run that nobody is at still holds; returns how many entries are left.

    Raises:
        InputError: MLflow has refused something.
    """
    check_store()
    journal = Journal(folder, sender(folder.name), lambda error: _tell(f"MLflow: {error}") if error else None)
    try:
        journal.wait(PATIENCE)
    finally:
        journal.close()
    if journal.refusal:
        raise InputError(journal.refusal)
    return journal.unsent()


def create_run(experiment: str, name: str, tags: Mapping[str, str], parent: str | None = None) -> str:
    """Make a run, nested in another one and in its experiment if that is given, and leave it open; returns its id."""
    check_store(PATIENCE)
    told = {**tags, PROCESS: json.dumps(me())}

    def create() -> Run:
        client = mlflow.MlflowClient()
        if parent is None:
            return client.create_run(_experiment_id(experiment), tags=told, run_name=name)
        chosen = client.get_run(parent).info.experiment_id
        return client.create_run(chosen, tags={**told, "mlflow.parentRunId": parent}, run_name=name)

    try:
        return str(_patiently(create).info.run_id)
    except MlflowException as error:
        raise _unusable(error) from error


def describe_run(run_id: str, name: str, tags: Mapping[str, str]) -> None:
    """Name and tag a run that this process does not have open."""
    with _journal(run_id) as journal:
        journal.add("records", {"what": "tags", "values": {"mlflow.runName": name, **tags}})


def reopen_run(run_id: str) -> None:
    """Mark a run as RUNNING."""
    _patiently(lambda: mlflow.MlflowClient().update_run(run_id, status="RUNNING"))


def end_run(run_id: str, status: str, reason: str | None = None) -> None:
    """Give a run that this process does not have open its last status, and the reason unless it is FINISHED."""
    with _journal(run_id) as journal:
        if reason is None:
            journal.add("records", {"what": "untag", "values": [REASON]})
        else:
            journal.add("records", {"what": "tags", "values": {REASON: without_password(reason)[:5000]}})
        journal.add("records", {"what": "end", "status": status, "time": _now()})


def leave_run(run_id: str, into: str) -> None:
    """Finish a run that `mlflow run` has opened for work that is done in another one, and put it below that one.

    It cannot be deleted: `mlflow run` ends it once more afterwards, and fails where it is not there.
    """
    client = mlflow.MlflowClient()
    client.set_tag(run_id, "mlflow.parentRunId", into)
    client.set_tag(run_id, "kind", "resume")
    client.update_run(run_id, status="FINISHED", name="resumed")


def open_children(parent: str) -> list[str]:
    """The ids of the runs nested in a run that are still RUNNING."""

    def find() -> list[Run]:
        experiment = mlflow.MlflowClient().get_run(parent).info.experiment_id
        return every_run([experiment], f"tags.`mlflow.parentRunId` = '{parent}' AND attributes.status = 'RUNNING'")

    return [run.info.run_id for run in _patiently(find)]


class FoundRun(NamedTuple):
    """A run that is there."""

    run_id: str
    name: str
    status: str
    kind: str
    """The entry point that made it."""
    process: Mapping[str, Any]
    """What does it, as `processes.me` has told; empty if it is not known."""

    def is_dead(self) -> bool | None:
        """Whether its process has ended; None if that cannot be seen from here."""
        return is_dead(self.process) if self.process else None


def find_run(run_id: str) -> FoundRun | None:
    """A run by its id; None if there is none."""
    try:
        return _found(_patiently(lambda: mlflow.MlflowClient().get_run(run_id)))
    except MlflowException as error:
        if error.error_code in FINAL:
            return None
        raise _unusable(error) from error


def runs_tagged(key: str, value: str) -> list[FoundRun]:
    """The runs of any experiment that have a tag of this value, newest first."""
    return _runs_where(f"tags.`{key}` = '{value}'")


def runs_under_way() -> list[FoundRun]:
    """The runs of any experiment that say that they are RUNNING, newest first."""
    return _runs_where("attributes.status = 'RUNNING'")


def stored_config(run_id: str) -> dict[str, Any]:
    """The configuration that a run has logged.

    Raises:
        InputError: it has logged none.
    """
    try:
        return dict(mlflow.artifacts.load_dict(f"runs:/{run_id}/config.json"))
    except (MlflowException, OSError, ValueError) as error:
        raise InputError(f"run {run_id} has stored no configuration: it was stopped too early, begin anew") from error


def _runs_where(condition: str) -> list[FoundRun]:
    experiments = [each.experiment_id for each in mlflow.MlflowClient().search_experiments()]
    return [_found(run) for run in every_run(experiments, condition, "attributes.start_time DESC")]


def _found(run: Run) -> FoundRun:
    tags = run.data.tags
    try:
        process = dict(json.loads(tags.get(PROCESS, "{}")))
    except (TypeError, ValueError):
        process = {}
    return FoundRun(run.info.run_id, run.info.run_name or "", run.info.status, tags.get("kind", ""), process)


def logged_steps(run_id: str, metric: str) -> set[int]:
    """The epochs of which a run has a figure, as far as MLflow has been told."""
    with _journal(run_id) as journal:
        if not journal.wait(PATIENCE):
            raise InputError(
                f"MLflow does not take what run {run_id} has recorded before; go on with it when MLflow answers"
            )
    found = _patiently(lambda: mlflow.MlflowClient().get_metric_history(run_id, metric))
    return {point.step for point in found}


def logged_epochs(run_id: str, metric: str | None = None) -> list[dict[str, float]]:
    """The figures that a training run has logged, all or one, by name, for each of its epochs from the first."""
    client = mlflow.MlflowClient()
    epochs: dict[int, dict[str, float]] = {}
    for name in _patiently(lambda: client.get_run(run_id)).data.metrics:
        if name.startswith(("best/", "system/")) or metric not in (None, name):
            continue
        for point in client.get_metric_history(run_id, name):
            epochs.setdefault(point.step, {})[name] = point.value
    return [epochs[number] for number in sorted(epochs) if number > 0]


def tag_reason(run_id: str, reason: str) -> None:
    """Say on a run why it did not finish, as far as the store can be reached."""
    with suppress(MlflowException, InputError):
        check_store()
        mlflow.MlflowClient().set_tag(run_id, REASON, without_password(reason)[:5000])


def log_config(config: Any, leave_out: Collection[str] = ()) -> None:
    """Log the resolved configuration as params and as `config.json`, without the fields that are to be left out.

    `mlflow run` has already logged the parameters it was given, as they were typed; those cannot be logged again.
    """
    run_id = _open[-1].run_id
    values = hidden({name: value for name, value in asdict(config).items() if name not in leave_out})
    logged = _patiently(lambda: mlflow.MlflowClient().get_run(run_id)).data.params
    _record({"what": "params", "values": {name: str(value) for name, value in values.items() if name not in logged}})
    log_json(values, "config.json")


def log_split(split: Split, context: str) -> None:
    """Log a data set as an input of the run, identified by the hash of its files."""
    profile = {"images": len(split), "height": split.masks.shape[1], "width": split.masks.shape[2]}
    _record({
        "what": "input", "name": f"{split.dataset}/{split.name}", "digest": split.fingerprint[:16],
        "location": split.location, "profile": profile, "context": context,
    })  # fmt: skip


def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
    """Log figures of one moment; a figure that is not a number, such as the IoU of an absent class, is left out."""
    _record(_metrics_entry(metrics, step))


def log_tags(tags: Mapping[str, str]) -> None:
    """Set tags of the current run."""
    _record({"what": "tags", "values": hidden(tags)})


def _log_sample(journal: Journal, metrics: Mapping[str, float], step: int) -> None:
    with suppress(InputError):  # a full disk is told to who trains
        journal.add("records", _metrics_entry(metrics, step))


def _metrics_entry(metrics: Mapping[str, float], step: int | None) -> Entry:
    values = {allowed(name): float(value) for name, value in metrics.items() if value == value}
    return {"what": "metrics", "values": values, "step": step or 0, "time": _now()}


def log_note(
    said: str, pictures: Sequence[Figure | Image.Image] = (), details: str = "", run_id: str | None = None
) -> None:
    """Set the description that the UI shows on a run's page; lines for which MLflow has no room are left out.

    Args:
        said: Markdown; the UI shows its first lines at once, all else on a click.
        pictures: shown below it, made as narrow as the page needs them.
        details: Markdown below the pictures.
        run_id: the run; None is the one that is open here.
    """
    run_id, shown = run_id or _open[-1].run_id, []
    for place, picture in enumerate(pictures):
        path = f"description/{place}.png"
        image = Image.fromarray(plots.pixels(picture)) if isinstance(picture, Figure) else picture.convert("RGB")
        image.thumbnail((NOTE_WIDTH, 2 * NOTE_WIDTH), Image.Resampling.LANCZOS)
        _keep(path, image.save, run_id)
        # relative, so that it holds wherever the UI is served
        shown.append(f"![{path}](get-artifact?path={path}&run_uuid={run_id})\n")
    kept, room = [], NOTE_LENGTH
    for line in "\n".join([said, "", *shown, details]).strip().splitlines():
        line = _spaced(line)
        room -= len(line) + 1
        if room < 0:
            kept.append("…")
            break
        kept.append(line)
    _record({"what": "tags", "values": {"mlflow.note.content": without_password("\n".join(kept))}}, run_id)


def _spaced(line: str) -> str:
    """A row of a table with a space after each cell: the UI leaves none, and trims those it knows as spaces."""
    is_row = line.startswith("|") and set(line) - set("|- ")
    return line.replace(" | ", "\u2003\u200b | ") if is_row else line


def log_figure(figure: Figure, path: str) -> None:
    """Log a picture as an artifact."""
    _keep(path, Image.fromarray(plots.pixels(figure)).save)


def log_figure_at(figure: Figure, key: str, step: int) -> None:
    """Log a picture of one epoch, for the UI's image stepper."""
    image = Image.fromarray(plots.pixels(figure))
    with _journal() as journal:
        entry = {"what": "image", "key": key, "step": step, "time": _now()}
        journal.add("files", entry, lambda folder: image.save(folder / "image.png"))


def log_json(content: Any, path: str) -> None:
    """Log an object as a JSON artifact; NaN becomes null."""
    text = json.dumps(json.loads(json.dumps(content), parse_constant=lambda _: None), indent=1)
    log_text(text, path)


def log_text(text: str, path: str, run_id: str | None = None) -> None:
    """Log a text artifact of the run that is open here, or of another one."""
    _keep(path, lambda file: file.write_text(without_password(text), encoding="utf-8"), run_id)


def log_folder(folder: str | Path, path: str) -> None:
    """Log a folder with all that is in it as the artifact folder `path`."""
    _keep(path, lambda there: shutil.copytree(folder, there, copy_function=_linked))


@contextmanager
def artifact_file(path: str) -> Iterator[Path]:
    """A file to write, logged as the artifact `path` afterwards."""
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / Path(path).name
        yield file
        _keep(path, lambda there: shutil.move(file, there))


def _record(entry: Entry, run_id: str | None = None) -> None:
    with _journal(run_id) as journal:
        journal.add("records", entry)


def _keep(path: str, write: Callable[[Path], object], run_id: str | None = None) -> None:
    """Log what `write` writes to the path it is given as the artifact `path`."""

    def fill(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write(folder / path)

    with _journal(run_id) as journal:
        journal.add("files", {"what": "artifacts", "path": path}, fill)


def _linked(source: str, target: str) -> None:
    """A second name for a file, or a copy where there cannot be one."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def log_network(
    network: Segmenter, split: Split, metadata: dict[str, Any], register_as: str | None, alias: str
) -> str | None:
    """Log a network as the run's model, and register it if a name is given; it is moved to the CPU for that.

    It is stored as an exported program (`pt2`), which loads without unpickling code, and can be served.

    Args:
        network: takes images `(B, 3, H, W)` uint8 of any size and gives logits `(B, C, H, W)`.
        split: images to show how it is called.
        metadata: what is needed to use it: configuration, classes, palette, calibration, epoch.
        register_as: name in the model registry, or None.
        alias: alias that will point to the registered version.

    Returns:
        The registered version's URI; None if there is no such name, or MLflow does not answer now.
    """
    network.cpu().to(memory_format=torch.contiguous_format).eval()
    images, _ = split.gather(np.array([0, min(1, len(split) - 1)]))

    def save(folder: Path) -> None:
        serving.save_model(str(folder / MODEL), Model(metadata=metadata), network, images.contiguous())

    with _journal() as journal:
        entry = {"what": "model", "metadata": metadata, "register_as": register_as, "alias": alias}
        journal.add("files", entry, save)
        if register_as is None or not journal.wait(PATIENCE):
            return None
    version = mlflow.MlflowClient().get_model_version_by_alias(register_as, alias)
    return f"models:/{register_as}/{version.version}"


def where_to_look(run_id: str) -> str:
    """The line that tells how to see a run: its address, or the command that opens the UI."""
    uri = store()
    if (UNSENT / run_id).is_dir() and all(each.run_id != run_id for each in _open):
        return f"Look at it when MLflow has taken it all: {here('sync')}"
    run = mlflow.get_run(run_id)
    # without what is asked for, the UI opens with its pages for language models
    page = f"/#/experiments/{run.info.experiment_id}/runs/{run_id}?workflowType=machine_learning"
    if uri.startswith("http"):
        return f"Look at it: {uri.rstrip('/')}{page}"
    return f"Look at it: `make ui` (or `mlflow ui --backend-store-uri {uri}`), http://127.0.0.1:5000{page}"


def check_store(patience: float = 0.0) -> None:
    """Raise an `InputError` where MLflow would retry for minutes, once nothing has answered for `patience` seconds."""
    keep_apart()
    for key, value in REQUESTS.items():
        os.environ.setdefault(key, value)
    deadline = time.monotonic() + patience
    while True:
        try:
            _check_store()
        except InputError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return


def _patiently(call: Callable[[], T]) -> T:
    """What MLflow answers, asked again for a while when it does not."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except MlflowException as error:
            turned_away = "error code 401" in str(error) or "error code 403" in str(error)
            if turned_away or error.error_code in FINAL or time.monotonic() > deadline:
                raise
            time.sleep(1)


def _check_store() -> None:
    uri = mlflow.get_tracking_uri()
    if uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///"))
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise InputError(
                f"runs cannot be recorded in {file}: it cannot be written. Go to a folder that can be, or set "
                f"MLFLOW_TRACKING_URI"
            )
    if not uri.startswith(("http://", "https://")):
        return
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
            pass
    except urllib.error.HTTPError:
        pass  # something answers; whether it lets us in, MLflow will say
    except (OSError, ValueError) as error:
        raise InputError(
            f"no MLflow server answers at {without_password(uri)} ({getattr(error, 'reason', error)}): start it, or "
            f"set MLFLOW_TRACKING_URI to another one, or unset it to use a local file"
        ) from error


def _tell(what: str) -> None:
    """Say something beside the progress bars."""
    tqdm.write(without_password(what), file=sys.stderr)


def _now() -> int:
    """Milliseconds of Unix time."""
    return time.time_ns() // 10**6


def _experiment_id(name: str) -> str:
    """The experiment's id, made if there is none; without MLflow's process-wide "active experiment"."""
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        with suppress(MlflowException):  # another process may have been faster
            return client.create_experiment(name)
        experiment = client.get_experiment_by_name(name)
    if experiment is None:
        raise InputError(f"MLflow can make no experiment called {name!r}")
    return str(experiment.experiment_id)


def _git_commit() -> str:
    """The commit of this code, marked when files differ from it; `unknown` outside a checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return described.stdout.strip()


def _versions() -> dict[str, str]:
    return {f"version.{package}": version(package) for package in VERSIONS_OF}
