"""Runs a study: opens or joins it, searches with one process or several, confirms the best trial, logs the result."""

import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import optuna
from optuna import Study
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from segmentation.data import report_coverage
from segmentation.errors import InputError, counted, listed
from studies import tracking
from studies.base.rerun import for_this_folder
from studies.config import TuneConfig
from studies.runs.start import load_data
from studies.runs.variants import each_fold
from studies.search.budget import may_start
from studies.search.constant_model import store_constant_model
from studies.search.finishing import finish_best
from studies.search.log_study import log_progress, log_study
from studies.search.plan import Plan, is_of_another_program, make_plan, store_settings, stored_settings
from studies.search.processes import gpus_of_workers, run_workers
from studies.search.progress import StudyProgress
from studies.search.pruners import build_pruner
from studies.search.retries import reap, waits_for_retry
from studies.search.run_status import update_all_runs
from studies.search.samplers import SeededByTrial
from studies.search.space import Choices, as_stored, describe_values, first_guess, grid_points
from studies.search.storage import one_process_only, open_storage
from studies.search.summary import best_lines, confirmation_line, progress_line, train_command
from studies.search.trials import (
    STATES,
    VAL_IMAGES,
    best_trial,
    counted_trials,
    in_state,
    prescribed_values,
    running_trials,
)
from studies.search.worker import Worker

PARENT, READY = "mlflow_run_id", "ready"
"""Attributes of a study: ID of its MLflow run, and whether its first trials are queued."""
RECORDED = "recorded"
"""Attribute of a study: number of ended trials, of the study and of its confirmation, when its run was last logged."""
NOTE = "trials"
"""Attribute of a study: the number of its trials, if interrupted ones have a second number."""
READY_SECONDS = 30
"""Seconds that another process may take to create the study before this one completes it."""


def run_study(config: TuneConfig) -> None:
    """Start, resume or join the study of that name, and print the best trial.

    Raises:
        InputError: a field is not valid, or too many trials failed.
        KeyboardInterrupt: the process was stopped. The same command resumes the study.
    """
    tracking.keep_records_in(config.records)
    plan = make_plan(config)
    if config.workers > 1 and one_process_only(config.storage):
        raise InputError(
            f"storage={config.storage} with workers={config.workers}: SQLite takes one worker only; name a file that "
            f"ends in .journal for several workers on this machine, or PostgreSQL"
        )
    gpus_of_workers(config)  # reports missing GPUs before anything starts
    with open_storage(config, config.heartbeat) as storage:
        data = load_data(next(each_fold(plan.base)))  # once before the workers start; reports errors in the data early
        report_coverage(data.train, to_train=True)
        given_run = os.environ.get("MLFLOW_RUN_ID")
        study = _open(storage, plan, config, lambda: _parent(config, plan, given_run))
        plan = replace(plan, space=as_stored(plan.space, study.get_trials(deepcopy=False)))
        store_constant_model(study, data.val)
        if study.user_attrs.get(VAL_IMAGES) != len(data.val):
            study.set_user_attr(VAL_IMAGES, len(data.val))
        reap(study)
        if one_process_only(config.storage) and running_trials(study):
            raise InputError(
                f"storage={config.storage}: another worker runs this study, and SQLite takes one worker only; wait "
                f"until it ends, or start a study in storage=studies.journal"
            )
        parent = str(study.user_attrs[PARENT])
        os.environ.pop("MLFLOW_RUN_ID", None)
        if given_run is not None and given_run != parent:
            tags = {"kind": "tune", "study": plan.name, "study_run": parent, "role": "worker"}
            tracking.describe_run(given_run, f"worker of {plan.name}", tags)
        new = all(trial.state == TrialState.WAITING for trial in study.get_trials(deepcopy=False))
        verb = "Starting" if new else "Joining" if running_trials(study) else "Resuming"
        print(f"{verb} study {plan.name!r} in {config.storage}: {plan.description()}")
        if not new:
            print(progress_line(study, plan))
        _run(study, plan, config, storage, parent)


