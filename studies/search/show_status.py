"""Prints the progress of studies, read from their storage alone."""

import optuna
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from segmentation.errors import InputError, listed
from studies.config import StatusConfig
from studies.search.plan import is_of_another_program, stored_settings
from studies.search.space import describe_values
from studies.search.storage import is_missing, open_storage
from studies.search.trials import EPOCHS, VALUES, counted_trials, in_state, pareto_front, reason_of, worker_of

BEST_SHOWN = 5


def show_status(config: StatusConfig) -> None:
    """Print the progress of one study, or of every study in a storage.

    Raises:
        InputError: the storage or the study does not exist.
    """
    if is_missing(config.storage):
        raise InputError(f"storage={config.storage} does not exist: start a study with `tune`, or name another file")
    with open_storage(config, heartbeat=60) as storage:
        known = optuna.get_all_study_names(storage)
        if not known:
            raise InputError(f"storage={config.storage} holds no study: start one with `tune`")
        if config.study_name is not None and config.study_name not in known:
            raise InputError(
                f"study_name={config.study_name} is not in storage={config.storage}, which holds {listed(known, 10)}"
            )
        for name in known if config.study_name is None else [config.study_name]:
            _print_study(optuna.load_study(study_name=name, storage=storage))
    print(f"Dashboard: make dashboard STORAGE={config.storage}")


def _print_study(study: Study) -> None:
    trials = counted_trials(study)
    states = {state.name.lower(): len(in_state(trials, state)) for state in TrialState}
    print(f"{study.study_name}: {', '.join(f'{count} {state}' for state, count in states.items() if count)}")
    for trial in in_state(trials, TrialState.RUNNING):
        worker, epochs = worker_of(trial), trial.user_attrs.get(EPOCHS, 0)
        print(
            f"    trial {trial.number}, {_values(trial)}: running, {epochs} epochs done, process "
            f"{worker.get('pid', '?')} on {worker.get('host', '?')}"
        )
    for trial in in_state(trials, TrialState.WAITING):
        if epochs := trial.user_attrs.get(EPOCHS, 0):
            print(f"    trial {trial.number}, {_values(trial)}: waiting to be resumed after {epochs} epochs")
    for trial in in_state(trials, TrialState.FAIL):
        print(f"    trial {trial.number} failed: {reason_of(trial, 'its worker died')}")
    if is_of_another_program(study):
        print("    This study was created by another program: its values are not shown.")
        return
    metrics = stored_settings(study).get("goals", [])
    for trial in pareto_front(study)[:BEST_SHOWN]:
        values = ", ".join(f"{metric} {value:.4f}" for metric, value in zip(metrics, trial.values, strict=True))
        print(f"    best: trial {trial.number}, {_values(trial)}: {values}")
    if baseline := study.user_attrs.get("baseline"):
        print(f"    {baseline}")


def _values(trial: FrozenTrial) -> str:
    return describe_values(trial.user_attrs.get(VALUES, trial.params))
