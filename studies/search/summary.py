"""A study in sentences: its progress, its best trials, further seeds, and the command that trains the best again."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from segmentation.metrics import HEADLINE
from studies.base.rerun import command
from studies.search.budget import epochs_used, max_epochs
from studies.search.objectives import Objective
from studies.search.plan import Plan
from studies.search.space import describe_values, with_values
from studies.search.trials import EPOCHS, METRICS_KEPT, STATES, best_trial, counted_trials, in_state, pareto_front


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
    """The best trial with its metrics; with several objectives, all trials on the Pareto front."""
    best = best_trial(study)
    if best is None:
        yield "No trial is complete."
        return
    front = pareto_front(study)
    if len(front) > 1:
        yield f"{len(front)} trials on the Pareto front:"
    for trial in front:
        metrics = trial.user_attrs[METRICS_KEPT]
        headline = [f"val/{name}" for name in HEADLINE if name != "loss"]
        shown = dict.fromkeys([objective.metric for objective in plan.objectives] + headline)
        values = ", ".join(f"{metric} {format_metric(metrics, metric)}" for metric in shown)
        start = f"{'Best: ' if len(front) <= 1 else '  '}trial {trial.number}"
        yield f"{start}, {describe_values(plan.values(trial))}: {values} (epoch {metrics['epoch']})."
    violated = [constraint for constraint, violation in best.constraints.items() if violation > 0]
    if violated:
        yield f"No trial meets {violated[0]}: this one is closest."


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
    return f"{seeds} further seed(s), mean ± standard deviation: {'; '.join(parts)}."


def confirmed_values(confirmed: Study, plan: Plan) -> Iterator[tuple[Objective, np.ndarray]]:
    """Each objective with its values over the further seeds."""
    done = in_state(counted_trials(confirmed), TrialState.COMPLETE)
    for index, objective in enumerate(plan.objectives if done else ()):
        yield objective, np.array([trial.values[index] for trial in done])


def train_command(plan: Plan, trial: FrozenTrial) -> str:
    """The `train` command with the values of a trial."""
    config = with_values(plan.base, plan.values(trial))
    return command("train", asdict(config), always=plan.space)


def format_metric(metrics: Mapping[str, float], metric: str) -> str:
    """A metric with four decimals, with its interval if it is the ECE; `–` if it is missing."""
    if metric not in metrics:
        return "–"
    interval = ""
    if metric == "val/ece" and "val/ece_low" in metrics:
        interval = f" [{metrics['val/ece_low']:.4f}, {metrics['val/ece_high']:.4f}]"
    return f"{metrics[metric]:.4f}{interval}"
