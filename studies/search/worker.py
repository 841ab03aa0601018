"""A worker of a study: takes a trial from the queue, trains it in its own MLflow run, reports it, takes the next."""

import io
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from optuna import Study, Trial, TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from segmentation.data import data_fields
from segmentation.errors import DivergedError, InputError
from segmentation.system.processes import me
from segmentation.training.loop import Data
from studies import tracking
from studies.base.redaction import without_password
from studies.config import LONGEST_NAME, TrainConfig
from studies.runs.names import run_name
from studies.runs.start import load_data
from studies.runs.training import TrainingResult, run_training
from studies.runs.variants import each_fold
from studies.search.budget import epochs_left, may_start
from studies.search.folds import TrialResult, finished_folds, mean_result, result_of, store_folds
from studies.search.objectives import FAR
from studies.search.plan import Plan
from studies.search.retries import is_duplicate, reap, retry
from studies.search.run_status import update_run
from studies.search.space import suggest
from studies.search.trials import (
    EPOCHS,
    IDLE,
    INTERRUPTED,
    METRICS_KEPT,
    REASON,
    RETRY_OF,
    RUN,
    VALUES,
    WARNING,
    WORKER,
    counted_trials,
    only_class_found,
    prescribed_values,
    reason_of,
    running_trials,
    store_long,
    store_reason,
)

POLL_SECONDS = 2.0


class Postponed(tracking.Stopped):
    """Raised to stop a trial that is resumed later."""


