"""Send the entries of a journal to MLflow: what each kind of entry holds, and which errors are final."""

import json
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, LoggedModelStatus, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from PIL import Image

from studies.base.checksum import CHECKSUM, WEIGHTS, checksum
from studies.base.errors import is_final, reason
from studies.base.opened_run import NOTE
from studies.tracking.journal import Entry, LostRunError, RefusedError, Send
from studies.tracking.registry import describe, register

IMAGE = ".png"
MODEL = "model"
"""Name of the logged model, and of its folder among an entry's files."""


def sender(run_id: str) -> Send:
    """Return a function that sends the entries of a run's journal to the current tracking store."""
    uri = mlflow.get_tracking_uri()

    def send(entry: Entry, files: Path) -> None:
        try:
            _SENDERS[entry["what"]](mlflow.MlflowClient(uri), run_id, entry, files)
        except RefusedError as error:
            error.is_essential = not _is_image(entry)
            raise
        except Exception as error:
            verb = _final_verb(error, files)
            if verb is None:
                raise
            _raise_if_deleted(uri, run_id)
            refused = RefusedError(f"MLflow {verb} {_named(entry)} of run {run_id}: {reason(error)}")
            refused.is_essential = not _is_image(entry)
            raise refused from error

    return send


def _final_verb(error: Exception, files: Path) -> str | None:
    """Return what MLflow does with the entry, if a retry cannot change the error; None for any other error."""
    if isinstance(error, (KeyError, TypeError)) or (isinstance(error, ValueError) and not isinstance(error, OSError)):
        return "cannot store"
    if isinstance(error, OSError) and isinstance(error.filename, (str, Path)):  # errors of `requests` have no file name
        return "cannot send" if Path(error.filename).resolve().is_relative_to(files.resolve()) else None
    if is_final(error):
        return "refuses"
    return None


def _raise_if_deleted(uri: str, run_id: str) -> None:
    """Raise a `LostRunError` if the run was deleted: then MLflow refuses every entry."""
    try:
        run = mlflow.MlflowClient(uri).get_run(run_id)
    except Exception as error:
        if isinstance(error, MlflowException) and error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise LostRunError(f"run {run_id} no longer exists in MLflow", keep=True) from error
        return
    if run.info.lifecycle_stage != "active":
        raise LostRunError(deleted(run_id), keep=True)


def deleted(run_id: str) -> str:
    """Return the message about a deleted run that can be restored."""
    return f"run {run_id} was deleted: restore it with `mlflow runs restore --run-id {run_id}`"


def _is_image(entry: Entry) -> bool:
    return entry["what"] == "image" or str(entry.get("path", "")).endswith(IMAGE)


def _named(entry: Entry) -> str:
    about = entry.get("path") or entry.get("key") or ", ".join(map(str, entry.get("values") or ()))
    return f"{entry.get('what')} {about}".strip()[:200]


def _params(client: mlflow.MlflowClient, run_id: str, entry: Entry, _: Path) -> None:
    client.log_batch(run_id, params=[Param(*pair) for pair in entry["values"].items()])


def _tags(client: mlflow.MlflowClient, run_id: str, entry: Entry, _: Path) -> None:
    client.log_batch(run_id, tags=[RunTag(*pair) for pair in entry["values"].items()])


def _untag(client: mlflow.MlflowClient, run_id: str, entry: Entry, _: Path) -> None:
    tags = client.get_run(run_id).data.tags
    for name in entry["values"]:
        if name in tags:
            client.delete_tag(run_id, name)


def _metrics(client: mlflow.MlflowClient, run_id: str, entry: Entry, _: Path) -> None:
    """Log metrics with the time of the entry: MLflow stores equal points once, so a repeated entry adds none."""
    links = {"model_id": entry["model_id"], "run_id": run_id} if "model_id" in entry else {}
    links |= {f"dataset_{name}": value for name, value in entry.get("dataset", {}).items()}
    metrics = [Metric(name, value, entry["time"], entry["step"], **links) for name, value in entry["values"].items()]
    client.log_batch(run_id, metrics=metrics)


def _input(client: mlflow.MlflowClient, run_id: str, entry: Entry, _: Path) -> None:
    tag = InputTag("mlflow.data.context", entry["context"])
    source = json.dumps({"tags": {"mlflow.source.name": entry["location"]}})  # the form of MLflow's "code" sources
    dataset = Dataset(
        name=entry["name"], digest=entry["digest"], source_type="code", source=source,
        profile=json.dumps(entry["profile"]),
    )  # fmt: skip
    client.log_inputs(run_id, [DatasetInput(dataset, [tag])])


def _model_input(client: mlflow.MlflowClient, run_id: str, entry: Entry, _: Path) -> None:
    """Log a model as an input, unless it is one already."""
    inputs = client.get_run(run_id).inputs
    if entry["model_id"] not in [each.model_id for each in (inputs.model_inputs if inputs else [])]:
        client.log_inputs(run_id, models=[LoggedModelInput(entry["model_id"])])


def _end(client: mlflow.MlflowClient, run_id: str, entry: Entry, _: Path) -> None:
    client.set_terminated(run_id, entry["status"], entry["time"])


