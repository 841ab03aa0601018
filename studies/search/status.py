"""How far studies have come, told from their storage alone."""

import optuna
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from segmentation.errors import InputError, listed
from studies.config import StatusConfig
from studies.search import space as spaces
from studies.search.plan import EPOCHS, SETTINGS, VALUES, counted, in_state
from studies.search.storage import REASON, WORKER, is_missing, open_storage

BEST_SHOWN = 5


def show_status(config: StatusConfig) -> None:
    """Print how far a study, or every study of a storage, has come.

    Raises:
        InputError: there is none of that name.
    """
    if is_missing(config.storage):
        raise InputError(f"storage={config.storage} is not there: no study has been begun in it")
    with open_storage(config, heartbeat=60) as storage:
        known = optuna.get_all_study_names(storage)
        if not known:
            raise InputError(f"storage={config.storage} holds no study yet")
        if config.study_name is not None and config.study_name not in known:
            raise InputError(
                f"study_name={config.study_name} is not in storage={config.storage}, which holds {listed(known, 10)}"
            )
        for name in known if config.study_name is None else [config.study_name]:
            _show(optuna.load_study(study_name=name, storage=storage))
    print(f"To look at them: make dashboard STORAGE={config.storage}")


def _show(study: Study) -> None:
    trials = counted(study)
    states = {state.name.lower(): len(in_state(trials, state)) for state in TrialState}
    print(f"{study.study_name}: {', '.join(f'{count} {state}' for state, count in states.items() if count)}")
    for trial in in_state(trials, TrialState.RUNNING):
        worker, epochs = trial.user_attrs.get(WORKER, {}), trial.user_attrs.get(EPOCHS, 0)
        print(
            f"    trial {trial.number}, {_values(trial)}: {epochs} epochs so far, process "
            f"{worker.get('pid', '?')} on {worker.get('host', '?')}"
        )
    for trial in in_state(trials, TrialState.WAITING):
        if epochs := trial.user_attrs.get(EPOCHS, 0):
            print(f"    trial {trial.number}, {_values(trial)}: waits to go on after {epochs} epochs")
    for trial in in_state(trials, TrialState.FAIL):
        print(f"    trial {trial.number} failed: {trial.user_attrs.get(REASON, 'its worker died')}")
    goals = study.user_attrs.get(SETTINGS, {}).get("goals", [])
    for trial in study.best_trials[:BEST_SHOWN]:
        values = ", ".join(f"{metric} {value:.4f}" for metric, value in zip(goals, trial.values, strict=True))
        print(f"    best: trial {trial.number}, {_values(trial)}: {values}")


def _values(trial: FrozenTrial) -> str:
    return spaces.described(trial.user_attrs.get(VALUES, trial.params))
