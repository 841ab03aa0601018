"""Several settings trained side by side, as one MLflow run that compares them, with the trainings under it."""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

from segmentation.config import DataConfig
from segmentation.errors import DivergedError, InputError, listed, one_of
from segmentation.fields import read_value
from studies import tracking
from studies.base.rerun import command
from studies.config import ModelsConfig, RecordConfig, TrainConfig, settled
from studies.models.starting_weights import resolve_normalization
from studies.runs.comparison import record_comparison
from studies.runs.identity import IDENTITY, identity
from studies.runs.names import run_name
from studies.runs.resume import can_go_on, last_checkpoint
from studies.runs.start import load_data, starting_model
from studies.runs.training import run_training
from studies.scores.stored import StoredScores, find_runs
from studies.tracking import FoundRun

MAY_DIFFER = {field.name for field in fields(TrainConfig)} - {
    field.name for group in (DataConfig, RecordConfig) for field in fields(group)
} - {"seed", "device"} | {"patience", "keep"}  # fmt: skip
"""Fields that a variant may name; in all others the trainings must agree, or could not be compared."""
NAMED = ("model", "weights", "recipe", "learning_rate", "weight_decay")
"""Fields that every run's name tells."""
EXAMPLES = 4
"""Images shown side by side, at most."""


class Training(NamedTuple):
    """One setting with one seed."""

    config: TrainConfig
    identity: str

    def done(self) -> FoundRun | None:
        """The newest finished run of this very training whose scores and model have arrived, if there is one."""
        finished = (run for run in self._runs() if run.status == "FINISHED")
        return next((run for run in finished if tracking.has_arrived(run, self.config.val_split)), None)

    def begun(self) -> FoundRun | None:
        """The newest run that was stopped in the middle of this training and whose checkpoint is here.

        A finished run whose scores or model have not arrived is one, too: from its checkpoint they are made again.
        """
        place = Path(self.config.checkpoint_dir)
        for run in self._runs():
            finished = run.status == "FINISHED" and not run.study and last_checkpoint(run.run_id, place).is_file()
            if finished or can_go_on(run, place):
                return run
        return None

    def _runs(self) -> list[FoundRun]:
        return tracking.runs_tagged(IDENTITY, self.identity)


def run_models(config: ModelsConfig) -> list[str]:
    """Train every variant that was not trained before, compare them all, and print where to look.

    Returns:
        The ids of the trainings' runs, in the order of the variants and then of the seeds.

    Raises:
        InputError: what the user can mend. What is trained is kept: the same command goes on from there.
    """
    tracking.keep_records_in(config.records)
    configs = list(trainings(config))
    tags = {"kind": "models", "dataset": config.dataset, "variants": config.variants}
    name = config.run_name or f"models · {config.dataset} · {_counted(len(configs), 'training')}"
    with tracking.tracked_run(config.experiment, name, tags) as parent:
        tracking.log_config(config, leave_out=("model", "weights", "recipe"))
        print(f"Models {parent}: {_counted(len(configs), 'training')}, then their comparison.")
        wanted = [_training(each) for each in configs]  # what is wrong with any is told before hours of training
        run_ids, diverged = [], []
        for place, each in enumerate(wanted):
            print(f"\n{place + 1} of {len(wanted)}: {each.config.run_name}")
            try:
                run_ids.append(_trained(each, parent, retrain=config.retrain))
            except DivergedError as error:
                print(f"Diverged: {error}")
                diverged.append(f"{each.config.run_name}: {error}")
            except KeyboardInterrupt:
                print(f"Stopped in training {place + 1} of {len(wanted)}. The same command goes on from here.")
                raise
        if len(run_ids) > 1:
            stored = [StoredScores(run, config.val_split) for run in find_runs(",".join(run_ids), config.val_split)]
            record_comparison(stored, min(config.examples, EXAMPLES))
        if diverged:
            raise InputError(f"{_counted(len(diverged), 'training')} diverged: {listed(diverged)}")
    ids = ",".join(run_ids)
    print(f"To write it all up:\n  {command('report', {'run_ids': parent})}\nTo compare further runs with these:")
    print(f"  {command('compare', {'run_ids': ids})},…")
    print(tracking.where_to_look(parent))
    return run_ids


def trainings(config: ModelsConfig) -> Iterator[TrainConfig]:
    """The configuration of every training that `variants` and `seeds` ask for.

    Raises:
        InputError: a variant is not understood, is there twice, or cannot be compared with the others.
    """
    variants: dict[TrainConfig, str] = {}
    for text in filter(None, (part.strip() for part in config.variants.split(","))):
        try:
            changes = _differing(text)
            variant = settled(config, changes)
        except InputError as error:
            raise InputError(f"variants: {text!r}: {error}") from None
        if variant in variants:
            raise InputError(f"variants: {text!r} is there twice")
        further = [f"{name} {value}" for name, value in changes.items() if name not in NAMED]
        variants[variant] = " · ".join([run_name(variant), *further])
    if len(variants) * config.seeds < 2:
        raise InputError(
            f"variants={config.variants!r} and seeds={config.seeds} are {_counted(len(variants), 'training')}: name at "
            f"least two variants, with commas between, or give seeds=2"
        )
    for variant, name in variants.items():
        for seed in range(config.seed, config.seed + config.seeds):
            told = f"{name} · seed {seed}" if config.seeds > 1 else name
            yield replace(variant, seed=seed, run_name=told)


def _differing(text: str) -> dict[str, object]:
    """What a variant changes: `fcn_resnet50 weights=coco` names a network, and fields with their values."""
    changes: dict[str, object] = {}
    for place, word in enumerate(text.split()):
        name, equals, value = word.partition("=")
        if not equals:
            if place:
                raise InputError(f"{word!r} is not understood; after the network come fields, as in weights=coco")
            name, value = "model", word
        if name in changes:
            raise InputError(f"{name} is given twice")
        name = one_of("field", name, sorted(MAY_DIFFER))
        changes[name] = read_value(TrainConfig, name, value)
    return changes


def _training(config: TrainConfig) -> Training:
    config = resolve_normalization(config)
    data = load_data(config)
    network, _ = starting_model(config, data.train)
    return Training(config, identity(config, data, network))


def _trained(training: Training, parent: str, retrain: bool) -> str:
    """The run of a training: one that is there, one gone on with, or a new one."""
    done = None if retrain else training.done()
    if done is not None:
        print(f"Trained already, in run {done.run_id} ({done.name}): configuration, data and code are the same.")
        return done.run_id
    begun = None if retrain else training.begun()
    name = str(training.config.run_name)
    if begun is None:
        run_id = tracking.create_run(training.config.experiment, name, {}, parent)
    else:
        run_id = begun.run_id
        if begun.status == "FINISHED":
            print(f"Run {run_id} ({begun.name}) has finished, but MLflow lacks its scores or its model: made again.")
        tracking.describe_run(run_id, name, {"mlflow.parentRunId": parent})
    return run_training(training.config, run_id).run_id


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
