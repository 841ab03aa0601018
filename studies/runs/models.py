"""Trains several settings as child runs of one MLflow run, which compares them."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from segmentation.data.source import data_name
from segmentation.errors import DivergedError, InputError, counted, listed
from studies import tracking
from studies.base.rerun import here
from studies.config import ModelsConfig, TrainConfig, trains_all_folds
from studies.models.starting_weights import resolve_normalization
from studies.runs.comparison import record_comparison
from studies.runs.folds import record_folds
from studies.runs.resume import can_resume, last_checkpoint
from studies.runs.start import IDENTITY, check_start, identity, load_data, starting_model
from studies.runs.training import run_training
from studies.runs.variants import each_fold, run_configs
from studies.scores.stored import StoredScores, find_runs
from studies.tracking import FoundRun

REUSED_SECONDS = 2.0
"""A run that takes less was trained before, and says nothing about the speed."""
EXAMPLES = 4
"""Most images plotted with the predictions of all models."""


class PlannedRun(NamedTuple):
    """One setting with one seed."""

    config: TrainConfig
    identity: str

    def done(self) -> FoundRun | None:
        """Return the newest finished run with this identity whose scores and model MLflow has, or None.

        A trial of a study that logged no model does not count.
        """
        finished = (run for run in self._runs() if run.status == "FINISHED" and (run.promises_model or not run.study))
        return next((run for run in finished if tracking.has_arrived(run, self.config.val_split)), None)

    def started(self) -> FoundRun | None:
        """Return the newest run with this identity that can be resumed from a checkpoint here, or None.

        This includes a finished run whose scores or model MLflow lacks: they are made again from the checkpoint.
        """
        checkpoint_dir = Path(self.config.checkpoint_dir)
        for run in self._runs():
            finished = (
                run.status == "FINISHED" and not run.study and last_checkpoint(run.run_id, checkpoint_dir).is_file()
            )
            if finished or can_resume(run, checkpoint_dir):
                return run
        return None

    def _runs(self) -> list[FoundRun]:
        return tracking.runs_tagged(IDENTITY, self.identity)


def run_models(config: ModelsConfig) -> list[str]:
    """Train every variant that was not trained before, compare all of them, and print where to look.

    Returns:
        The IDs of the runs, ordered by variant and then by seed.

    Raises:
        InputError: a mistake of the user. Finished runs stay: the same command resumes from there.
    """
    tracking.keep_records_in(config.records)
    settings = list(run_configs(config))
    setting_of_run = [str(setting.run_name) for setting in settings for _ in each_fold(setting)]
    configs = [each for setting in settings for each in each_fold(setting)]
    tracking.check_store()
    for run_config in configs:
        check_start(run_config)
    tags = {"kind": "models", "dataset": config.dataset, "variants": config.variants}
    data = data_name(config.dataset, config.data_dir)
    name = config.run_name or f"models · {counted(len(configs), 'run')} · {data}"
    repeat = "Repeat the command to resume: finished runs are not trained again."
    with tracking.tracked_run(config.experiment, name, tags, remedy=lambda _: repeat) as parent:
        tracking.log_config(config, leave_out=("model", "weights", "recipe"))
        print(f"Models {parent}: {counted(len(configs), 'run')}, then their comparison.")
        planned = [_planned(each) for each in configs]  # reports a mistake in any of them before hours of training
        to_train = [each.config.epochs if config.retrain or each.done() is None else 0 for each in planned]
        run_ids, diverged = [], []
        by_setting: dict[str, dict[int, str]] = {name: {} for name in setting_of_run}
        trained: list[tuple[int, float]] = []
        for number, (each, setting) in enumerate(zip(planned, setting_of_run, strict=True), 1):
            left = _time_left(sum(to_train[number - 1 :]), trained)
            print(f"\n{number} of {len(planned)}: {each.config.run_name}{left}", flush=True)
            started = time.monotonic()
            try:
                run_ids.append(_trained(each, parent, config.retrain, sum(to_train[number:])))
                by_setting[setting][each.config.fold or 0] = run_ids[-1]
                if (seconds := time.monotonic() - started) > REUSED_SECONDS:
                    trained.append((each.config.epochs, seconds))
            except DivergedError as error:
                print(f"Diverged: {error}")
                diverged.append(f"{each.config.run_name}: {error}")
            except KeyboardInterrupt:
                print(f"Stopped in run {number} of {len(planned)}. Repeat the command to resume.")
                raise
        if trains_all_folds(config):
            record_folds(by_setting, config.folds or 0, config.val_split)
        elif len(run_ids) > 1:
            stored = [StoredScores(run, config.val_split) for run in find_runs(",".join(run_ids), config.val_split)]
            record_comparison(stored, min(config.examples, EXAMPLES))
        if diverged:
            raise InputError(f"{counted(len(diverged), 'run')} diverged: {listed(diverged)}")
    ids = ",".join(run_ids)
    print(f"To write a report:\n  {here('report', {'run_ids': parent})}")
    if not trains_all_folds(config):
        print(f"To compare these runs with others:\n  {here('compare', {'run_ids': ids})},…")
    print(tracking.where_to_look(parent))
    return run_ids


def _planned(config: TrainConfig) -> PlannedRun:
    config = resolve_normalization(config)
    data = load_data(config)
    config = resolve_normalization(config, data.train)
    model, _ = starting_model(config, data.train)
    return PlannedRun(config, identity(config, data, model))


def _trained(planned: PlannedRun, parent: str, retrain: bool, epochs_afterwards: int) -> str:
    """Return the ID of a finished run as planned: an existing one, a resumed one, or a new one."""
    done = None if retrain else planned.done()
    if done is not None:
        print(f"Already trained in run {done.run_id} ({done.name}) with the same configuration, data and code.")
        return done.run_id
    started = None if retrain else planned.started()
    name = str(planned.config.run_name)
    if started is None:
        run_id = tracking.create_run(planned.config.experiment, name, {}, parent)
    else:
        run_id = started.run_id
        if started.status == "FINISHED":
            print(f"Run {run_id} ({started.name}) has finished, but MLflow lacks its scores or model: made again.")
        tracking.describe_run(run_id, name, {"mlflow.parentRunId": parent})
    return run_training(planned.config, run_id, epochs_afterwards=epochs_afterwards).run_id


def _time_left(left: int, trained: Sequence[tuple[int, float]]) -> str:
    """Return how many epochs this run and the later ones have, and how long they take at the speed of earlier ones."""
    if not left:
        return ""
    epochs, seconds = (sum(column) for column in zip(*trained, strict=True)) if trained else (0, 0.0)
    minutes = f", about {left * seconds / epochs / 60:.0f} min at the speed of the earlier runs" if epochs else ""
    return f" ({counted(left, 'epoch')} left in all runs{minutes})"
