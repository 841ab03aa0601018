"""A study as a whole: opened or joined, worked on by one process or several, confirmed, and told about."""

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import optuna
from optuna import Study
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from segmentation.data import report_coverage
from segmentation.errors import InputError, listed
from studies import tracking
from studies.config import TuneConfig
from studies.runs.start import load_data
from studies.search import space as spaces
from studies.search.live import Live, progress_in_words
from studies.search.plan import SETTINGS, STATES, Plan, best_trial, counted, in_state, plan, point
from studies.search.processes import gpus_of_workers, work_together
from studies.search.record import best_in_words, confirmation_in_words, log_progress, log_study, train_command
from studies.search.samplers import SeededByTrial, build_pruner
from studies.search.space import Choices
from studies.search.statuses import settle_all
from studies.search.storage import one_process_only, open_storage, reap, running, waits_for_retry
from studies.search.worker import Worker

PARENT, READY = "mlflow_run_id", "ready"
"""Attributes of a study: its MLflow run, and whether its grid is queued."""
RECORDED = "recorded"
"""Attribute of a study: how many of its trials, and of those that confirm it, had ended when its run was written."""
READY_SECONDS = 30
"""So long another process may take to queue the grid before this one takes over."""


def run_study(config: TuneConfig) -> None:
    """Search as configured, or go on with or join the study of that name, and print the best setting.

    Raises:
        InputError: what the user can mend.
        KeyboardInterrupt: told to stop. The same command goes on.
    """
    tracking.keep_records_in(config.records)
    wanted = plan(config)
    if config.workers > 1 and one_process_only(config.storage):
        raise InputError(
            f"storage={config.storage}: sqlite takes one worker only; use a file that ends in .journal for "
            f"workers={config.workers} on this machine, or PostgreSQL"
        )
    gpus_of_workers(config)  # what is wrong with them is reported before anything is begun
    with open_storage(config, config.heartbeat) as storage:
        data = load_data(wanted.base)  # decoded once, before any worker; and what is wrong with it is told now
        report_coverage(data.train, to_train=True)
        given_run = os.environ.get("MLFLOW_RUN_ID")
        study = _open(storage, wanted, config, lambda: _parent(config, wanted, given_run))
        reap(study)
        if one_process_only(config.storage) and running(study):
            raise InputError(
                f"storage={config.storage}: another worker is at this study, and sqlite takes one only; wait for it, "
                f"or begin a study with storage=studies.journal"
            )
        parent = str(study.user_attrs[PARENT])
        os.environ.pop("MLFLOW_RUN_ID", None)
        if given_run is not None and given_run != parent:
            tags = {"kind": "tune", "study": wanted.name, "study_run": parent, "role": "worker"}
            tracking.describe_run(given_run, f"worker of {wanted.name}", tags)
        new = all(trial.state == TrialState.WAITING for trial in study.get_trials(deepcopy=False))
        verb = "Beginning" if new else "Joining" if running(study) else "Going on with"
        print(f"{verb} study {wanted.name!r} in {config.storage}: {wanted.in_words()}")
        if not new:
            print(progress_in_words(study, wanted))
        _carry_out(study, wanted, config, storage, parent)


def _parent(config: TuneConfig, wanted: Plan, given_run: str | None) -> str:
    """The study's own MLflow run: the one that `mlflow run` has opened, or a new one."""
    name = config.run_name or f"study · {wanted.name}"
    tags = {
        "kind": "tune", "study": wanted.name, "role": "study", "sampler": wanted.sampler,
        "model": wanted.base.model, "dataset": wanted.base.dataset,
    }  # fmt: skip
    if given_run is None:
        return tracking.create_run(config.experiment, name, tags)
    tracking.describe_run(given_run, name, tags)
    return given_run


def _open(storage: BaseStorage, wanted: Plan, config: TuneConfig, parent: Callable[[], str]) -> Study:
    """Open the study of the plan's name, or make it and queue its grid.

    Raises:
        InputError: it was begun with other settings.
    """
    sampler = RandomSampler(wanted.base.seed) if wanted.is_grid else SeededByTrial(wanted.sampler, wanted.base.seed)
    pruner = build_pruner(config, len(wanted.goals))
    settings = wanted.settings()
    directions: list[Literal["minimize", "maximize"]] = [
        "maximize" if goal.higher_is_better else "minimize" for goal in wanted.goals
    ]
    try:
        study = optuna.create_study(
            storage=storage, study_name=wanted.name, sampler=sampler, pruner=pruner, directions=directions
        )
        study.set_user_attr(SETTINGS, settings)
        study.set_user_attr(PARENT, parent())
        _queue(study, wanted)
        study.set_user_attr(READY, True)
    except DuplicatedStudyError:
        study = optuna.load_study(storage=storage, study_name=wanted.name, sampler=sampler, pruner=pruner)
        patience = time.monotonic() + READY_SECONDS
        while READY not in study.user_attrs and time.monotonic() < patience:
            time.sleep(0.2)
        found = [direction.name.lower() for direction in study.directions]
        if found != directions:  # with equal settings, another program has made it
            raise InputError(
                f"study_name={wanted.name} in storage={config.storage} is to {' and '.join(found)}, but "
                f"{' and '.join(goal.metric for goal in wanted.goals)} is to {' and '.join(directions)}: it was made "
                f"for something else; give another study_name"
            ) from None
        begun = study.user_attrs.get(SETTINGS, settings)
        changed = [
            f"{name}={begun.get(name)!r} (now {value!r})"
            for name, value in settings.items()
            if name in begun and begun[name] != value
        ]
        if changed:
            raise InputError(
                f"study_name={wanted.name} was begun with {listed(changed)}: give the same again to go on with it, or "
                f"another study_name"
            ) from None
        if READY not in study.user_attrs:
            study.set_user_attr(SETTINGS, settings)
            if PARENT not in study.user_attrs:
                study.set_user_attr(PARENT, parent())
        _queue(study, wanted)
        study.set_user_attr(READY, True)
    if study.metric_names is None:  # else dashboards call a goal "Objective 0"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names([goal.metric for goal in wanted.goals])
    return study


