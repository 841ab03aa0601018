"""Collect the content of a report from MLflow: an experiment, runs or a study. Only reads."""

import json
import re
import shlex
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from segmentation.errors import InputError, one_of
from segmentation.metrics import METRICS, is_better, of_epoch, of_model
from studies.base.errors import unusable
from studies.base.rerun import RUN
from studies.config import ReportConfig
from studies.report.content import ReportContent, ReportedRun, ReportedStudy
from studies.scores.stored import find_runs
from studies.tracking.artifact_folders import missing_files
from studies.tracking.queries import every_run

REPORTED_KINDS = ("train", "evaluate", "calibrate", "compare", "models", "tune")
"""Kinds of runs that a report can show."""
FOLDERS = ("curves", "reliability", "examples", "comparison", "calibration", "study")
"""Artifact folders that a report reads."""
HISTORY = (*of_epoch(), "val/ece_low", "val/ece_high")
"""Metrics shown by epoch."""


def collect(config: ReportConfig) -> ReportContent:
    """Return the content of a report.

    Raises:
        InputError: a run, experiment or study does not exist, or has nothing to report.
    """
    try:
        return _Collector(config).content()
    except MlflowException as error:
        raise unusable(error) from error


def kind_of(run: Run) -> str:
    """Return the entry point that made a run. Runs of early versions have no tag `kind`; theirs is inferred or ``."""
    tags = run.data.tags
    for tag, kind in (("compared", "compare"), ("calibrated", "calibrate"), ("evaluated", "evaluate")):
        if tag in tags and "kind" not in tags:
            return kind
    inferred = "tune" if tags.get("role") == "study" else "train" if "model" in run.data.params else ""
    return tags.get("kind", inferred)


