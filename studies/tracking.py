"""One piece of work as one MLflow run, with a status that tells the truth. The only place that writes to MLflow."""

import json
import logging
import os
import re
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import mlflow
import numpy as np
import torch
from matplotlib.figure import Figure
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Param
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from PIL import Image

from segmentation import plots
from segmentation.datasets import Split
from segmentation.errors import InputError
from segmentation.models import Segmenter
from studies import serving
from studies.run_search import every_run


class Stopped(Exception):  # noqa: N818 - nothing has gone wrong
    """A training is to end before its last epoch; the message says why. Its run ends as KILLED."""


REASON = "status_reason"
"""Tag that says why a run did not finish."""
VERSIONS_OF = ("torch", "torchvision", "mlflow", "numpy")
SYSTEM_METRICS_SECONDS = 5
NOTE_LENGTH = 7900
"""Characters that fit into a tag."""
NOTE_WIDTH = 560
"""Pixels; wider pictures push aside what the UI shows beside a description."""


class SplitDataset(MetaDataset):
    """A split as MLflow's data set: no pictures, only where they are, how many, and the hash of their files."""

    def __init__(self, split: Split) -> None:
        source = CodeDatasetSource(tags={"mlflow.source.name": split.location})
        super().__init__(source, name=f"{split.dataset}/{split.name}", digest=split.fingerprint[:16])
        self._profile = {"images": len(split), "height": split.masks.shape[1], "width": split.masks.shape[2]}

    @property
    def profile(self) -> dict[str, int]:
        """Number of images and their prepared size in pixels."""
        return self._profile

    def to_dict(self) -> dict[str, str]:
        """What MLflow stores."""
        return super().to_dict() | {"profile": json.dumps(self._profile)}


@contextmanager
def tracked_run(experiment: str, name: str, tags: Mapping[str, str], run_id: str | None = None) -> Iterator[str]:
    """Open an MLflow run, or the one that `mlflow run` has opened, and close it with the status it deserves.

    Args:
        experiment: its experiment, unless `mlflow run` has chosen one.
        name: its name.
        tags: further tags.
        run_id: a run that is there already, to go on with.

    Yields:
        The run's id. An exception inside ends the run as FAILED, an interruption or `Stopped` as KILLED, and the tag
        `status_reason` says why.

    Raises:
        InputError: the tracking store cannot be reached.
    """
    check_store()
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
    if "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL" not in os.environ:
        mlflow.set_system_metrics_sampling_interval(SYSTEM_METRICS_SECONDS)
    mlflow.set_system_metrics_samples_before_logging(1)
    try:
        chosen = None if run_id or "MLFLOW_RUN_ID" in os.environ else _experiment_id(experiment)
        run = mlflow.start_run(
            run_id, experiment_id=chosen, run_name=name, nested=run_id is not None, log_system_metrics=True
        )
        mlflow.set_tags({"mlflow.runName": name, "git_commit": _git_commit(), **_versions(), **tags})
        if REASON in run.data.tags:
            mlflow.delete_tag(REASON)
    except (MlflowException, OSError) as error:
        raise InputError(
            f"MLflow at {_shown(mlflow.get_tracking_uri())} cannot be used: {str(error).splitlines()[0]}"
        ) from error
    try:
        yield run.info.run_id
    except KeyboardInterrupt as error:
        _end(run.info.run_id, "KILLED", f"killed by {error}" if str(error) else "interrupted")
        raise
    except Stopped as reason:
        _end(run.info.run_id, "KILLED", str(reason))
        raise
    except BaseException as error:
        _end(run.info.run_id, "FAILED", f"{type(error).__name__}: {error}")
        raise
    mlflow.end_run("FINISHED")


def create_run(experiment: str, name: str, tags: Mapping[str, str], parent: str | None = None) -> str:
    """Make a run, nested in another one and in its experiment if that is given, and leave it open; returns its id."""
    check_store()
    client = mlflow.MlflowClient()
    chosen = _experiment_id(experiment)
    more = {}
    if parent is not None:
        chosen = client.get_run(parent).info.experiment_id
        more = {"mlflow.parentRunId": parent}
    return str(client.create_run(chosen, tags={**tags, **more}, run_name=name).info.run_id)


