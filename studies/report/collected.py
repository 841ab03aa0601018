"""What MLflow holds of an experiment, of runs or of a study, as plain data. Only reads."""

import csv
import io
import json
import re
import shlex
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from segmentation.errors import InputError, one_of
from segmentation.metrics import METRICS, is_better, of_epoch
from studies.base import rerun as commands
from studies.base.errors import unusable
from studies.config import ReportConfig
from studies.scores.stored import find_runs
from studies.tracking.artifact_folders import missing_files
from studies.tracking.queries import every_run

REPORTED = ("train", "evaluate", "calibrate", "compare", "models", "tune")
"""Kinds of runs that have something to report."""
HISTORY = (*of_epoch(), "val/ece_low", "val/ece_high")


@dataclass(frozen=True)
class Held:
    """One run as MLflow holds it."""

    run_id: str
    name: str
    kind: str
    status: str
    experiment: str
    started: datetime
    seconds: float
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    config: Mapping[str, Any]
    files: Mapping[str, bytes]
    """Those of its artifacts that are shown, by path."""

    @property
    def anchor(self) -> str:
        """Of its place in the list of runs."""
        return f"run-{self.run_id[:8]}"

    @property
    def command(self) -> str:
        """What makes it again."""
        return commands.command(self.kind, self.config)

    def record(self, path: str) -> Any:
        """A JSON artifact; None if it is not there.

        Raises:
            InputError: it is damaged.
        """
        try:
            return json.loads(self.files[path]) if path in self.files else None
        except ValueError as error:
            raise InputError(f"{path} of run {self.run_id} ({self.name}) is damaged: {error}") from error

    def rows(self, path: str) -> list[dict[str, str]]:
        """The rows of a CSV artifact; none if it is not there."""
        return list(csv.DictReader(io.StringIO(self.files.get(path, b"").decode(), newline="")))

    def pictures(self, folder: str) -> dict[str, bytes]:
        """Its PNGs in a folder, by name without the ending."""
        found = {Path(path): content for path, content in sorted(self.files.items()) if path.endswith(".png")}
        return {path.stem: content for path, content in found.items() if str(path.parent) == folder}


@dataclass(frozen=True)
class Study:
    """A study's own run, and the training of its best setting."""

    run: Held
    best: Held | None


@dataclass(frozen=True)
class Collected:
    """All that a page shows."""

    title: str
    split: str
    experiment: str
    """In which the page is recorded."""
    main: Held | None
    """The training that is shown by itself."""
    why: str
    """Why that one, as the rest of a sentence that begins with it."""
    scored: Held | None
    """The run that holds the scores of the split: the training, or an evaluation of it."""
    history: Mapping[str, Mapping[int, float]]
    """Of the training: figures by metric and epoch."""
    trainings: Sequence[Held]
    comparison: Held | None
    calibrations: Sequence[Held]
    studies: Sequence[Study]

    @property
    def scores(self) -> Mapping[str, Any] | None:
        """The record of the split's scores."""
        return self.scored.record(f"reliability/{self.split}.json") if self.scored else None


def collect(config: ReportConfig) -> Collected:
    """Everything that a report tells.

    Raises:
        InputError: what is to be reported is not there, or has nothing to report.
    """
    try:
        return _Collection(config).collected()
    except MlflowException as error:
        raise unusable(error) from error


