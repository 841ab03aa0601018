"""One worker of a study: takes a trial, trains it in a run of its own, tells how it went, takes the next."""

import io
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
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
from studies.config import TrainConfig
from studies.runs.names import run_name
from studies.runs.start import load_data
from studies.runs.training import TrainingResult, run_training
from studies.search import space as spaces
from studies.search.goals import FAR
from studies.search.plan import EPOCHS, RUN, VALUES, Plan, counted, point
from studies.search.samplers import IDLE, RETRY_OF, siblings
from studies.search.statuses import settle
from studies.search.storage import REASON, WORKER, reap, retry, running

METRICS_KEPT = "metrics"
"""Attribute of a trial: the metrics of the epoch that its value is of; of the last epoch if it was pruned."""
POLL_SECONDS = 2.0


class Postponed(tracking.Stopped):
    """A training that is to go on later."""


@dataclass
class Worker:
    """What one process needs to work on a study."""

    study: Study
    plan: Plan
    parent: str
    """The study's MLflow run."""
    role: str
    """`search`, or `confirmation`."""
    max_failures: int
    deadline: float = float("inf")
    """Time, as of `time.monotonic()`, after which nothing is begun or gone on with."""
    seen: Callable[[], None] = lambda: None
    """Called after each epoch and while waiting."""
    data: dict[tuple[object, ...], Data] = field(default_factory=dict)
    """Splits loaded so far, by the fields of their data configuration."""
    reported: int = 0
    """Last epoch of the current trial that the study knows; kept here, since the study would read all trials."""

    def work(self) -> None:
        """Take trials until there is nothing left to do here or elsewhere, or the time is over.

        Raises:
            InputError: too many trials in a row have failed.
            KeyboardInterrupt: the process was told to stop; its trial waits to be gone on with.
        """
        failures: list[str] = []
        while time.monotonic() < self.deadline:
            reap(self.study)
            self.seen()
            if not self.plan.may_start(self.study):
                if not running(self.study):
                    return
                time.sleep(POLL_SECONDS)  # what others are at may yet come back into the queue
                continue
            try:
                failure = self._one_trial()
            except tracking.AwayError as error:
                if self._waited_for_mlflow(error):
                    continue
                failure = str(error)  # it answers, but not to this: that must come to an end, too
            failures = [*failures, failure] if failure else []
            if len(failures) >= self.max_failures:
                raise InputError(
                    f"{len(failures)} trainings in a row have failed, the last one with: {failures[-1]}. Mend that; "
                    f"the same command then goes on with the study"
                )

    def _waited_for_mlflow(self, error: tracking.AwayError) -> bool:
        """Wait until MLflow can be used, or the time is over; returns whether it could not be used at first."""
        if tracking.answers():
            return False
        print(f"{error}. The trial is postponed until MLflow answers.", file=sys.stderr)
        while time.monotonic() < self.deadline and not tracking.answers():
            self.seen()
            time.sleep(POLL_SECONDS)
        return True

    def _one_trial(self) -> str | None:
        """Do one trial; returns why it failed, if it did.

        Raises:
            AwayError: MLflow was away when it was to start; it waits in the queue.
        """
        taken: list[Trial] = []
        away: list[tracking.AwayError] = []

        def objective(trial: Trial) -> float | Sequence[float]:
            taken.append(trial)
            try:
                return self._train(trial)
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
            return None  # it was taken for dead meanwhile, and another worker goes on with it
        done = self._frozen(taken[0])
        if done.state == TrialState.FAIL and REASON not in done.user_attrs:
            retry(self.study, done)
            if away:
                raise away[0]
        elif done.state == TrialState.FAIL and IDLE not in done.user_attrs:
            return str(done.user_attrs[REASON])
        return None

    def _train(self, trial: Trial) -> float | Sequence[float]:
        """Do a trial; whatever fails, before its training starts too, is the trial's `REASON`.

        A failed trial without a reason is one whose worker died, or that is postponed: it is queued again.
        """
        try:
            trial.set_user_attr(WORKER, me())
            trials = self.study.get_trials(deepcopy=False)
            known = trials[trial.number]
            self.reported = max(known.intermediate_values, default=0)
            if len(self.plan.goals) > 1:  # of which nothing is reported
                self.reported = known.user_attrs.get(EPOCHS, 0)
            self._leave_if_nothing_is_left(trial, trials)
            values = spaces.suggest(trial, self.plan.space)
            trial.set_user_attr(VALUES, values)
            config = spaces.varied(self.plan.base, values)
            config = replace(config, run_name=f"{self.role} {trial.number} · {run_name(config)}"[:250])
            data = self._data(config)
            return self._values(trial, self._trained(trial, config, self._run_of(trial, config), data))
        except (Postponed, TrialPruned, UpdateFinishedTrialError, tracking.AwayError):
            raise
        except Exception as error:
            if IDLE not in trial.user_attrs:
                trial.set_user_attr(REASON, without_password(f"{type(error).__name__}: {error}")[:2000])
            raise

    def _trained(self, trial: Trial, config: TrainConfig, run_id: str, data: Data) -> TrainingResult:
        """Train in the trial's MLflow run, and keep there what is printed meanwhile."""
        printed = io.StringIO()
        try:
            with redirect_stdout(printed):
                return run_training(config, run_id, data, lambda *epoch: self._after(trial, *epoch))
        except Postponed:
            if self._frozen(trial).state != TrialState.RUNNING:
                settle(self.study, run_id)
            raise
        except tracking.Stopped as reason:
            trial.set_user_attr(REASON, str(reason))
            raise TrialPruned(str(reason)) from None
        except DivergedError as error:
            trial.set_user_attr(REASON, str(error))
            if len(self.plan.goals) == 1:
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

    def _leave_if_nothing_is_left(self, trial: Trial, trials: Sequence[FrozenTrial]) -> None:
        """Leave a trial that two workers have begun, or queued, at once, or that the budget cannot complete."""
        frozen = trials[trial.number]
        retry_of, prescribed = frozen.user_attrs.get(RETRY_OF), point(frozen)
        before = [each for each in counted(self.study) if each.number < trial.number]
        if prescribed and self.plan.is_grid:
            left = not any(each.state != TrialState.FAIL and point(each) == prescribed for each in before)
        elif prescribed:
            left = not leaves_to_another(frozen, trials)
        else:
            left = not self.plan.is_grid and (self.plan.n_trials is None or len(before) < self.plan.n_trials)
        needed = self.plan.base.epochs - frozen.user_attrs.get(EPOCHS, 0)
        fits = self.plan.epochs_left(self.study, trial.number) >= needed
        if left and not fits and retry_of is not None:
            trial.set_user_attr(
                REASON, f"pruned: the study's {self.plan.max_epochs} epochs leave too few to complete it"
            )
            raise TrialPruned("the budget is used up")
        if left and fits:
            return
        trial.set_user_attr(IDLE, True)
        trial.set_user_attr(REASON, "nothing was left to do")
        raise RuntimeError("nothing was left to do")

    def _run_of(self, trial: Trial, config: TrainConfig) -> str:
        """The trial's MLflow run: the one it had, if its checkpoint is here, or else a new one."""
        had = trial.user_attrs.get(RUN)
        if had is not None:
            if (Path(config.checkpoint_dir) / had / "last.pt").is_file() or not tracking.logged_epochs(had):
                return str(had)
            tracking.end_run(
                had, "KILLED", "its worker died, and its checkpoint is out of reach: another run began anew"
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

    def _after(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> None:
        """Report an epoch to the study; raises what ends the training.

        An epoch that the study knows already, because the trial resumes another one, is not judged again.
        """
        if epoch <= self.reported:
            self._postpone_if_time_is_over()
            return
        try:
            trial.set_user_attr(EPOCHS, epoch)
            trial.set_user_attr(METRICS_KEPT, {"epoch": epoch} | _shown(metrics))
        except UpdateFinishedTrialError:
            raise Postponed("this worker was taken for dead, and another one goes on") from None
        self.seen()
        if epoch == self.plan.base.epochs:
            return
        if len(self.plan.goals) == 1:
            trial.report(self._reported(metrics), epoch)
            if trial.should_prune():
                goal = self.plan.goals[0]
                self._set_constraint(trial, metrics)
                raise tracking.Stopped(
                    f"pruned at epoch {epoch}: {goal.metric}={goal.value(metrics):.4g} is not among the best third "
                    f"of the trainings at this epoch" if self.plan.pruner == "halving"
                    else f"pruned at epoch {epoch}: {goal.metric}={goal.value(metrics):.4g} is behind the median"
                )  # fmt: skip
        if self.plan.epochs_left(self.study, trial.number) <= 0:
            self._set_constraint(trial, metrics)
            raise tracking.Stopped(f"pruned at epoch {epoch}: the study's {self.plan.max_epochs} epochs are used up")
        self._postpone_if_time_is_over()

    def _postpone_if_time_is_over(self) -> None:
        if time.monotonic() >= self.deadline:
            raise Postponed("the time of this call was over; it goes on when the study is resumed")

    def _reported(self, metrics: dict[str, float]) -> float:
        """What is compared with other trainings at the same epoch: whatever breaks the limit is behind all others."""
        goal = self.plan.goals[0]
        excess = 0.0 if self.plan.limit is None else self.plan.limit.excess(metrics)
        if excess <= 0:
            return goal.value(metrics)
        return -FAR * (1 + excess) if goal.higher_is_better else FAR * (1 + excess)

    def _set_constraint(self, trial: Trial, metrics: dict[str, float]) -> None:
        if self.plan.limit is not None:
            trial.set_constraint(str(self.plan.limit), self.plan.limit.excess(metrics))

    def _values(self, trial: Trial, result: TrainingResult) -> float | Sequence[float]:
        trial.set_user_attr(EPOCHS, result.epochs)
        trial.set_user_attr(METRICS_KEPT, {"epoch": result.kept_epoch} | _shown(result.kept))
        self._set_constraint(trial, result.kept)
        values = [goal.value(result.kept) for goal in self.plan.goals]
        return values[0] if len(values) == 1 else values

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[trial.number]


def leaves_to_another(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Whether another trial of the same training has come to its end, or is the one that will."""
    for sibling in siblings(trial, trials):
        if sibling.state in (TrialState.RUNNING, TrialState.WAITING):
            if sibling.number < trial.number:
                return True
        elif sibling.state != TrialState.FAIL or REASON in sibling.user_attrs:
            return True
    return False


def _shown(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that a study's table shows, without those of single classes, and without what is not a number."""
    return {
        name: value for name, value in metrics.items()
        if name.startswith(("train/", "val/")) and not name.startswith("val/iou/") and value == value
    }  # fmt: skip