def describe_run(run_id: str, name: str, tags: Mapping[str, str]) -> None:
    """Name and tag a run that this process does not have open."""
    client = mlflow.MlflowClient()
    for key, value in {"mlflow.runName": name, **tags}.items():
        client.set_tag(run_id, key, value)


def reopen_run(run_id: str) -> None:
    """Mark a run as RUNNING."""
    mlflow.MlflowClient().update_run(run_id, status="RUNNING")


def end_run(run_id: str, status: str, reason: str | None = None) -> None:
    """Give a run that this process does not have open its last status, and the reason unless it is FINISHED."""
    if reason is not None:
        tag_reason(run_id, reason)
    mlflow.MlflowClient().set_terminated(run_id, status)


def open_children(parent: str) -> list[str]:
    """The ids of the runs nested in a run that are still RUNNING."""
    client = mlflow.MlflowClient()
    found = every_run(
        [client.get_run(parent).info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{parent}' AND attributes.status = 'RUNNING'",
    )
    return [run.info.run_id for run in found]


class FoundRun(NamedTuple):
    """A run that is there."""

    run_id: str
    name: str
    status: str


def runs_tagged(key: str, value: str) -> list[FoundRun]:
    """The runs of any experiment that have a tag of this value, newest first."""
    experiments = [each.experiment_id for each in mlflow.MlflowClient().search_experiments()]
    found = every_run(experiments, f"tags.`{key}` = '{value}'", "attributes.start_time DESC")
    return [FoundRun(run.info.run_id, run.info.run_name or "", run.info.status) for run in found]


def logged_epochs(run_id: str, metric: str | None = None) -> list[dict[str, float]]:
    """The figures that a training run has logged, all or one, by name, for each of its epochs from the first."""
    client = mlflow.MlflowClient()
    epochs: dict[int, dict[str, float]] = {}
    for name in client.get_run(run_id).data.metrics:
        if name.startswith(("best/", "system/")) or metric not in (None, name):
            continue
        for point in client.get_metric_history(run_id, name):
            epochs.setdefault(point.step, {})[name] = point.value
    return [epochs[number] for number in sorted(epochs) if number > 0]


def tag_reason(run_id: str, reason: str) -> None:
    """Say on a run why it did not finish, as far as the store can be reached."""
    with suppress(MlflowException, InputError):
        check_store()
        mlflow.MlflowClient().set_tag(run_id, REASON, reason[:5000])


def _end(run_id: str, status: str, reason: str) -> None:
    """End the run. `mlflow run` afterwards turns KILLED into FAILED (seen in 3.17.2), but the tag stays."""
    tag_reason(run_id, reason)
    mlflow.end_run(status)


def log_config(config: Any, leave_out: Collection[str] = ()) -> None:
    """Log the resolved configuration as params and as `config.json`, without the fields that are to be left out.

    `mlflow run` has already logged the parameters it was given, as they were typed; those cannot be logged again.
    """
    run = mlflow.active_run()
    assert run is not None
    values = {name: value for name, value in asdict(config).items() if name not in leave_out}
    client = mlflow.MlflowClient()
    logged = client.get_run(run.info.run_id).data.params
    params = [Param(name, str(value)) for name, value in values.items() if name not in logged]
    client.log_batch(run.info.run_id, params=params)
    mlflow.log_dict(values, "config.json")


def log_split(split: Split, context: str) -> None:
    """Log a data set as an input of the run, identified by the hash of its files."""
    mlflow.log_input(SplitDataset(split), context=context)


def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
    """Log figures in one call; a figure that is not a number, such as the IoU of an absent class, is left out.

    Characters that MLflow allows in no name, such as the bracket in a class `lane (left)`, become `_`.
    """
    allowed = {re.sub(r"[^\w\-. :/]", "_", name): value for name, value in metrics.items() if value == value}
    mlflow.log_metrics(allowed, step, synchronous=True)


def log_tags(tags: Mapping[str, str]) -> None:
    """Set tags of the current run."""
    mlflow.set_tags(dict(tags))


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
    if run_id is None:
        run = mlflow.active_run()
        assert run is not None
        run_id = run.info.run_id
    client, shown = mlflow.MlflowClient(), []
    for place, picture in enumerate(pictures):
        path = f"description/{place}.png"
        image = Image.fromarray(plots.pixels(picture)) if isinstance(picture, Figure) else picture.convert("RGB")
        image.thumbnail((NOTE_WIDTH, 2 * NOTE_WIDTH), Image.Resampling.LANCZOS)
        client.log_image(run_id, image, path)
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
    client.set_tag(run_id, "mlflow.note.content", "\n".join(kept))


def _spaced(line: str) -> str:
    """A row of a table with a space after each cell: the UI leaves none, and trims those it knows as spaces."""
    is_row = line.startswith("|") and set(line) - set("|- ")
    return line.replace(" | ", "\u2003\u200b | ") if is_row else line


def log_figure(figure: Figure, path: str) -> None:
    """Log a picture as an artifact."""
    mlflow.log_image(plots.pixels(figure), path)


def log_figure_at(figure: Figure, key: str, step: int) -> None:
    """Log a picture of one epoch, for the UI's image stepper."""
    mlflow.log_image(plots.pixels(figure), key=key, step=step, synchronous=True)


def log_json(content: Any, path: str) -> None:
    """Log an object as a JSON artifact; NaN becomes null."""
    text = json.dumps(json.loads(json.dumps(content), parse_constant=lambda _: None), indent=1)
    mlflow.log_text(text, path)


def log_text(text: str, path: str, run_id: str | None = None) -> None:
    """Log a text artifact of the run that is open here, or of another one."""
    mlflow.log_text(text, path, run_id)


def log_folder(folder: str | Path, path: str) -> None:
    """Log a folder with all that is in it as the artifact folder `path`."""
    mlflow.log_artifacts(str(folder), path)


@contextmanager
def artifact_file(path: str) -> Iterator[Path]:
    """A file to write, logged as the artifact `path` afterwards."""
    folder, _, name = path.rpartition("/")
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary) / name
        mlflow.log_artifact(str(Path(temporary) / name), folder or None)


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
        The registered version's URI, or None.
    """
    network.cpu().to(memory_format=torch.contiguous_format).eval()
    images, _ = split.gather(np.array([0, min(1, len(split) - 1)]))
    info = Model.log(
        None,
        name="model",
        flavor=serving,
        registered_model_name=register_as,
        metadata=metadata,
        network=network,
        images=images.contiguous(),
        validate_serving_input=False,  # loading it once more takes seconds, and a test serves such models
    )
    if register_as is None:
        return None
    mlflow.MlflowClient().set_registered_model_alias(register_as, alias, str(info.registered_model_version))
    return f"models:/{register_as}/{info.registered_model_version}"


def where_to_look(run_id: str) -> str:
    """The line that tells how to see a run: its address, or the command that opens the UI."""
    uri = mlflow.get_tracking_uri()
    run = mlflow.get_run(run_id)
    # without what is asked for, the UI opens with its pages for language models
    page = f"/#/experiments/{run.info.experiment_id}/runs/{run_id}?workflowType=machine_learning"
    if uri.startswith("http"):
        return f"Look at it: {_shown(uri).rstrip('/')}{page}"
    return f"Look at it: `make ui` (or `mlflow ui --backend-store-uri {_shown(uri)}`), http://127.0.0.1:5000{page}"


def check_store() -> None:
    """Raise an `InputError` at once where MLflow would retry for minutes."""
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
            f"no MLflow server answers at {_shown(uri)} ({getattr(error, 'reason', error)}): start it, or set "
            f"MLFLOW_TRACKING_URI to another one, or unset it to use a local file"
        ) from error


def _shown(uri: str) -> str:
    """A URI without the password in it."""
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri


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
