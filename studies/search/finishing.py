"""Draws the plots of a study's best trial and logs its model, from its checkpoint, once the study is complete."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from optuna import Study
from optuna.trial import FrozenTrial

from studies.runs.start import load_data
from studies.runs.training import complete_run
from studies.search.plan import Plan
from studies.search.trials import RUN, best_trial

FINISHED = "finished_run"
"""Attribute of a study: ID of the run of the best trial whose plots are drawn and whose model is logged."""
LOCK = ".finishing"
"""File in the run's folder of checkpoints that one process at a time holds. The lock of a dead process is free."""


def finish_best(study: Study, plan: Plan) -> None:
    """Draw the plots of the best trial and log its model, unless another process does or has done it.

    Trials leave both out: they cost more time than a short trial. If this process dies meanwhile, the next call does
    all of it again.
    """
    best = best_trial(study)
    if best is None or not plan.finishes_best or _is_finished(study, best):
        return
    run_id = str(best.user_attrs[RUN])
    folder = Path(plan.base.checkpoint_dir) / run_id
    if not folder.is_dir():
        print(
            f"Plots and model of trial {best.number} are missing: its checkpoint is not in "
            f"checkpoint_dir={plan.base.checkpoint_dir}. Run the same command on the machine that trained it."
        )
        return
    with _only_process(folder / LOCK) as is_only:
        if not is_only:
            print(f"Another process draws the plots and logs the model of trial {best.number}.")
        elif not _is_finished(study, best):  # another process may have finished it since
            what = " and ".join(
                text
                for wanted, text in ((plan.base.plot_every, "its plots"), (plan.base.log_model, "its model"))
                if wanted
            )
            print(f"Trial {best.number} is the best: scoring it and logging {what}.", flush=True)
            config = plan.best_config(plan.values(best))
            complete_run(config, run_id, load_data(config))
            study.set_user_attr(FINISHED, run_id)


def _is_finished(study: Study, best: FrozenTrial) -> bool:
    return bool(study.user_attrs.get(FINISHED) == best.user_attrs[RUN])


@contextmanager
def _only_process(file: Path) -> Iterator[bool]:
    """Hold a lock and yield True, or yield False if another process holds it."""
    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