def _parent(config: TuneConfig, plan: Plan, given_run: str | None) -> str:
    """ID of the study's MLflow run: the run that `mlflow run` opened, or a new one."""
    name = _name(config, plan)
    tags = {
        "kind": "tune", "study": plan.name, "role": "study", "sampler": plan.sampler,
        "model": plan.base.model, "dataset": plan.base.dataset,
    }  # fmt: skip
    if given_run is None:
        return tracking.create_run(config.experiment, name, tags)
    tracking.describe_run(given_run, name, tags)
    return given_run


def _name(config: TuneConfig, plan: Plan) -> str:
    return config.run_name or f"study · {plan.name}"


def _open(storage: BaseStorage, plan: Plan, config: TuneConfig, parent: Callable[[], str]) -> Study:
    """Open the study of the plan's name, or create it and queue its first trials.

    Raises:
        InputError: the study exists with other settings.
    """
    sampler = RandomSampler(plan.base.seed) if plan.is_grid else SeededByTrial(plan.sampler, plan.base.seed, plan.space)
    pruner = build_pruner(config, len(plan.objectives))
    settings = plan.settings()
    directions: list[Literal["minimize", "maximize"]] = [
        "maximize" if objective.higher_is_better else "minimize" for objective in plan.objectives
    ]
    try:
        study = optuna.create_study(
            storage=storage, study_name=plan.name, sampler=sampler, pruner=pruner, directions=directions
        )
        store_settings(study, settings)
        study.set_user_attr(PARENT, parent())
    except DuplicatedStudyError:
        study = optuna.load_study(storage=storage, study_name=plan.name, sampler=sampler, pruner=pruner)
        if is_of_another_program(study):
            raise InputError(
                f"study_name={plan.name} in storage={config.storage} was created by another program; give another "
                f"study_name or storage"
            ) from None
        timeout = time.monotonic() + READY_SECONDS
        while READY not in study.user_attrs and time.monotonic() < timeout:
            time.sleep(0.2)
        _check_same(study, plan, config, settings, directions)
        if READY not in study.user_attrs:  # the process that created it died
            store_settings(study, settings)
            if PARENT not in study.user_attrs:
                study.set_user_attr(PARENT, parent())
    _queue(study, plan)
    study.set_user_attr(READY, True)
    if study.metric_names is None:  # otherwise dashboards show "Objective 0"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names([objective.metric for objective in plan.objectives])
    return study


def _check_same(
    study: Study, plan: Plan, config: TuneConfig, settings: dict[str, object], directions: Sequence[str]
) -> None:
    """Raise if an existing study has other directions or settings."""
    found = [direction.name.lower() for direction in study.directions]
    if found != directions:  # although the settings may be equal: another program created it
        raise InputError(
            f"study_name={plan.name} in storage={config.storage} exists with the directions {', '.join(found)}, but "
            f"{' and '.join(objective.metric for objective in plan.objectives)} needs {', '.join(directions)}; give "
            f"another study_name"
        ) from None
    stored = stored_settings(study) or settings
    changed = [
        f"{name}={stored.get(name)!r} (now {value!r})"
        for name, value in settings.items()
        if name in stored and stored[name] != value
    ]
    if changed:
        raise InputError(
            f"study_name={plan.name} was started with {listed(changed)}: give the same values to resume it, or "
            f"another study_name"
        ) from None


def _queue(study: Study, plan: Plan) -> None:
    """Queue all grid points that are missing or failed; for other samplers, the defaults of `train` as first trial."""
    if not plan.is_grid:
        guess = first_guess(plan.space)
        if guess and not study.get_trials(deepcopy=False):
            study.enqueue_trial(guess)
        return
    trials = [trial for trial in counted_trials(study) if trial.state != TrialState.FAIL or waits_for_retry(trial)]
    present = [prescribed_values(trial) for trial in trials]
    for values in grid_points(plan.space):
        if values not in present:
            study.enqueue_trial(values)