@dataclass
class Worker:
    """One process that works on a study."""

    study: Study
    plan: Plan
    parent: str
    """ID of the study's MLflow run."""
    role: str
    """`search` or `confirmation`."""
    max_failures: int
    deadline: float = float("inf")
    """Time, as of `time.monotonic()`, after which no trial starts or continues."""
    on_update: Callable[[], None] = lambda: None
    """Called after each epoch and while waiting."""
    data: dict[tuple[object, ...], Data] = field(default_factory=dict)
    """Splits loaded so far, by the fields of their data configuration."""
    reported: int = 0
    """Last epoch of the current trial, or of its current fold, that the study knows. Kept here, since a look-up would
    read all trials."""
    epochs_before: int = 0
    """Epochs of the finished folds of the current trial."""

    def work(self) -> None:
        """Run trials until the study is complete, here and in other workers, or the deadline is reached.

        Raises:
            InputError: too many trials failed in a row.
            KeyboardInterrupt: the process was stopped. Its trial is queued to be resumed.
        """
        failures: list[str] = []
        while time.monotonic() < self.deadline:
            reap(self.study)
            self.on_update()
            if not may_start(self.study, self.plan):
                if not running_trials(self.study):
                    return
                time.sleep(POLL_SECONDS)  # a trial that another worker runs may still return to the queue
                continue
            try:
                failure = self._run_trial()
            except tracking.AwayError as error:
                if self._waited_for_mlflow(error):
                    continue
                failure = str(error)  # MLflow answers, but refuses this request: count it, or the loop never ends
            failures = [*failures, failure] if failure else []
            if len(failures) >= self.max_failures:
                raise InputError(
                    f"{len(failures)} trials in a row failed (max_failures={self.max_failures}), the last one with: "
                    f"{failures[-1]}. Fix this and run the same command again to resume the study"
                )

    def _waited_for_mlflow(self, error: tracking.AwayError) -> bool:
        """Wait until MLflow answers or the deadline is reached; returns False if it answered at once."""
        if tracking.answers():
            return False
        print(f"{error}. The trial waits until MLflow answers.", file=sys.stderr)
        while time.monotonic() < self.deadline and not tracking.answers():
            self.on_update()
            time.sleep(POLL_SECONDS)
        return True

    def _run_trial(self) -> str | None:
        """Run one trial; returns why it failed, or None.

        Raises:
            AwayError: MLflow did not answer when the trial started. The trial is back in the queue.
        """
        taken: list[Trial] = []
        away: list[tracking.AwayError] = []

        def objective(trial: Trial) -> float | Sequence[float]:
            taken.append(trial)
            try:
                return self._objective(trial)
            except tracking.AwayError as error:
                away.append(error)
                raise

        try:
            self.study.optimize(objective, n_trials=1, catch=(Exception,))
        except KeyboardInterrupt:
            if taken:
                retry(self.study, self._frozen(taken[0]))
            raise
        except (ValueError, UpdateFinishedTrialError):
            if not taken or self._frozen(taken[0]).state != TrialState.FAIL:
                raise
            return None  # this worker was presumed dead, and another one has resumed the trial
        done = self._frozen(taken[0])
        if done.state == TrialState.FAIL and REASON not in done.user_attrs:
            retry(self.study, done)
            if away:
                raise away[0]
        elif done.state == TrialState.FAIL and IDLE not in done.user_attrs:
            return str(reason_of(done))
        return None

    def _objective(self, trial: Trial) -> float | Sequence[float]:
        """Draw the values of a trial, train it, and return its objectives.

        Stores `REASON` for every failure, also before the training starts. A failed trial without a reason was
        postponed, or its worker died: it is queued again.
        """
        try:
            store_long(trial, WORKER, me())
            trials = self.study.get_trials(deepcopy=False)
            known = trials[trial.number]
            self.epochs_before = 0
            self.reported = max(known.intermediate_values, default=0)
            if len(self.plan.objectives) > 1:  # Optuna stores no intermediate values for several objectives
                self.reported = known.user_attrs.get(EPOCHS, 0)
            self._skip_if_redundant(trial, trials)
            values = suggest(trial, self.plan.space)
            trial.set_user_attr(VALUES, values)
            config = self.plan.trial_config(values)
            name = f"{self.role} {trial.number} · {run_name(config, self.plan.space)}"
            config = replace(config, run_name=name[:LONGEST_NAME])
            finished = finished_folds(known)
            for each in list(each_fold(config))[len(finished) :]:
                self._start_fold(trial, finished)
                run_id = self._run_of(trial, each, finished)
                finished.append(result_of(self._train(trial, each, run_id, self._data(each))))
                if each != config:
                    store_folds(trial, finished)
            return self._values(trial, mean_result(finished))
        except (TrialPruned, UpdateFinishedTrialError):
            raise
        except (Postponed, tracking.AwayError, KeyboardInterrupt):
            with suppress(UpdateFinishedTrialError):  # another worker has resumed it
                trial.set_user_attr(INTERRUPTED, "not a failure; a new trial resumes it")
            raise
        except Exception as error:
            if IDLE not in trial.user_attrs:
                store_reason(trial, without_password(f"{type(error).__name__}: {error}")[:2000])
            raise

    def _start_fold(self, trial: Trial, finished: Sequence[TrialResult]) -> None:
        """Count the epochs of a later fold from those of the finished ones."""
        if finished:
            self.epochs_before = sum(fold.epochs for fold in finished)
            self.reported = trial.user_attrs.get(EPOCHS, 0) - self.epochs_before

    def _train(self, trial: Trial, config: TrainConfig, run_id: str, data: Data) -> TrainingResult:
        """Train in the trial's MLflow run, and log what is printed to its `training.log`."""
        printed = io.StringIO()
        try:
            with redirect_stdout(printed):
                return run_training(config, run_id, data, lambda *epoch: self._report_epoch(trial, *epoch))
        except Postponed:
            if self._frozen(trial).state != TrialState.RUNNING:
                update_run(self.study, run_id)
            raise
        except tracking.Stopped as reason:
            store_reason(trial, str(reason))
            raise TrialPruned(str(reason)) from None
        except DivergedError as error:
            store_reason(trial, str(error))
            if len(self.plan.objectives) == 1:
                trial.report(float("nan"), trial.user_attrs.get(EPOCHS, 0) + 1)
            tracking.end_run(run_id, "KILLED", f"pruned: {error}")
            raise TrialPruned(str(error)) from None
        except tracking.AwayError:
            raise  # without a reason, the trial is queued again
        except Exception as error:
            if not isinstance(error, InputError):
                printed.write(traceback.format_exc())
            raise
        finally:
            tracking.log_text(printed.getvalue(), "training.log", run_id)

    def _skip_if_redundant(self, trial: Trial, trials: Sequence[FrozenTrial]) -> None:
        """Raise if another worker took the same trial, or if the budget cannot complete it."""
        frozen = trials[trial.number]
        retry_of, prescribed = frozen.user_attrs.get(RETRY_OF), prescribed_values(frozen)
        earlier = [other for other in counted_trials(self.study) if other.number < trial.number]
        if prescribed and self.plan.is_grid:
            needed = not any(
                other.state != TrialState.FAIL and prescribed_values(other) == prescribed for other in earlier
            )
        elif prescribed:
            needed = not is_duplicate(frozen, trials)
        else:
            needed = not self.plan.is_grid and (self.plan.n_trials is None or len(earlier) < self.plan.n_trials)
        epochs = self.plan.trial_epochs - frozen.user_attrs.get(EPOCHS, 0)
        fits = epochs_left(self.study, self.plan, trial.number) >= epochs
        if needed and not fits and retry_of is not None:
            store_reason(trial, f"pruned: too few of max_epochs_total={self.plan.max_epochs} are left to complete it")
            raise TrialPruned("the budget is used up")
        if needed and fits:
            return
        trial.set_user_attr(IDLE, True)
        store_reason(trial, "nothing was left to do")
        raise RuntimeError("nothing was left to do")

    def _run_of(self, trial: Trial, config: TrainConfig, finished: Sequence[TrialResult]) -> str:
        """The MLflow run of the trial or its fold: the one that it had if its checkpoint is here, else a new one."""
        had = trial.user_attrs.get(RUN)
        if had is not None and had not in [fold.run_id for fold in finished]:
            if (Path(config.checkpoint_dir) / had / "last.pt").is_file() or not tracking.logged_epochs(had):
                return str(had)
            tracking.end_run(
                had, "KILLED", "its worker died, and its checkpoint cannot be read here: restarted in another run"
            )
        tags = {
            "study": self.plan.name, "trial": str(trial.number), "sampler": self.plan.sampler, "role": self.role,
        }  # fmt: skip
        run_id = tracking.create_run(config.experiment, str(config.run_name), tags, self.parent)
        trial.set_user_attr(RUN, run_id)
        return run_id

    def _data(self, config: TrainConfig) -> Data:
        key = data_fields(config)
        if key not in self.data:
            self.data[key] = load_data(config)
        return self.data[key]

    def _report_epoch(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> None:
        """Report an epoch to the study; raises to prune or postpone the trial.

        An epoch that the study knows from the trial that this one resumes is not judged again.
        """
        if epoch <= self.reported:
            self._postpone_after_deadline()
            return
        try:
            self._keep(trial, self.epochs_before + epoch, epoch, metrics)
        except UpdateFinishedTrialError:
            raise Postponed("this worker was presumed dead, and another one resumed the trial") from None
        self.on_update()
        if epoch == self.plan.base.epochs:
            return
        if len(self.plan.objectives) == 1 and not self.epochs_before:
            trial.report(self._intermediate_value(metrics), epoch)
            if trial.should_prune():
                objective = self.plan.objectives[0]
                self._set_constraint(trial, metrics)
                rule = "not in the best third" if self.plan.pruner == "halving" else "worse than the median"
                raise tracking.Stopped(
                    f"pruned at epoch {epoch}: {objective.metric}={objective.value(metrics):.4g} is {rule} at this "
                    f"epoch"
                )
        if epochs_left(self.study, self.plan, trial.number) <= 0:
            self._set_constraint(trial, metrics)
            raise tracking.Stopped(f"pruned at epoch {epoch}: max_epochs_total={self.plan.max_epochs} is used up")
        self._postpone_after_deadline()

    def _postpone_after_deadline(self) -> None:
        if time.monotonic() >= self.deadline:
            raise Postponed("timeout of the tune call reached; the trial continues when the study is resumed")

    def _intermediate_value(self, metrics: dict[str, float]) -> float:
        """Value that the pruner compares; an epoch that violates the constraint ranks behind all that keep it."""
        objective = self.plan.objectives[0]
        violation = 0.0 if self.plan.constraint is None else self.plan.constraint.violation(metrics)
        if violation <= 0:
            return objective.value(metrics)
        return -FAR * (1 + violation) if objective.higher_is_better else FAR * (1 + violation)

    def _set_constraint(self, trial: Trial, metrics: Mapping[str, float]) -> None:
        if self.plan.constraint is not None:
            trial.set_constraint(str(self.plan.constraint), self.plan.constraint.violation(metrics))

    def _values(self, trial: Trial, result: TrialResult) -> float | Sequence[float]:
        trial.set_user_attr(RUN, result.run_id)
        self._keep(trial, result.epochs, result.kept_epoch, result.kept)
        self._set_constraint(trial, result.kept)
        values = [objective.value(result.kept) for objective in self.plan.objectives]
        return values[0] if len(values) == 1 else values

    def _keep(self, trial: Trial, epochs: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Store the number of epochs, and the metrics of one of them, with the trial."""
        trial.set_user_attr(EPOCHS, epochs)
        store_long(trial, METRICS_KEPT, {"epoch": epoch} | _trial_metrics(metrics))
        only = only_class_found(metrics)
        warning = "" if only is None else f"finds only {only}"
        if trial.user_attrs.get(WARNING, "") != warning:
            trial.set_user_attr(WARNING, warning)

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[trial.number]


def _trial_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """The train and val metrics without those of single classes and without NaN."""
    return {
        name: value for name, value in metrics.items()
        if name.startswith(("train/", "val/")) and not name.startswith("val/iou/") and value == value
    }  # fmt: skip
