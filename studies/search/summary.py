"""A study in sentences: its progress, its best trials, further seeds, and the command that trains the best again."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from segmentation.errors import counted, listed
from segmentation.metrics import HEADLINE
from studies.base.rerun import command
from studies.runs.variants import each_fold
from studies.search.budget import epochs_used, max_epochs
from studies.search.constant_model import baseline_lines
from studies.search.folds import STD
from studies.search.objectives import Objective
from studies.search.plan import Plan
from studies.search.space import describe_values, with_values
from studies.search.trials import (
    EPOCHS,
    STATES,
    WARNING,
    best_trial,
    counted_trials,
    in_state,
    kept_metrics,
    pareto_front,
    violation,
)


def progress_line(study: Study, plan: Plan) -> str:
    """Number of trials by state, the best trial, and the epochs used."""
    return f"{state_counts(study, plan)}; {epochs_used(study)} of {max_epochs(study, plan)} epochs."


def state_counts(study: Study, plan: Plan) -> str:
    """Number of trials by state, and the best trial."""
    trials = counted_trials(study)
    parts = [f"{len(in_state(trials, state))} {name}" for state, name in STATES.items()]
    interrupted = [trial for trial in in_state(trials, TrialState.WAITING) if trial.user_attrs.get(EPOCHS)]
    if interrupted:
        parts.append(f"{len(interrupted)} waiting to be resumed")
    if running := len(in_state(trials, TrialState.RUNNING)):
        parts.append(f"{running} running")
    best = best_trial(study)
    if best is not None:
        parts.append(f"best {plan.objectives[0].metric} {best.values[0]:.4f} (trial {best.number})")
    return ", ".join(parts)


def best_lines(study: Study, plan: Plan) -> Iterator[str]:
    """The best trial with its metrics and why it is the best; the trials on the Pareto front; the constant model."""
    best = best_trial(study)
    if best is None:
        yield "No trial is complete."
    else:
        yield f"Best by {best_by(plan)}: {_line(best, plan)}"
        yield from _ties(study, plan, best)
        violated = [constraint for constraint, by in best.constraints.items() if by > 0]
        if violated:
            yield f"No trial meets {violated[0]}: this one is closest."
        if warning := best.user_attrs.get(WARNING):
            yield f"Warning: trial {best.number} {warning}."
        if len(front := pareto_front(study)) > 1:
            yield f"{len(front)} trials on the Pareto front; no other trial is as good in every objective:"
            yield from (f"  {_line(trial, plan)}" for trial in front)
    yield from baseline_lines(study, plan.objectives[0])


def best_by(plan: Plan) -> str:
    """What decides the best trial: the objective, or the first of several."""
    metric = plan.objectives[0].metric
    return metric if len(plan.objectives) == 1 else f"{metric}, the first objective"


def _line(trial: FrozenTrial, plan: Plan) -> str:
    metrics = kept_metrics(trial)
    headline = [f"val/{name}" for name in HEADLINE]
    shown = dict.fromkeys([objective.metric for objective in plan.objectives] + headline)
    # without the interval of the epoch: that of the scored model, which is printed, too, comes from more resamples
    single = {name: value for name, value in metrics.items() if name != "val/ece_low"}
    values = ", ".join(f"{metric} {format_metric(single, metric)}" for metric in shown)
    return f"trial {trial.number}, {describe_values(plan.values(trial))}: {values} (epoch {metrics['epoch']:.0f})."


def _ties(study: Study, plan: Plan, best: FrozenTrial) -> Iterator[str]:
    """That other trials have the same values of the objectives, and what decided between them."""
    done = in_state(counted_trials(study), TrialState.COMPLETE)
    tied = [trial for trial in done if trial.values == best.values and violation(trial) == violation(best)]
    if len(tied) > 1:
        others = listed([str(trial.number) for trial in tied if trial.number != best.number], 10)
        subject = f"Trial {others} has" if len(tied) == 2 else f"Trials {others} have"
        yield (
            f"{subject} the same {' and '.join(objective.metric for objective in plan.objectives)}: the lower "
            f" val/loss decides, then the lower val/ece."
        )


def confirmation_line(confirmed: Study, plan: Plan) -> str:
    """Mean and standard deviation of the objectives over further seeds."""
    parts, seeds = [], 0
    for objective, values in confirmed_values(confirmed, plan):
        seeds = len(values)
        spread = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
        single = ", ".join(f"{value:.4f}" for value in values)
        parts.append(f"{objective.metric} {values.mean():.4f}{spread} ({single})")
    if not parts:
        return "No further seed is complete."
    return f"{counted(seeds, 'further seed')}, mean ± standard deviation: {'; '.join(parts)}."


def confirmed_values(confirmed: Study, plan: Plan) -> Iterator[tuple[Objective, np.ndarray]]:
    """Each objective with its values over the further seeds."""
    done = in_state(counted_trials(confirmed), TrialState.COMPLETE)
    for index, objective in enumerate(plan.objectives if done else ()):
        yield objective, np.array([trial.values[index] for trial in done])


def train_command(plan: Plan, trial: FrozenTrial) -> str:
    """The `train` command with the values of a trial; that of its first fold, if it has several."""
    config = next(each_fold(with_values(plan.base, plan.values(trial))))
    return command("train", asdict(config), always=plan.space)


def format_metric(metrics: Mapping[str, float], metric: str) -> str:
    """A metric with four decimals, with its spread over folds, or its interval if it is the ECE; `–` if missing."""
    if metric not in metrics:
        return "–"
    interval = f" ± {metrics[metric + STD]:.4f}" if metric + STD in metrics else ""
    if metric == "val/ece" and "val/ece_low" in metrics:
        interval = f" [{metrics['val/ece_low']:.4f}, {metrics['val/ece_high']:.4f}]"
    return f"{metrics[metric]:.4f}{interval}"