def _run(study: Study, plan: Plan, config: TuneConfig, storage: BaseStorage, parent: str) -> None:
    """Search, confirm and log inside the study's MLflow run, and print the result."""
    deadline = float("inf") if config.timeout is None else time.monotonic() + config.timeout
    confirmed, ended_before = None, _ended(study, None)
    studies = [study]

    def others() -> bool:
        return any(running_trials(each) for each in studies)

    try:
        with tracking.tracked_run(
            config.experiment, _name(config, plan), {"study": plan.name}, parent, shared=True, others=others,
            remedy=lambda _: "Run the same command again to resume the study.",
        ):  # fmt: skip
            tracking.log_config(config, leave_out=plan.space)
            try:
                confirmed = _search_and_confirm(studies, plan, config, storage, parent, deadline)
            except KeyboardInterrupt:
                raise  # no time for plots: the next call draws them
            except BaseException:
                _log(study, plan, confirmed, ended_before, parent)
                raise
            _log(study, plan, confirmed, ended_before, parent)
            is_complete = not may_start(study, plan) and not others()
            if is_complete or (plan.is_open_ended and not others()):
                finish_best(study, plan)
            if not is_complete:
                raise tracking.Stopped("the study is not complete; run the same command again to resume it")
    except tracking.Stopped as reason:
        print(f"Stopped: {reason}.")
    except KeyboardInterrupt:
        print(f"Stopped: {progress_line(study, plan)} Run the same command again to resume the study.")
        raise
    _print_result(study, plan, confirmed, config, parent)


def _log(study: Study, plan: Plan, confirmed: Study | None, ended_before: list[int], parent: str) -> None:
    """Log the study and close its runs, unless another process has logged the same trials."""
    ended = _ended(study, confirmed)
    _note_interruptions(study)
    if ended == ended_before or study.user_attrs.get(RECORDED) != ended:
        study.set_user_attr(RECORDED, ended)
        log_study(study, plan, confirmed)
    update_all_runs(study, confirmed, parent)


def _note_interruptions(study: Study) -> None:
    """Store with the study, for dashboards, why they show more trials than there are."""
    shown, trials = study.get_trials(deepcopy=False), counted_trials(study)
    extra = len(shown) - len(trials)
    note = f"{len(trials)} trials. {counted(extra, 'interrupted trial')} resumed under another number, shown as Fail."
    if extra and study.user_attrs.get(NOTE) != note:
        study.set_user_attr(NOTE, note)


def _ended(study: Study, confirmed: Study | None) -> list[int]:
    return [len(in_state(counted_trials(each), *STATES)) for each in (study, confirmed) if each is not None]


def _search_and_confirm(
    studies: list[Study], plan: Plan, config: TuneConfig, storage: BaseStorage, parent: str, deadline: float
) -> Study | None:
    """Run the trials of the study, then of its confirmation, which is appended to `studies` and returned."""
    (study,) = studies
    _run_trials(study, plan, config, parent, "search", deadline)
    best = best_trial(study)
    if not config.confirm_seeds or best is None or may_start(study, plan) or running_trials(study):
        return None
    values = plan.values(best)
    seeds = tuple(plan.base.seed + 1 + index for index in range(config.confirm_seeds))
    confirmation = replace(
        plan,
        name=f"{plan.name} · trial {best.number} confirmed",
        base=replace(plan.base, **values),
        space={"seed": Choices(seeds)},
        sampler="grid",
        pruner="none",
        max_epochs=None,
        n_trials=None,
    )
    print(f"Confirming trial {best.number} ({describe_values(values)}) with seeds {listed(map(str, seeds), 10)}.")
    config = replace(config, sampler="grid", pruner="none")
    confirmed = _open(storage, confirmation, config, lambda: parent)
    studies.append(confirmed)
    _run_trials(confirmed, confirmation, config, parent, "confirmation", deadline)
    return confirmed


def _run_trials(study: Study, plan: Plan, config: TuneConfig, parent: str, role: str, deadline: float) -> None:
    if config.workers == 1:
        with StudyProgress(study, plan, lambda: log_progress(study, plan, parent)) as progress:
            Worker(study, plan, parent, role, config.max_failures, deadline, progress.update).work()
    else:
        run_workers(study, plan, config, parent, role, deadline)


def _print_result(study: Study, plan: Plan, confirmed: Study | None, config: TuneConfig, parent: str) -> None:
    print(progress_line(study, plan))
    for line in best_lines(study, plan):
        print(line)
    if confirmed is not None:
        print(confirmation_line(confirmed, plan))
    best = best_trial(study)
    if best is not None:
        print(f"To train the best trial again:\n  {for_this_folder(train_command(plan, best))}")
    print(f"Dashboard: make dashboard STORAGE={config.storage}")
    print(tracking.where_to_look(parent))
