"""Collect the content of a report from MLflow: an experiment, runs or a study. Only reads."""

import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from segmentation.errors import InputError, one_of
from segmentation.metrics import of_epoch
from studies.base.errors import unusable
from studies.base.rerun import RUN
from studies.config import ReportConfig
from studies.report.content import Comparison, ReportContent, ReportedRun, ReportedStudy
from studies.report.headline import Choice, best_of, first_of
from studies.report.markup import png
from studies.scores.comparison_files import compared, comparison_examples, comparison_plots, comparison_record
from studies.scores.stored import StoredScores, find_runs
from studies.tracking.queries import every_run
from studies.tracking.read_artifacts import read_files

REPORTED_KINDS = ("train", "evaluate", "calibrate", "compare", "models", "tune")
"""Kinds of runs that a report can show."""
AT_ONCE = 16
"""Runs whose files are read at the same time."""
RUN_ID = re.compile("[0-9a-f]{32}")
IN_ONE_SEARCH = 200
"""Most IDs in the condition of a search."""
EXAMPLES = 2
"""Images plotted with the prediction of every run in such a comparison."""
COMPARED_ANEW = 8
"""Most runs that a report compares itself, if no stored comparison has exactly these."""
SCORES = ("reliability", "confusion")
"""Artifact folders with the scores of a run."""
MAIN_FOLDERS = (*SCORES, "curves", "examples")
"""Artifact folders of the main run, and of an evaluation of it."""
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
        self.found: dict[str, Run] = {}
        """All runs that were read, by ID."""
        self.referring: dict[str, list[Run]] = {}
        """All evaluations or calibrations of the store, by tag, see `_referring_to`."""
        self.runs = self._requested_runs()

    def content(self) -> ReportContent:
        studies = [self._study(run) for run in self._of_kind("tune")]
        training_runs = self._training_runs()
        choice = self._main(training_runs, studies)
        main = choice.run
        if main is not None:
            main = self._reported(self._run(main.run_id), MAIN_FOLDERS, self._is_score_file)
        scored = self._scored(main)
        first = self.runs[0]
        return ReportContent(
            title=self._title(),
            split=self.split,
            experiment=self.config.experiment or self.experiments[first.info.experiment_id],
            main=main, why_main=choice.why, scored=scored,
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
            self.found |= {run.info.run_id: run for run in runs}
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
        runs = every_run(list(experiment_ids or self.experiments), condition)
        self.found |= {run.info.run_id: run for run in runs}
        return runs

    def _run(self, run_id: str) -> Run:
        """Return a run by its ID.

        Raises:
            MlflowException: it does not exist.
        """
        if run_id not in self.found:
            self.found[run_id] = self.client.get_run(run_id)
        return self.found[run_id]

    def _read_once(self, run_ids: Iterable[str]) -> None:
        """Read runs that are not known yet, in one search. Those that do not exist any more are left out."""
        unknown = [run_id for run_id in dict.fromkeys(run_ids) if RUN_ID.fullmatch(run_id) and run_id not in self.found]
        for start in range(0, len(unknown), IN_ONE_SEARCH):
            listed = ", ".join(f"'{run_id}'" for run_id in unknown[start : start + IN_ONE_SEARCH])
            self._search(f"attributes.run_id IN ({listed})")

    def _of_kind(self, *kinds: str) -> list[Run]:
        return [run for run in self.runs if kind_of(run) in kinds]

    def _training_runs(self) -> list[ReportedRun]:
        """Return the requested training runs, and those that the other requested runs refer to.

        In a report of an experiment, the latter are added only if there are no training runs.
        """
        found = {run.info.run_id: run for run in self._of_kind("train")}
        if self.by_id or not found:
            others = self._of_kind("compare", "models", "evaluate", "calibrate")
            self._read_once(name for run in others for name in _source_names(run))
            for run in others:
                for source in self._sources(run):
                    found.setdefault(source.info.run_id, source)
        return self._all_reported(found.values(), SCORES, self._is_scores)

    def _sources(self, run: Run) -> list[Run]:
        """Return the training runs that a run compared, scored or calibrated, without deleted ones."""
        found: list[Run] = []
        for name in _source_names(run):
            try:
                other = self._run(name)
            except MlflowException:
                continue
            found += [other] if kind_of(other) == "train" else self._sources(other)
        return found

    def _main(self, training_runs: Sequence[ReportedRun], studies: Sequence[ReportedStudy]) -> Choice:
        """Return the main run and why it was chosen."""
        if self.by_id and self._of_kind("train"):
            return first_of(training_runs, self.split)
        if training_runs:
            return best_of(training_runs, self.split, "finished training runs")
        best_trials = [study.best for study in studies if study.best]
        return best_of(best_trials, self.split, "best trials of studies")

    def _scored(self, main: ReportedRun | None) -> ReportedRun | None:
        """Return the run with the scores: a requested evaluation, else the main run, else an evaluation of it."""
        evaluations = self._of_kind("evaluate") if main is None else self._referring_to("evaluated", main.run_id)
        requested = {run.info.run_id for run in self._of_kind("evaluate")} if self.by_id or main is None else set()
        first = [run for run in evaluations if run.info.run_id in requested]
        at_training_size = [run for run in evaluations if run.data.params.get("score_at", "training") == "training"]
        candidates: list[Run | ReportedRun] = [*first[::-1], *([main] if main else []), *at_training_size[::-1]]
        for each in candidates:
            run = each if isinstance(each, ReportedRun) else self._reported(each, MAIN_FOLDERS, self._is_score_file)
            if f"reliability/{self.split}.json" in run.files:
                return run
        return None

    def _comparison(self, training_runs: Sequence[ReportedRun]) -> Comparison | None:
        """Return the comparison of the training runs: a requested one, a stored one, or a new one.

        A stored comparison with other runs is not shown. Of an experiment, one that has most of its runs is.
        """
        requested = [run for run in self._of_kind("compare", "models") if self.by_id and self._is_usable(run)]
        if requested:
            return self._stored_comparison(requested[-1])
        ids = frozenset(each.run_id for each in training_runs)
        if len(ids) < 2:
            return None
        stored: dict[frozenset[str], Run] = {}
        for run in self._search("tags.compared_runs LIKE '%'"):  # the oldest first: the newest remains
            compared_runs = frozenset(run.data.tags["compared_runs"].split(","))
            if self._is_usable(run) and compared_runs <= ids and len(compared_runs) > 1:
                stored.pop(compared_runs, None)
                stored[compared_runs] = run
        if ids in stored:
            return self._stored_comparison(stored[ids])
        if len(ids) <= COMPARED_ANEW:
            return self._new_comparison([self._run(each.run_id) for each in training_runs])
        if self.by_id or not stored:
            return None
        return self._stored_comparison(stored[max(reversed(stored), key=len)])

    def _is_usable(self, run: Run) -> bool:
        params = run.data.params
        split = params.get("split", params.get("val_split", "val"))
        return run.info.status == "FINISHED" and split == self.split

    def _stored_comparison(self, run: Run) -> Comparison | None:
        found = self._reported(run, ("comparison",), lambda path: path.startswith("comparison/"))
        table = found.json("comparison/table.json")
        folds = found.json("comparison/folds.json")
        return Comparison(table, found.images("comparison"), found) if table or folds else None

    def _new_comparison(self, runs: Sequence[Run]) -> Comparison | None:
        """Compare runs; return a comparison without a table but with the reason if they cannot be compared."""
        try:
            found = compared([StoredScores(run, self.split) for run in runs])
        except InputError as error:
            return Comparison(None, {}, None, str(error))
        drawn = [*comparison_plots(found), *comparison_examples(found, EXAMPLES)]
        return Comparison(as_stored(comparison_record(found)), {name: png(figure) for name, figure in drawn}, None)

    def _calibrations(self, training_runs: Iterable[ReportedRun]) -> list[ReportedRun]:
        """Return for every training run, method and calibration split the newest calibration."""
        newest: dict[object, Run] = {}
        referring = [run for each in training_runs for run in self._referring_to("calibrated", each.run_id)]
        for run in [*self._of_kind("calibrate"), *referring]:
            params = run.data.params
            if run.info.status == "FINISHED" and params.get("split", "val") == self.split:
                newest[tuple(params.get(name) for name in ("run_id", "method", "calibration_split"))] = run
        return self._all_reported(newest.values(), ("calibration",), lambda path: path.startswith("calibration/"))

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
            self._read_once([run.data.tags["best_run"]])
            found = self.found.get(run.data.tags["best_run"])  # None if it has been deleted
            best = self._reported(found, SCORES, self._is_scores) if found else None
        return ReportedStudy(self._reported(run, ("study",), lambda path: path.startswith("study/")), best)

    def _history(self, run_id: str) -> dict[str, dict[int, float]]:
        return {
            name: {point.step: point.value for point in self.client.get_metric_history(run_id, name) if point.step > 0}
            for name in HISTORY
        }

    def _is_scores(self, path: str) -> bool:
        return path in (f"reliability/{self.split}.json", f"confusion/{self.split}.csv")

    def _is_score_file(self, path: str) -> bool:
        split = re.escape(self.split)
        return bool(
            re.fullmatch(
                rf"curves/\w+\.png|reliability/{split}\.(png|json)|confusion/{split}\.(png|csv)|"
                rf"examples/{split}_(worst_)?\d+\.png",
                path,
            )
        )

    def _all_reported(
        self, runs: Iterable[Run], folders: Sequence[str], wanted: Callable[[str], bool]
    ) -> list[ReportedRun]:
        """Return runs as `_reported` does, in the same order; their files are read at the same time."""
        with ThreadPoolExecutor(AT_ONCE) as readers:
            return list(readers.map(lambda run: self._reported(run, folders, wanted), runs))

    def _reported(self, run: Run, folders: Sequence[str], wanted: Callable[[str], bool]) -> ReportedRun:
        """Return a run with its configuration, and the artifacts in some folders whose path is wanted."""
        files = read_files(run, folders, wanted)
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


def _source_names(run: Run) -> list[str]:
    """Return the IDs of the runs that a run compared, scored or calibrated."""
    tags = run.data.tags
    one = tags.get("trained_in_run") or tags.get("calibrated") or tags.get("evaluated") or ""
    return [name.removeprefix("runs:/") for name in tags.get("compared_runs", one).split(",")]


def as_stored(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as it is when it is read from a JSON artifact: NaN becomes None."""
    return dict(json.loads(json.dumps(record), parse_constant=lambda _: None))


def _config(run: Run, stored: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(stored))
    except (TypeError, ValueError) as error:
        raise InputError(f"config.json of run {run.info.run_id} is damaged: {error}") from error
