"""Cost of a study besides the training of its trials, by number of finished trials, in a journal file."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from benchmarks.growth.series import Series

EPOCHS = 50
"""Epochs that each complete trial has reported."""


def asking(folder: str, size: int) -> Callable[[], None]:
    from studies.search.budget import may_start
    from studies.search.retries import reap
    from studies.search.space import suggest

    study, plan, opened = _study(size)

    def run() -> None:
        reap(study)
        assert may_start(study, plan)
        trial = study.ask()
        suggest(trial, plan.space)
        study.tell(trial, 1.0)
        assert opened is not None

    return run


def reporting(folder: str, size: int) -> Callable[[], None]:
    from segmentation.metrics import METRICS
    from studies.search.space import suggest
    from studies.search.worker import Worker

    study, plan, opened = _study(size)
    worker = Worker(study, plan, parent="", role="search", max_failures=1)
    trial = study.ask()
    suggest(trial, plan.space)
    metrics = {f"val/{name}": 0.0 for name in METRICS}  # better than all others, so never pruned
    epoch = 0

    def run() -> None:
        nonlocal epoch
        epoch += 1
        worker._report_epoch(trial, epoch, metrics)
        assert opened is not None

    return run


PAST = "finished trials"
SERIES = (
    Series("Starting and ending a trial", PAST, "", asking, (10, 100, 1000), (10, 100), calls=5),
    Series("Reporting an epoch", PAST, "", reporting, (10, 100, 1000), calls=5),
)


def _study(trials: int) -> tuple[Any, Any, ExitStack]:
    """A study of that many trials, a third of them complete and the others pruned, its plan, and its open storage."""
    import numpy as np
    import optuna
    from optuna.trial import TrialState, create_trial

    from studies.config import TuneConfig
    from studies.search.plan import make_plan
    from studies.search.pruners import build_pruner
    from studies.search.samplers import SeededByTrial
    from studies.search.storage import open_storage
    from studies.search.trials import EPOCHS as TRAINED

    config = TuneConfig(epochs=EPOCHS, n_trials=10**9, study_name="growth")
    plan = make_plan(config)
    opened = ExitStack()
    storage = opened.enter_context(open_storage(config, config.heartbeat))
    sampler, pruner = SeededByTrial(config.sampler, config.seed, plan.space), build_pruner(config, len(plan.objectives))
    study = optuna.create_study(storage=storage, study_name=plan.name, sampler=sampler, pruner=pruner)
    distributions: dict[str, Any] = {name: dimension.distribution() for name, dimension in plan.space.items()}
    random = np.random.default_rng(0)
    for number in range(trials):
        complete = number % 3 == 0
        losses = random.uniform(0.4, 3.0, EPOCHS if complete else EPOCHS // 5)
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if complete else TrialState.PRUNED,
                value=float(losses[-1]),
                params={name: float(random.uniform(each.low, each.high)) for name, each in distributions.items()},
                distributions=distributions,
                user_attrs={TRAINED: len(losses)},
                intermediate_values={epoch: float(loss) for epoch, loss in enumerate(losses, 1)},
            )
        )  # fmt: skip
    return study, plan, opened
