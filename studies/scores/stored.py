"""Scores that runs have stored in MLflow, read back: enough to compare runs without their models."""

import difflib
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from segmentation.errors import InputError, listed
from segmentation.metrics import ON_TRAIN, of_epoch
from segmentation.scoring.scores import Scores, load_scores
from studies.base.errors import why_absent
from studies.config import TrainConfig, decisive
from studies.scores.files import Example, read_digests, read_examples, read_record
from studies.tracking.artifact_folders import missing_files
from studies.tracking.queries import every_run

RUN = re.compile("(runs:/)?[0-9a-f]{32}")
CURVES = of_epoch(ON_TRAIN)


class StoredScores:
    """Scores of one run on one split."""

    def __init__(self, run: Run, split: str) -> None:
        self.run_id: str = run.info.run_id
        self.name: str = run.info.run_name or run.info.run_id
        self.split = split
        self._folder = tempfile.mkdtemp(prefix="mlproject-")
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        try:
            record_file = Path(self._fetched(f"reliability/{split}.json"))
            self._histograms = Path(self._fetched(f"reliability/{split}_histograms.npz"))
        except (MlflowException, OSError) as error:
            if where := missing_files(f"runs:/{self.run_id}"):
                raise InputError(f"run {self.run_id} ({self.name}): {where}") from error
            raise InputError(
                f"run {self.run_id} ({self.name}, {run.info.status}) has no scores of split={split!r}; score it with "
                f"the entry point evaluate, and compare that run"
            ) from error
        with self._naming_the_run():
            self.protocol, self.origin, self.labels = read_record(record_file)
            self.digests: dict[str, str] = read_digests(self._histograms)

    def scores(self, names: Sequence[str]) -> Scores:
        """Return the scores of these images only, in this order."""
        indices = {name: index for index, name in enumerate(self.digests)}
        width = int(self.protocol["boundary_width"])
        with self._naming_the_run():
            return load_scores(self._histograms, self.labels, width, [indices[name] for name in names])[0]

    def examples(self) -> dict[str, Example]:
        """Return the stored example images by name."""
        try:
            file = self._fetched(f"examples/{self.split}.npz")
        except (MlflowException, OSError):
            return {}
        with self._naming_the_run():
            return read_examples(Path(file), len(self.labels))

    def curves(self) -> dict[str, list[float]]:
        """Return loss and accuracy of every epoch, by metric; empty if the training run is unknown."""
        trained_in = self.origin["trained_in_run"]
        client, found = mlflow.MlflowClient(), {}
        for name in CURVES if trained_in else ():
            try:
                history = sorted(client.get_metric_history(trained_in, name), key=lambda point: point.step)
            except MlflowException:
                return {}
            found[name] = [float(point.value) for point in history]
        return found

    def setting(self) -> Mapping[str, Any]:
        """Return everything that the model depends on except the seed."""
        # earlier versions recorded fewer fields
        config = decisive(asdict(TrainConfig()) | self.origin["config"])
        config.pop("seed", None)
        about = self.origin["calibration"] or {}
        code = self.origin.get("model_code") or ""
        return config | {
            "calibrated": about.get("method"), "calibrated_on": about.get("fingerprint"), "code": code[:8] or None,
        }  # fmt: skip

    def model_key(self) -> tuple[object, ...]:
        """Return what identifies the model: training run, epoch, and calibration."""
        about = self.origin["calibration"] or {}
        trained_in = self.origin["trained_in_run"] or self.run_id
        return trained_in, self.origin["epoch"], about.get("method"), about.get("fingerprint")

    @property
    def seed(self) -> int:
        """Seed of the training run."""
        return int(self.origin["config"]["seed"])

    @contextmanager
    def _naming_the_run(self) -> Iterator[None]:
        """Add the run and what to do to the message of an `InputError` about a damaged file."""
        try:
            yield
        except InputError as error:
            raise InputError(
                f"the scores of run {self.run_id} ({self.name}) cannot be used: {error}; score its model again with "
                f"the entry point evaluate"
            ) from error

    def _fetched(self, path: str) -> str:
        return mlflow.artifacts.download_artifacts(f"runs:/{self.run_id}/{path}", dst_path=self._folder)


def find_runs(names: str, split: str) -> list[Run]:
    """Return the runs for names separated by commas: run IDs, runs:/ID, registered models, or experiments.

    An experiment stands for its finished runs that have scored the split, oldest first.

    Raises:
        InputError: a name does not exist.
    """
    client = mlflow.MlflowClient()
    found: dict[str, Run] = {}
    for name in filter(None, (part.strip() for part in names.split(","))):
        try:
            runs = _named(client, name, split)
        except MlflowException as error:
            raise InputError(f"run_ids: {name!r} was not found: {why_absent(error)}") from error
        found |= {run.info.run_id: run for run in runs}
    return list(found.values())


def named_alone(names: str, stored: Sequence[StoredScores]) -> set[str]:
    """Return the IDs of the runs that are named themselves, not by their experiment."""
    parts = [part.strip() for part in names.split(",")]
    ids = {part.removeprefix("runs:/") for part in parts if RUN.fullmatch(part)}
    ids |= {mlflow.models.get_model_info(part).run_id for part in parts if part.startswith("models:/")}
    return ids & {each.run_id for each in stored}


def _named(client: mlflow.MlflowClient, name: str, split: str) -> list[Run]:
    if RUN.fullmatch(name):
        return [client.get_run(name.removeprefix("runs:/"))]
    if name.startswith("models:/"):
        info = mlflow.models.get_model_info(name)
        return [client.get_run(info.run_id)]
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        known = [each.name for each in client.search_experiments()]
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        raise InputError(
            f"run_ids: {name!r} is not a run ID (8 digits suffice), models:/NAME/1 or an experiment."
            f"{f' Did you mean {nearest[0]!r}?' if nearest else ''} Experiments: {listed(known, 10)}"
        )
    finished = every_run([experiment.experiment_id], "attributes.status = 'FINISHED'")
    scored = f"reliability/{split}.json"
    runs = [
        run for run in finished
        if scored in {file.path for file in client.list_artifacts(run.info.run_id, "reliability")}
    ]  # fmt: skip
    if not runs and finished and (where := missing_files(f"runs:/{finished[0].info.run_id}")):
        raise InputError(f"run_ids: experiment {name!r}, run {finished[0].info.run_id}: {where}")
    if not runs:
        raise InputError(f"run_ids: experiment {name!r} has no finished run that scored split={split!r}")
    return runs