def _queue(study: Study, wanted: Plan) -> None:
    """Queue every point of a grid that is not there; one that has failed is tried again. Others begin with a guess."""
    if not wanted.is_grid:
        guess = spaces.first_guess(wanted.space)
        if guess and not study.get_trials(deepcopy=False):
            study.enqueue_trial(guess)
        return
    trials = [trial for trial in counted(study) if trial.state != TrialState.FAIL or waits_for_retry(trial)]
    there = [point(trial) for trial in trials]
    for each in spaces.points(wanted.space):
        if each not in there:
            study.enqueue_trial(each)


def _carry_out(study: Study, wanted: Plan, config: TuneConfig, storage: BaseStorage, parent: str) -> None:
    """Work on the study inside its MLflow run, whose status then tells how it ended."""
    name = config.run_name or f"study · {wanted.name}"
    deadline = float("inf") if config.timeout is None else time.monotonic() + config.timeout
    confirmed, begun_with = None, _ended(study, None)
    studies = [study]

    def others() -> bool:
        return any(running(each) for each in studies)

    try:
        with tracking.tracked_run(config.experiment, name, {"study": wanted.name}, parent, shared=True, others=others):
            tracking.log_config(config, leave_out=wanted.space)
            try:
                confirmed = _search_and_confirm(studies, wanted, config, storage, parent, deadline)
            except KeyboardInterrupt:
                raise  # there is no time to draw: the next call does
            except BaseException:
                _write_down(study, wanted, confirmed, begun_with, parent)
                raise
            _write_down(study, wanted, confirmed, begun_with, parent)
            if wanted.may_start(study) or running(study):
                raise tracking.Stopped("the time of this call is over; the same command goes on with the study")
    except tracking.Stopped as reason:
        print(f"Stopped: {reason}.")
    except KeyboardInterrupt:
        print(f"Stopped: {progress_in_words(study, wanted)} The same command goes on with the study.")
        raise
    _tell(study, wanted, confirmed, config, parent)


def _write_down(study: Study, wanted: Plan, confirmed: Study | None, begun_with: list[int], parent: str) -> None:
    _record(study, wanted, confirmed, begun_with)
    settle_all(study, confirmed, parent)


def _record(study: Study, wanted: Plan, confirmed: Study | None, begun_with: list[int]) -> None:
    """Write everything about the study into its run, unless another process that ended at the same time does so."""
    ended = _ended(study, confirmed)
    if ended != begun_with and study.user_attrs.get(RECORDED) == ended:
        return
    study.set_user_attr(RECORDED, ended)
    log_study(study, wanted, confirmed)


def _ended(study: Study, confirmed: Study | None) -> list[int]:
    return [len(in_state(counted(each), *STATES)) for each in (study, confirmed) if each is not None]


def _search_and_confirm(
    studies: list[Study], wanted: Plan, config: TuneConfig, storage: BaseStorage, parent: str, deadline: float
) -> Study | None:
    """Work on the study, and then on the one that confirms it, which is added to `studies` and returned."""
    (study,) = studies
    _work(study, wanted, config, parent, "search", deadline)
    best = best_trial(study, wanted)
    if not config.confirm_seeds or best is None or wanted.may_start(study) or running(study):
        return None
    values = wanted.values(best)
    seeds = tuple(wanted.base.seed + 1 + place for place in range(config.confirm_seeds))
    again = replace(
        wanted,
        name=f"{wanted.name} · trial {best.number} confirmed",
        base=replace(wanted.base, **values),
        space={"seed": Choices(seeds)},
        sampler="grid",
        pruner="none",
        max_epochs=None,
        n_trials=None,
    )
    print(f"Confirming trial {best.number} ({spaces.described(values)}) with the seeds {listed(map(str, seeds), 10)}.")
    config = replace(config, sampler="grid", pruner="none")
    confirmed = _open(storage, again, config, lambda: parent)
    studies.append(confirmed)
    _work(confirmed, again, config, parent, "confirmation", deadline)
    return confirmed


def _work(study: Study, wanted: Plan, config: TuneConfig, parent: str, role: str, deadline: float) -> None:
    if config.workers == 1:
        with Live(study, wanted, lambda: log_progress(study, wanted, parent)) as live:
            Worker(study, wanted, parent, role, config.max_failures, deadline, live.show).work()
    else:
        work_together(study, wanted, config, parent, role, deadline)


def _tell(study: Study, wanted: Plan, confirmed: Study | None, config: TuneConfig, parent: str) -> None:
    """Print what came out, and where to look."""
    print(progress_in_words(study, wanted))
    for line in best_in_words(study, wanted):
        print(line)
    if confirmed is not None:
        print(confirmation_in_words(confirmed, wanted))
    best = best_trial(study, wanted)
    if best is not None:
        print(f"To train the best setting again:\n  {train_command(wanted, best)}")
    print(f"The trials: make dashboard STORAGE={config.storage}")
    print(tracking.where_to_look(parent))
