"""Runs of all folds of a setting: their configurations, and the record of a cross-validation."""

from collections.abc import Mapping, Sequence

from studies import tracking
from studies.scores import folds as summary
from studies.scores.folds import Setting, fold_run
from studies.scores.stored import StoredScores, find_runs


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