class _Collector:
    """Finds the runs of one report."""

    def __init__(self, config: ReportConfig) -> None:
        self.client = mlflow.MlflowClient()
        self.config, self.split = config, config.split
        self.experiments = {each.experiment_id: each.name for each in self.client.search_experiments()}
        self.by_id = bool(config.run_ids)
        self.referring: dict[str, list[Run]] = {}
        """All evaluations or calibrations of the store, by tag, see `_referring_to`."""
        self.runs = self._requested_runs()

    def content(self) -> ReportContent:
        studies = [self._study(run) for run in self._of_kind("tune")]
        training_runs = self._training_runs()
        main, why_main = self._main(training_runs, studies)
        if main is not None:
            main = self._reported(self.client.get_run(main.run_id), self._is_score_file)
        scored = self._scored(main)
        first = self.runs[0]
        return ReportContent(
            title=self._title(),
            split=self.split,
            experiment=self.config.experiment or self.experiments[first.info.experiment_id],
            main=main, why_main=why_main, scored=scored,
            history={} if main is None else self._history(main.run_id),
            training_runs=[main if main and each.run_id == main.run_id else each for each in training_runs],
            comparison=self._comparison(training_runs),
            calibrations=self._calibrations([*training_runs, *([main] if main else [])]),
            studies=studies,
        )  # fmt: skip

    def _title(self) -> str:
        parts = []
        if self.config.run_ids:
            count = len(self.runs) - bool(self.config.study_name)
            parts.append(f"{count} runs" if count > 1 else str(self.runs[0].info.run_name))
        elif self.config.experiment:
            parts.append(f"experiment {self.config.experiment}")
        if self.config.study_name:
            parts.append(f"study {self.config.study_name}")
        return "Report on " + " and ".join(parts)

    def _requested_runs(self) -> list[Run]:
        """Return the runs that the configuration names: in the order of `run_ids`, or oldest first."""
        runs: list[Run] = []
        if self.config.run_ids:
            runs = find_runs(self.config.run_ids, self.split)
            for run in runs:
                name = f"run_ids: {run.info.run_id} ({run.info.run_name})"
                if kind_of(run) not in REPORTED_KINDS or run.data.tags.get("role") == "worker":
                    raise InputError(
                        f"{name} has nothing to report; name runs of {', '.join(REPORTED_KINDS[:-1])} or tune"
                    )
                if run.info.status == "RUNNING":
                    raise InputError(f"{name} is still running; report it when it is finished")
        elif self.config.experiment:
            runs = self._runs_of_experiment(self.config.experiment)
        if self.config.study_name:
            study = self._study_run(self.config.study_name)
            if study.info.run_id not in {run.info.run_id for run in runs}:
                runs.append(study)
        return runs

    def _runs_of_experiment(self, name: str) -> list[Run]:
        one_of("experiment", name, self.experiments.values())
        experiment_id = next(each for each, known in self.experiments.items() if known == name)
        runs = [
            run
            for run in self._search("attributes.status = 'FINISHED'", [experiment_id])
            if kind_of(run) in REPORTED_KINDS and run.data.tags.get("role") not in ("search", "confirmation", "worker")
        ]
        if not runs and not self.config.study_name:
            raise InputError(
                f"experiment={name!r} has no finished run to report: train with `{RUN} --experiment-name "
                f"{shlex.quote(name)} -e train`, or name another experiment: {', '.join(self.experiments.values())}"
            )
        return runs

    def _study_run(self, name: str) -> Run:
        runs = self._search("tags.role = 'study'")
        if not runs:
            raise InputError(f"study_name={name!r}: MLflow has no study; start one with `{RUN} -e tune`")
        one_of("study_name", name, {run.data.tags["study"]: run for run in runs})
        found = [run for run in runs if run.data.tags["study"] == name]
        here = [run for run in found if self.experiments[run.info.experiment_id] == self.config.experiment]
        run, *others = here or found
        if others:
            candidates = (
                f"{each.info.run_id} in experiment {self.experiments[each.info.experiment_id]!r}, started "
                f"{datetime.fromtimestamp(each.info.start_time / 1000, UTC):%Y-%m-%d %H:%M} UTC"
                for each in (run, *others)
            )
            raise InputError(
                f"study_name={name!r}: {len(others) + 1} studies have this name; pass run_ids=ID with the run of one: "
                f"{'; '.join(candidates)}"
            )
        if run.info.status == "RUNNING":
            raise InputError(f"study_name={name!r} is still running; report it when it is finished")
        return run

    def _search(self, condition: str, experiment_ids: Sequence[str] | None = None) -> list[Run]:
        """Return the runs that satisfy a condition, oldest first; by default of all experiments."""
        return every_run(list(experiment_ids or self.experiments), condition)

    def _of_kind(self, *kinds: str) -> list[Run]:
        return [run for run in self.runs if kind_of(run) in kinds]

    def _training_runs(self) -> list[ReportedRun]:
        """Return the requested training runs, and those that the other requested runs refer to.

        In a report of an experiment, the latter are added only if there are no training runs.
        """
        found = {run.info.run_id: run for run in self._of_kind("train")}
        if self.by_id or not found:
            for run in self._of_kind("compare", "models", "evaluate", "calibrate"):
                for source in self._sources(run):
                    found.setdefault(source.info.run_id, source)
        return [self._reported(run, self._is_scores) for run in found.values()]

    def _sources(self, run: Run) -> list[Run]:
        """Return the training runs that a run compared, scored or calibrated, without deleted ones."""
        tags = run.data.tags
        found: list[Run] = []
        one = tags.get("trained_in_run") or tags.get("calibrated") or tags.get("evaluated") or ""
        for name in tags.get("compared_runs", one).split(","):
            try:
                other = self.client.get_run(name.removeprefix("runs:/"))
            except MlflowException:
                continue
            found += [other] if kind_of(other) == "train" else self._sources(other)
        return found

    def _main(
        self, training_runs: Sequence[ReportedRun], studies: Sequence[ReportedStudy]
    ) -> tuple[ReportedRun | None, str]:
        """Return the main run and why it was chosen."""
        if self.by_id and self._of_kind("train"):
            return training_runs[0], "the first in run_ids" if len(training_runs) > 1 else "the only training run"
        best_trials = [study.best for study in studies if study.best]
        candidates = list(training_runs) or best_trials
        if not candidates:
            return None, ""
        monitors = {str(each.config.get("monitor", "val/loss")) for each in candidates}
        monitor = monitors.pop() if len(monitors) == 1 else "val/loss"
        best = candidates[0]
        for each in candidates[1:]:
            if is_better(monitor, _of_model(each, monitor), _of_model(best, monitor)):
                best = each
        if len(candidates) == 1:
            return best, "the only finished training run" if training_runs else "the best trial of the study"
        rank = "highest" if METRICS[monitor.removeprefix("val/")].higher_is_better else "lowest"
        of = (
            f"{len(training_runs)} finished training runs"
            if training_runs
            else f"the best trials of {len(best_trials)} studies"
        )
        return best, f"{rank} {monitor} of {of}"

    def _scored(self, main: ReportedRun | None) -> ReportedRun | None:
        """Return the run with the scores: a requested evaluation, else the main run, else an evaluation of it."""
        evaluations = self._of_kind("evaluate") if main is None else self._referring_to("evaluated", main.run_id)
        requested = {run.info.run_id for run in self._of_kind("evaluate")} if self.by_id or main is None else set()
        first = [run for run in evaluations if run.info.run_id in requested]
        at_training_size = [run for run in evaluations if run.data.params.get("score_at", "training") == "training"]
        candidates: list[Run | ReportedRun] = [*first[::-1], *([main] if main else []), *at_training_size[::-1]]
        for each in candidates:
            run = each if isinstance(each, ReportedRun) else self._reported(each, self._is_score_file)
            if f"reliability/{self.split}.json" in run.files:
                return run
        return None

    def _comparison(self, training_runs: Sequence[ReportedRun]) -> ReportedRun | None:
        """Return the requested comparison, or the newest of those that cover most of the training runs."""
        ids = {each.run_id for each in training_runs}
        requested = self._of_kind("compare", "models") if self.by_id else []
        best: tuple[int, Run] | None = None
        for run in requested or (self._search("tags.compared_runs LIKE '%'") if len(ids) > 1 else []):
            params, compared = run.data.params, run.data.tags.get("compared_runs", "").split(",")
            split = params.get("split", params.get("val_split", "val"))
            covered = len(ids & set(compared))
            if run.info.status != "FINISHED" or split != self.split or covered < min(2, len(ids)):
                continue
            if best is None or covered >= best[0]:
                best = covered, run
        return self._reported(best[1], lambda path: path.startswith("comparison/")) if best else None

    def _calibrations(self, training_runs: Iterable[ReportedRun]) -> list[ReportedRun]:
        """Return for every training run, method and calibration split the newest calibration."""
        newest: dict[object, Run] = {}
        referring = [run for each in training_runs for run in self._referring_to("calibrated", each.run_id)]
        for run in [*self._of_kind("calibrate"), *referring]:
            params = run.data.params
            if run.info.status == "FINISHED" and params.get("split", "val") == self.split:
                newest[tuple(params.get(name) for name in ("run_id", "method", "calibration_split"))] = run
        return [self._reported(run, lambda path: path.startswith("calibration/")) for run in newest.values()]

    def _referring_to(self, tag: str, run_id: str) -> list[Run]:
        """Return the evaluations or calibrations of a training run in all experiments, oldest first."""
        if tag not in self.referring:  # once for all training runs: each search reads every run of the store
            kind = {"evaluated": "evaluate", "calibrated": "calibrate"}[tag]
            found = {
                run.info.run_id: run
                for condition in ("tags.trained_in_run LIKE '%'", f"tags.{tag} LIKE '%'")
                for run in self._search(condition)
                if kind_of(run) == kind and run.info.status == "FINISHED"
            }
            self.referring[tag] = sorted(found.values(), key=lambda run: run.info.start_time)
        return [
            run for run in self.referring[tag]
            if run.data.tags.get("trained_in_run") == run_id or run_id in run.data.tags.get(tag, "")
        ]  # fmt: skip

    def _study(self, run: Run) -> ReportedStudy:
        best = None
        if "best_run" in run.data.tags:
            with suppress(MlflowException):  # it has been deleted
                best = self._reported(self.client.get_run(run.data.tags["best_run"]), self._is_scores)
        return ReportedStudy(self._reported(run, lambda path: path.startswith("study/")), best)

    def _history(self, run_id: str) -> dict[str, dict[int, float]]:
        return {
            name: {point.step: point.value for point in self.client.get_metric_history(run_id, name) if point.step > 0}
            for name in HISTORY
        }

    def _is_scores(self, path: str) -> bool:
        return path == f"reliability/{self.split}.json"

    def _is_score_file(self, path: str) -> bool:
        split = re.escape(self.split)
        return bool(
            re.fullmatch(rf"curves/\w+\.png|reliability/{split}\.(png|json)|examples/{split}_(worst_)?\d+\.png", path)
        )

    def _reported(self, run: Run, wanted: Callable[[str], bool]) -> ReportedRun:
        """Return a run with its configuration and those of its artifacts whose path is wanted."""
        files: dict[str, bytes] = {}
        paths = list(self._artifact_paths(run))
        if not paths and run.info.status == "FINISHED" and (where := missing_files(f"runs:/{run.info.run_id}")):
            raise InputError(f"run {run.info.run_id} ({run.info.run_name}): {where}")
        with tempfile.TemporaryDirectory() as folder:
            for path in paths:
                if path == "config.json" or (path.endswith((".png", ".json", ".csv")) and wanted(path)):
                    uri = f"runs:/{run.info.run_id}/{path}"
                    files[path] = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder)).read_bytes()
        ended = run.info.end_time or run.info.start_time
        return ReportedRun(
            run_id=run.info.run_id,
            name=run.info.run_name or run.info.run_id,
            kind=kind_of(run),
            status=run.info.status,
            experiment=self.experiments.get(run.info.experiment_id, ""),
            started=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
            seconds=(ended - run.info.start_time) / 1000,
            tags=run.data.tags,
            metrics=run.data.metrics,
            config=_config(run, files.pop("config.json", b"{}")),
            files=files,
        )

    def _artifact_paths(self, run: Run) -> Iterable[str]:
        """Yield the paths of the artifacts at the top level and in `FOLDERS`."""
        for file in self.client.list_artifacts(run.info.run_id):
            if not file.is_dir:
                yield file.path
            elif file.path in FOLDERS:
                yield from (inner.path for inner in self.client.list_artifacts(run.info.run_id, file.path))


def _of_model(run: ReportedRun, metric: str) -> float:
    """Return a metric such as `val/loss` of the model that a run kept; NaN if unknown."""
    of_earlier_versions = f"best/{metric.removeprefix('val/')}"
    return run.metrics.get(of_model(metric), run.metrics.get(of_earlier_versions, float("nan")))


def _config(run: Run, stored: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(stored))
    except (TypeError, ValueError) as error:
        raise InputError(f"config.json of run {run.info.run_id} is damaged: {error}") from error
