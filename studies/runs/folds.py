"""Runs of all folds of a setting: their configurations, and the record of a cross-validation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from studies import tracking
from studies.config import TrainConfig, trains_all_folds
from studies.scores import folds as summary
from studies.scores.folds import Setting, fold_run
from studies.scores.stored import StoredScores, find_runs


def folds_trained(config: TrainConfig) -> int:
    """Return the number of runs of a setting: the number of folds if all are trained, else 1."""
    return config.folds if config.folds is not None and config.fold is None else 1


def each_fold(config: TrainConfig) -> Iterator[TrainConfig]:
    """Yield the configuration of every run of a setting: one for each fold, or the setting itself without folds."""
    if not trains_all_folds(config):
        yield config
        return
    for fold in range(folds_trained(config)):
        yield replace(config, fold=fold, run_name=config.run_name and f"fold {fold} · {config.run_name}")


def record_folds(runs: Mapping[str, Mapping[int, str]], folds: int, split: str) -> Sequence[Setting]:
    """Record the cross-validation of several settings in the open MLflow run, and print it.

    Args:
        runs: IDs of the finished runs by setting and fold.
        folds: number of folds.
        split: name of the split that is a fold.
    """
    settings = [
        Setting(name, {fold: _fold_run(run_id, split) for fold, run_id in of_setting.items()})
        for name, of_setting in runs.items()
        if of_setting
    ]
    tracking.log_tags({"compared_runs": ",".join(run_id for each in runs.values() for run_id in each.values())})
    markdown = "\n".join(summary.markdown(settings, folds))
    tracking.log_table(markdown, "comparison/folds.md")
    tracking.log_table(summary.csv(settings), "comparison/folds.csv")
    tracking.log_json(summary.record(settings, folds), "comparison/folds.json")
    tracking.log_note(markdown)
    print(f"\n{summary.explanation(folds)}")
    for sentence in summary.sentences(settings):
        print(sentence)
    return settings


def _fold_run(run_id: str, split: str) -> summary.FoldRun:
    (run,) = find_runs(run_id, split)
    stored = StoredScores(run, split)
    return fold_run(run_id, stored.scores(list(stored.digests)))