class _Collection:
    """The runs to report, while they are gathered."""

    def __init__(self, config: ReportConfig) -> None:
        self.client = mlflow.MlflowClient()
        self.config, self.split = config, config.split
        self.experiments = {each.experiment_id: each.name for each in self.client.search_experiments()}
        self.by_name = bool(config.run_ids)
        self.about: dict[str, list[Run]] = {}
        """Evaluations and calibrations of any training, see `_about`."""
        self.runs = self._wanted()

    def collected(self) -> Collected:
        studies = [self._study(run) for run in self._of("tune")]
        trainings = self._trainings()
        main, why = self._main(trainings, studies)
        if main is not None:
            main = self._held(self.client.get_run(main.run_id), self._everything_scored)
        scored = self._scored(main)
        first = self.runs[0]
        return Collected(
            title=self._title(),
            split=self.split,
            experiment=self.config.experiment or self.experiments[first.info.experiment_id],
            main=main, why=why, scored=scored,
            history={} if main is None else self._history(main.run_id),
            trainings=[main if main and each.run_id == main.run_id else each for each in trainings],
            comparison=self._comparison(trainings),
            calibrations=self._calibrations([*trainings, *([main] if main else [])]),
            studies=studies,
        )  # fmt: skip

    def _title(self) -> str:
        parts = []
        if self.config.run_ids:
            named = len(self.runs) - bool(self.config.study_name)
            parts.append(f"{named} runs" if named > 1 else str(self.runs[0].info.run_name))
        elif self.config.experiment:
            parts.append(f"experiment {self.config.experiment}")
        if self.config.study_name:
            parts.append(f"study {self.config.study_name}")
        return "Report on " + " and ".join(parts)

    def _wanted(self) -> list[Run]:
        """What the user has named, oldest first unless the user gave an order."""
        runs: list[Run] = []
        if self.config.run_ids:
            runs = find_runs(self.config.run_ids, self.split)
            for run in runs:
                if kind_of(run) not in REPORTED or run.data.tags.get("role") == "worker":
                    raise InputError(
                        f"run_ids: {run.info.run_id} ({run.info.run_name}) has nothing to report; name trainings, "
                        f"evaluations, calibrations, comparisons or studies"
                    )
                if run.info.status == "RUNNING":
                    raise InputError(
                        f"run_ids: {run.info.run_id} ({run.info.run_name}) is not finished; report it when it is"
                    )
        elif self.config.experiment:
            runs = self._of_experiment(self.config.experiment)
        if self.config.study_name:
            study = self._named_study(self.config.study_name)
            if study.info.run_id not in {run.info.run_id for run in runs}:
                runs.append(study)
        return runs

    def _of_experiment(self, name: str) -> list[Run]:
        one_of("experiment", name, self.experiments.values())
        number = next(number for number, known in self.experiments.items() if known == name)
        runs = [
            run
            for run in self._search("attributes.status = 'FINISHED'", [number])
            if kind_of(run) in REPORTED and run.data.tags.get("role") not in ("search", "confirmation", "worker")
        ]
        if not runs and not self.config.study_name:
            raise InputError(
                f"experiment={name!r} has no finished run to report: train with `{commands.RUN} --experiment-name "
                f"{shlex.quote(name)} -e train`, or name another one: {', '.join(self.experiments.values())}"
            )
        return runs

    def _named_study(self, name: str) -> Run:
        runs = self._search("tags.role = 'study'")
        if not runs:
            raise InputError(f"study_name={name!r}: MLflow holds no study; begin one with `{commands.RUN} -e tune`")
        one_of("study_name", name, {run.data.tags["study"]: run for run in runs})
        found = [run for run in runs if run.data.tags["study"] == name]
        here = [run for run in found if self.experiments[run.info.experiment_id] == self.config.experiment]
        run, *others = here or found
        if others:
            told = (
                f"{each.info.run_id} in experiment {self.experiments[each.info.experiment_id]!r}, begun "
                f"{datetime.fromtimestamp(each.info.start_time / 1000, UTC):%Y-%m-%d %H:%M} UTC"
                for each in (run, *others)
            )
            raise InputError(
                f"study_name={name!r}: {len(others) + 1} studies have this name; name the run of one instead, as "
                f"run_ids=ID: {'; '.join(told)}"
            )
        if run.info.status == "RUNNING":
            raise InputError(f"study_name={name!r} is still being worked on; report it when it has ended")
        return run

    def _search(self, condition: str, experiments: Sequence[str] | None = None) -> list[Run]:
        """Runs that fulfil it, oldest first, of some experiments or of all."""
        return every_run(list(experiments or self.experiments), condition)

    def _of(self, *kinds: str) -> list[Run]:
        return [run for run in self.runs if kind_of(run) in kinds]

    def _trainings(self) -> list[Held]:
        """Those named; or, where none is or the user named what came of them, those behind the other runs."""
        found = {run.info.run_id: run for run in self._of("train")}
        if self.by_name or not found:
            for run in self._of("compare", "models", "evaluate", "calibrate"):
                for source in self._behind(run):
                    found.setdefault(source.info.run_id, source)
        return [self._held(run, self._scores) for run in found.values()]

    def _behind(self, run: Run) -> list[Run]:
        """The trainings that a run has compared, scored or calibrated, as far as they are still there."""
        tags = run.data.tags
        found: list[Run] = []
        one = tags.get("trained_in_run") or tags.get("calibrated") or tags.get("evaluated") or ""
        for name in tags.get("compared_runs", one).split(","):
            try:
                other = self.client.get_run(name.removeprefix("runs:/"))
            except MlflowException:
                continue
            found += [other] if kind_of(other) == "train" else self._behind(other)
        return found

    def _main(self, trainings: Sequence[Held], studies: Sequence[Study]) -> tuple[Held | None, str]:
        if self.by_name and self._of("train"):
            return trainings[0], "the first that was named" if len(trainings) > 1 else "the only one"
        of_studies = [study.best for study in studies if study.best]
        candidates = list(trainings) or of_studies
        if not candidates:
            return None, ""
        shared = {str(each.config.get("monitor", "val/loss")) for each in candidates}
        monitor = shared.pop() if len(shared) == 1 else "val/loss"
        name = f"best/{monitor.removeprefix('val/')}"
        best = candidates[0]
        for each in candidates[1:]:
            if is_better(monitor, each.metrics.get(name, float("nan")), best.metrics.get(name, float("nan"))):
                best = each
        if len(candidates) == 1:
            return best, "the only finished training" if trainings else "the study's best"
        rank = "highest" if METRICS[monitor.removeprefix("val/")].higher_is_better else "lowest"
        of = f"{len(trainings)} finished trainings" if trainings else f"the best of {len(of_studies)} studies"
        return best, f"the one with the {rank} {monitor} of {of}"

    def _scored(self, main: Held | None) -> Held | None:
        """The run that holds the scores: an evaluation that was named, the training, or another evaluation of it."""
        about = self._of("evaluate") if main is None else self._about("evaluated", main.run_id)
        asked = {run.info.run_id for run in self._of("evaluate")} if self.by_name or main is None else set()
        usual = [run for run in about if run.data.params.get("score_at", "training") == "training"]
        named = [run for run in about if run.info.run_id in asked]
        candidates: list[Run | Held] = [*named[::-1], *([main] if main else []), *usual[::-1]]
        for each in candidates:
            held = each if isinstance(each, Held) else self._held(each, self._everything_scored)
            if f"reliability/{self.split}.json" in held.files:
                return held
        return None

    def _comparison(self, trainings: Sequence[Held]) -> Held | None:
        """The one that was named, or the newest of those that cover most of the trainings."""
        ids = {each.run_id for each in trainings}
        named = self._of("compare", "models") if self.by_name else []
        best: tuple[int, Run] | None = None
        for run in named or (self._search("tags.compared_runs LIKE '%'") if len(ids) > 1 else []):
            params, compared = run.data.params, run.data.tags.get("compared_runs", "").split(",")
            split = params.get("split", params.get("val_split", "val"))
            covered = len(ids & set(compared))
            if run.info.status != "FINISHED" or split != self.split or covered < min(2, len(ids)):
                continue
            if best is None or covered >= best[0]:
                best = covered, run
        return self._held(best[1], lambda path: path.startswith("comparison/")) if best else None

    def _calibrations(self, trainings: Iterable[Held]) -> list[Held]:
        """The newest of each kind, of every training."""
        newest: dict[object, Run] = {}
        of_trainings = [run for training in trainings for run in self._about("calibrated", training.run_id)]
        for run in [*self._of("calibrate"), *of_trainings]:
            params = run.data.params
            if run.info.status == "FINISHED" and params.get("split", "val") == self.split:
                newest[tuple(params.get(name) for name in ("run_id", "method", "calibration_split"))] = run
        return [self._held(run, lambda path: path.startswith("calibration/")) for run in newest.values()]

    def _about(self, tag: str, run_id: str) -> list[Run]:
        """Evaluations or calibrations of a training, in whatever experiment, oldest first."""
        if tag not in self.about:  # once for all trainings: each search looks at every run of the store
            kind = {"evaluated": "evaluate", "calibrated": "calibrate"}[tag]
            found = {
                run.info.run_id: run
                for condition in ("tags.trained_in_run LIKE '%'", f"tags.{tag} LIKE '%'")
                for run in self._search(condition)
                if kind_of(run) == kind and run.info.status == "FINISHED"
            }
            self.about[tag] = sorted(found.values(), key=lambda run: run.info.start_time)
        return [
            run for run in self.about[tag]
            if run.data.tags.get("trained_in_run") == run_id or run_id in run.data.tags.get(tag, "")
        ]  # fmt: skip

    def _study(self, run: Run) -> Study:
        best = None
        if "best_run" in run.data.tags:
            with suppress(MlflowException):  # it has been deleted
                best = self._held(self.client.get_run(run.data.tags["best_run"]), self._scores)
        return Study(self._held(run, lambda path: path.startswith("study/")), best)

    def _history(self, run_id: str) -> dict[str, dict[int, float]]:
        return {
            name: {point.step: point.value for point in self.client.get_metric_history(run_id, name) if point.step > 0}
            for name in HISTORY
        }

    def _scores(self, path: str) -> bool:
        return path == f"reliability/{self.split}.json"

    def _everything_scored(self, path: str) -> bool:
        split = re.escape(self.split)
        return bool(
            re.fullmatch(rf"curves/\w+\.png|reliability/{split}\.(png|json)|examples/{split}_(worst_)?\d+\.png", path)
        )

    def _held(self, run: Run, wanted: Callable[[str], bool]) -> Held:
        """A run with those of its artifacts that are wanted."""
        files: dict[str, bytes] = {}
        paths = list(self._paths(run))
        if not paths and run.info.status == "FINISHED" and (where := missing_files(f"runs:/{run.info.run_id}")):
            raise InputError(f"run {run.info.run_id} ({run.info.run_name}): {where}")
        with tempfile.TemporaryDirectory() as folder:
            for path in paths:
                if path == "config.json" or (path.endswith((".png", ".json", ".csv")) and wanted(path)):
                    uri = f"runs:/{run.info.run_id}/{path}"
                    files[path] = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder)).read_bytes()
        ended = run.info.end_time or run.info.start_time
        return Held(
            run.info.run_id, run.info.run_name or run.info.run_id, kind_of(run), run.info.status,
            self.experiments.get(run.info.experiment_id, ""),
            datetime.fromtimestamp(run.info.start_time / 1000, UTC), (ended - run.info.start_time) / 1000,
            run.data.tags, run.data.metrics, _config(run, files.pop("config.json", b"{}")), files,
        )  # fmt: skip

    def _paths(self, run: Run) -> Iterable[str]:
        """Its artifacts, but for those deeper than one folder."""
        for file in self.client.list_artifacts(run.info.run_id):
            if not file.is_dir:
                yield file.path
            elif file.path in ("curves", "reliability", "examples", "comparison", "calibration", "study"):
                yield from (inner.path for inner in self.client.list_artifacts(run.info.run_id, file.path))


def kind_of(run: Run) -> str:
    """The entry point that made a run; guessed for runs that do not say, and `` if it cannot be."""
    tags = run.data.tags
    for tag, kind in (("compared", "compare"), ("calibrated", "calibrate"), ("evaluated", "evaluate")):
        if tag in tags and "kind" not in tags:
            return kind
    guess = "tune" if tags.get("role") == "study" else "train" if "model" in run.data.params else ""
    return tags.get("kind", guess)


def _config(run: Run, stored: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(stored))
    except (TypeError, ValueError) as error:
        raise InputError(f"config.json of run {run.info.run_id} is damaged: {error}") from error
