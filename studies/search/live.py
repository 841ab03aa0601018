"""How a study gets on, as a line and as a bar that moves."""

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
from studies.search import space as spaces
from studies.search.plan import EPOCHS, Plan, best_trial, counted, in_state, spent
from studies.search.samplers import RETRY_OF
from studies.search.storage import REASON, WORKER

SECONDS_A_TRIAL = 0.05
"""So long, for each trial there is, the table of all is not written again: it grows with them, and so does its cost."""
ENDED = {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


class Live:
    """A bar that counts training epochs, on a terminal only, and a line for every trial that ends."""

    def __init__(
        self, study: Study, plan: Plan, when_one_ends: Callable[[], None], workers: Collection[int] = ()
    ) -> None:
        """Begin.

        Args:
            study: what to look at.
            plan: what it is to do.
            when_one_ends: called when trials of these workers have ended, but not all the time.
            workers: process ids of this machine; none stands for this process.
        """
        self._study, self._plan, self._when_one_ends = study, plan, when_one_ends
        self._workers, self._not_before = workers or (os.getpid(),), 0.0
        self._told = {trial.number for trial in in_state(counted(study), *ENDED)}
        self._out = sys.stdout  # not what a training's own lines are led to meanwhile
        self._bar = tqdm(
            total=plan.most_epochs(study), initial=spent(study), unit=" epochs", file=sys.stderr, disable=None,
            leave=False, bar_format="{percentage:3.0f}% {bar:20} {n}/{total} epochs, {remaining} left; {desc}",
        )  # fmt: skip

    def __enter__(self) -> Self:
        self.show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.show()
        self._bar.close()

    def show(self) -> None:
        """Look at the study, move the bar, and print the trials that have ended since."""
        new = [trial for trial in in_state(counted(self._study), *ENDED) if trial.number not in self._told]
        for trial in new:
            self._told.add(trial.number)
            with tqdm.external_write_mode(self._out):
                print(self._line(trial), file=self._out, flush=True)
        if any(self._is_ours(trial) for trial in new) and time.monotonic() >= self._not_before:
            self._when_one_ends()
            self._not_before = time.monotonic() + SECONDS_A_TRIAL * len(self._told)
        self._bar.total = self._plan.most_epochs(self._study)
        self._bar.n = spent(self._study)
        self._bar.set_description_str(_counts(self._study, self._plan))

    def _is_ours(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get(WORKER)
        return worker is not None and is_here(worker) and worker["pid"] in self._workers

    def _line(self, trial: FrozenTrial) -> str:
        line = f"trial {trial.number}, {spaces.described(self._plan.values(trial))}: "
        if RETRY_OF in trial.user_attrs:
            line = line.replace(",", f" (going on with trial {trial.user_attrs[RETRY_OF]}),", 1)
        if trial.state != TrialState.COMPLETE:
            reason = trial.user_attrs.get(REASON, "its worker died")
            return line + (reason if trial.state == TrialState.PRUNED else f"failed: {reason}")
        line += ", ".join(
            f"{goal.metric} {value:.4f}" for goal, value in zip(self._plan.goals, trial.values, strict=True)
        )
        best = best_trial(self._study, self._plan)
        best_so_far = len(self._plan.goals) == 1 and best is not None and best.number == trial.number
        broken = [limit for limit, excess in trial.constraints.items() if excess > 0]
        return line + (f", breaks {broken[0]}" if broken else "") + (", best so far" if best_so_far else "")


def progress_in_words(study: Study, plan: Plan) -> str:
    """How many trials have ended and how, the best, and the epochs used up."""
    epochs = f"{spent(study)} of {plan.most_epochs(study)} training epochs"
    return f"{_counts(study, plan)}; {epochs}."


def _counts(study: Study, plan: Plan) -> str:
    trials = counted(study)
    words = [f"{len(in_state(trials, state))} {word}" for state, word in ENDED.items()]
    waiting = [trial for trial in in_state(trials, TrialState.WAITING) if trial.user_attrs.get(EPOCHS)]
    if waiting:
        words.append(f"{len(waiting)} waiting to go on")
    if at_work := len(in_state(trials, TrialState.RUNNING)):
        words.append(f"{at_work} running")
    best = best_trial(study, plan)
    if best is not None:
        words.append(f"best {plan.goals[0].metric} {best.values[0]:.4f} (trial {best.number})")
    return ", ".join(words)