def _artifacts(client: mlflow.MlflowClient, run_id: str, entry: Entry, files: Path) -> None:
    if not (files / entry["path"]).exists():
        raise RefusedError(
            f"{_named(entry)} of run {run_id} cannot be sent: its file {files / entry['path']} is missing"
        )
    client.log_artifacts(run_id, str(files))


def _image(client: mlflow.MlflowClient, run_id: str, entry: Entry, files: Path) -> None:
    try:
        with Image.open(files / "image.png") as opened:
            opened.load()
            image = opened.copy()
    except (OSError, SyntaxError, ValueError) as error:  # for example after a power failure
        raise RefusedError(f"{_named(entry)} of run {run_id} cannot be sent: its file is damaged: {error}") from error
    client.log_image(run_id, image, key=entry["key"], step=entry["step"], timestamp=entry["time"], synchronous=True)


def _model(client: mlflow.MlflowClient, run_id: str, entry: Entry, files: Path) -> None:
    """Log a saved model, under the same ID if the entry is sent again."""
    try:
        metadata = Model.load(str(files / MODEL)).metadata or {}
        broken = [file.name for file in files.rglob("*.pt2") if not zipfile.is_zipfile(file)]
        # models that earlier versions saved have neither
        if CHECKSUM in metadata and metadata[CHECKSUM] != checksum(files / MODEL / WEIGHTS):
            broken.append(WEIGHTS)
    except Exception as error:
        raise RefusedError(f"model of run {run_id} cannot be sent: its files are damaged: {error}") from error
    if broken:
        raise RefusedError(f"model of run {run_id} cannot be sent: its file {broken[0]} is damaged")
    run, known = client.get_run(run_id), files / "model_id"
    outputs = [output.model_id for output in (run.outputs.model_outputs if run.outputs else [])]
    model_id = known.read_text() if known.is_file() else None
    for other in outputs:  # it may have been sent before the process was killed
        logged = client.get_logged_model(other)
        if (logged.name, logged.status) == (MODEL, LoggedModelStatus.READY):
            model_id = logged.model_id
            break
    else:
        if model_id is None:
            model_id = client.create_logged_model(
                run.info.experiment_id, name=MODEL, source_run_id=run_id, params=dict(run.data.params)
            ).model_id
            known.write_text(model_id)
        Model.log(
            None,
            name=MODEL,
            flavor=_SavedModel,
            model_id=model_id,
            run_id=None if model_id in outputs else run_id,  # MLflow refuses to link a model to a run twice
            metadata=metadata,
            folder=files / MODEL,
            made_in=run_id,
            validate_serving_input=False,  # it would load the model again, which takes seconds
        )
    if entry["register_as"] is not None:
        made = entry.get("time", run.info.start_time)  # missing in entries of earlier versions
        register(client, run_id, entry["register_as"], entry["alias"], model_id, made)


def _model_card(client: mlflow.MlflowClient, run_id: str, entry: Entry, _: Path) -> None:
    """Describe the model of a run, and its version in the registry. It was logged by an earlier entry."""
    run = client.get_run(run_id)
    for output in run.outputs.model_outputs if run.outputs else []:
        logged = client.get_logged_model(output.model_id)
        if (logged.name, logged.status) == (MODEL, LoggedModelStatus.READY):
            client.set_logged_model_tags(logged.model_id, {**entry["tags"], NOTE: entry["description"]})
            _metrics(client, run_id, entry | {"model_id": logged.model_id}, _)
            if entry["register_as"] is not None:
                describe(client, run_id, entry["register_as"], logged.model_id, entry["description"], entry["tags"])


class _SavedModel:
    """A flavor for `Model.log` that copies a saved model."""

    @staticmethod
    def save_model(path: str, mlflow_model: Model, folder: Path, made_in: str, **_: Any) -> None:
        """Copy the folder, and its metadata into `mlflow_model`."""
        shutil.copytree(folder, path)
        saved = Model.load(str(folder))
        for name in ("flavors", "signature", "saved_input_example_info"):
            setattr(mlflow_model, name, getattr(saved, name))
        mlflow_model.run_id = made_in
        mlflow_model.save(str(Path(path) / "MLmodel"))


_SENDERS: Mapping[str, Callable[[mlflow.MlflowClient, str, Entry, Path], None]] = {
    "params": _params, "tags": _tags, "untag": _untag, "metrics": _metrics, "input": _input,
    "model_input": _model_input, "end": _end,
    "artifacts": _artifacts, "image": _image, "model": _model, "model_card": _model_card,
}  # fmt: skip


def allowed(name: str) -> str:
    """Return a metric's name with `_` for each character that MLflow forbids, such as the brackets in `lane (left)`."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def metrics_entry(metrics: Mapping[str, float], step: int | None) -> Entry:
    """Return metrics as an entry of a journal, with the current time; NaN values are left out."""
    values = {allowed(name): float(value) for name, value in metrics.items() if value == value}
    return {"what": "metrics", "values": values, "step": step or 0, "time": now()}


def now() -> int:
    """Return the current Unix time in milliseconds."""
    return time.time_ns() // 10**6
