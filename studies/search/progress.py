"""Progress of a running study: a bar on terminals, and one line for each trial that ends."""

import os
import sys
import time
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Self

from optuna import Study
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from segmentation.system.processes import is_here
from studies.search.budget import epochs_used, max_epochs
from studies.search.plan import Plan
from studies.search.space import describe_values
from studies.search.summary import state_counts
from studies.search.trials import RETRY_OF, STATES, best_trial, counted_trials, in_state, reason_of, worker_of

SECONDS_PER_TRIAL = 0.05
"""Minimum pause between two calls of `on_trial_end`, for each trial of the study: writing the table costs as much."""


class StudyProgress:
    """Progress bar in epochs, on terminals only, and a printed line for each trial that ends."""

    def __init__(
        self, study: Study, plan: Plan, on_trial_end: Callable[[], None], workers: Collection[int] = ()
    ) -> None:
        """Start the bar.

        Args:
            study: the study to watch.
            plan: its plan.
            on_trial_end: called when trials of these workers have ended, at most every `SECONDS_PER_TRIAL` per trial.
            workers: process IDs on this machine; by default this process.
        """
        self._study, self._plan, self._on_trial_end = study, plan, on_trial_end
        self._workers, self._not_before = workers or (os.getpid(),), 0.0
        self._printed = {trial.number for trial in in_state(counted_trials(study), *STATES)}
        self._out = sys.stdout  # a trial redirects stdout while it trains
        self._started, self._at_start, self._announced = time.monotonic(), epochs_used(study), False
        self._bar = tqdm(
            total=max_epochs(study, plan), initial=epochs_used(study), unit=" epochs", file=sys.stderr, disable=None,
            leave=False, bar_format="{percentage:3.0f}% {bar:20} {n}/{total} epochs, {remaining} left; {desc}",
        )  # fmt: skip

    def __enter__(self) -> Self:
        self.update()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.update()
        self._bar.close()

    def update(self) -> None:
        """Read the study, move the bar, and print the trials that have ended since the last call."""
        new = [trial for trial in in_state(counted_trials(self._study), *STATES) if trial.number not in self._printed]
        lines = [self._line(trial) for trial in new]
        self._printed.update(trial.number for trial in new)
        left = time_left(self._study, self._plan, self._at_start, time.monotonic() - self._started)
        if left is not None and (new or not self._announced):
            self._announced = True
            lines.append(left)
        for line in lines:
            with tqdm.external_write_mode(self._out):
                print(line, file=self._out, flush=True)
        if any(self._is_ours(trial) for trial in new) and time.monotonic() >= self._not_before:
            self._on_trial_end()
            self._not_before = time.monotonic() + SECONDS_PER_TRIAL * len(self._printed)
        self._bar.total = max_epochs(self._study, self._plan)
        self._bar.n = epochs_used(self._study)
        self._bar.set_description_str(state_counts(self._study, self._plan))

    def _is_ours(self, trial: FrozenTrial) -> bool:
        worker = worker_of(trial)
        return bool(worker) and is_here(worker) and worker["pid"] in self._workers

    def _line(self, trial: FrozenTrial) -> str:
        resumed = f" (resumes trial {trial.user_attrs[RETRY_OF]})" if RETRY_OF in trial.user_attrs else ""
        line = f"trial {trial.number}{resumed}, {describe_values(self._plan.values(trial))}: "
        if trial.state != TrialState.COMPLETE:
            reason = reason_of(trial, "its worker died")
            return line + (reason if trial.state == TrialState.PRUNED else f"failed: {reason}")
        line += ", ".join(
            f"{objective.metric} {value:.4f}"
            for objective, value in zip(self._plan.objectives, trial.values, strict=True)
        )
        best = best_trial(self._study)
        is_best = len(self._plan.objectives) == 1 and best is not None and best.number == trial.number
        violated = [constraint for constraint, violation in trial.constraints.items() if violation > 0]
        return line + (f", violates {violated[0]}" if violated else "") + (", best so far" if is_best else "")


def time_left(study: Study, plan: Plan, at_start: int, seconds: float) -> str | None:
    """What a study has done, what is left, and how long it takes at the present speed; None before the first epoch.

    Args:
        study: the study.
        plan: its plan.
        at_start: number of epochs that were used when this process started.
        seconds: since then.
    """
    used, most = epochs_used(study), max_epochs(study, plan)
    if used <= at_start or plan.is_open_ended:
        return None
    ended = len(in_state(counted_trials(study), *STATES))
    left = max(0, most - used)
    return (
        f"  {ended} trial{'' if ended == 1 else 's'} and {used} of at most {most} epochs done, {left} left: at most "
        f"{duration(left * seconds / (used - at_start))}"
    )


def duration(seconds: float) -> str:
    """A duration in hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d} h" if minutes >= 60 else f"{minutes}:{rest:02d} min"
