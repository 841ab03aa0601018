"""What runs have stored of their scores, read back from MLflow: enough to compare them without any network."""

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
from studies.base.errors import reason
from studies.config import TrainConfig, decisive
from studies.scores.files import Example, read_digests, read_examples, read_record
from studies.tracking.artifact_folders import missing_files
from studies.tracking.queries import every_run

CURVES = of_epoch(ON_TRAIN)


class StoredScores:
    """What one run measured on one split."""

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
                f"run {self.run_id} ({self.name}, {run.info.status}) has stored no scores of split={split!r}; "
                f"score it with the entry point evaluate, and compare that run"
            ) from error
        with self._told():
            self.protocol, self.origin, self.labels = read_record(record_file)
            self.digests: dict[str, str] = read_digests(self._histograms)

    def scores(self, names: Sequence[str]) -> Scores:
        """The scores of these images alone, in this order."""
        places = {name: place for place, name in enumerate(self.digests)}
        width = int(self.protocol["boundary_width"])
        with self._told():
            return load_scores(self._histograms, self.labels, width, [places[name] for name in names])[0]

    def examples(self) -> dict[str, Example]:
        """The stored example images by name; none if the run stored none."""
        try:
            file = self._fetched(f"examples/{self.split}.npz")
        except (MlflowException, OSError):
            return {}
        with self._told():
            return read_examples(Path(file), len(self.labels))

    def curves(self) -> dict[str, list[float]]:
        """Loss and accuracy over the epochs of the training, by metric; empty where the training is not known."""
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
        """All that makes the network what it is but the seed."""
        config = decisive(
            asdict(TrainConfig()) | self.origin["config"]
        )  # which an earlier version wrote with fewer fields
        config.pop("seed", None)
        about = self.origin["calibration"] or {}
        return config | {"calibrated": about.get("method"), "calibrated_on": about.get("fingerprint")}

    def network(self) -> tuple[object, ...]:
        """What tells networks apart: the training, the epoch, and how the confidence was mended."""
        about = self.origin["calibration"] or {}
        trained_in = self.origin["trained_in_run"] or self.run_id
        return trained_in, self.origin["epoch"], about.get("method"), about.get("fingerprint")

    @property
    def seed(self) -> int:
        """Of the training."""
        return int(self.origin["config"]["seed"])

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say of a damaged file which run has stored it, and what to do."""
        try:
            yield
        except InputError as error:
            raise InputError(
                f"the scores of run {self.run_id} ({self.name}) cannot be used: {error}; score it again with the entry "
                f"point evaluate"
            ) from error

    def _fetched(self, path: str) -> str:
        return mlflow.artifacts.download_artifacts(f"runs:/{self.run_id}/{path}", dst_path=self._folder)


def find_runs(names: str, split: str) -> list[Run]:
    """The runs that a list with commas names: IDs, runs:/ID, registered models, or whole experiments.

    Of an experiment these are its finished runs that have scored the split, oldest first.

    Raises:
        InputError: a name is of nothing that is there.
    """
    client = mlflow.MlflowClient()
    found: dict[str, Run] = {}
    for name in filter(None, (part.strip() for part in names.split(","))):
        try:
            runs = _named(client, name, split)
        except MlflowException as error:
            raise InputError(f"run_ids: {name!r} cannot be found: {reason(error)}") from error
        found |= {run.info.run_id: run for run in runs}
    return list(found.values())


def _named(client: mlflow.MlflowClient, name: str, split: str) -> list[Run]:
    if re.fullmatch("(runs:/)?[0-9a-f]{32}", name):
        return [client.get_run(name.removeprefix("runs:/"))]
    if name.startswith("models:/"):
        info = mlflow.models.get_model_info(name)
        return [client.get_run(info.run_id)]
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        known = [each.name for each in client.search_experiments()]
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        raise InputError(
            f"run_ids: {name!r} is no run ID (32 hexadecimal digits), no models:/NAME/1 and no experiment."
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
