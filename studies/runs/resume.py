"""Finds the run that `resume` names, and the configuration to resume it with."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from segmentation.config import RECIPES
from segmentation.errors import InputError, listed
from segmentation.training import checkpoints
from segmentation.training.loop import Data
from studies import tracking
from studies.base.rerun import here
from studies.config import TrainConfig, decisive
from studies.models.starting_weights import resolve_normalization
from studies.runs.start import IDENTITY, identity, load_data, starting_model
from studies.tracking import FoundRun

AUTO = "auto"


class Resumption(NamedTuple):
    """Run to resume, if any, and its configuration."""

    config: TrainConfig
    run_id: str | None
    """None if there is no run to resume."""
    data: Data | None
    """Splits of the run, if they were loaded to find it."""


def find(config: TrainConfig) -> Resumption:
    """Find the run that `config.resume` names.

    Raises:
        InputError: the run cannot be resumed, or was started with other values than those given now.
    """
    assert config.resume is not None
    if config.resume != AUTO:
        return Resumption(_as_started(config, config.resume), config.resume, None)
    config = resolve_normalization(replace(config, resume=None))
    data = load_data(config)
    config = resolve_normalization(config, data.train)
    model, _ = starting_model(config, data.train)
    for run in tracking.runs_tagged(IDENTITY, identity(config, data, model)):
        if can_resume(run, Path(config.checkpoint_dir)):
            print(f"Resuming run {run.run_id} ({run.name}).")
            return Resumption(config, run.run_id, data)
        if run.status == "RUNNING" and not run.study and run.is_dead() is None:
            print(
                f"Run {run.run_id} is marked as running on another machine. If its process is dead, resume it with "
                f"resume={run.run_id}."
            )
    if model.code is not None:
        for run in tracking.runs_tagged("model", config.model):
            if run.model_code not in ("", model.code.checksum) and can_resume(run, Path(config.checkpoint_dir)):
                print(
                    f"Run {run.run_id} ({run.name}) was stopped too, but with other code of model={config.model}; "
                    f"resume={run.run_id} resumes it with its own code."
                )
    print("No stopped run of this configuration can be resumed here: starting a new run.")
    return Resumption(config, None, data)


def can_resume(run: FoundRun, checkpoint_dir: Path) -> bool:
    """Return whether a run was stopped and has its checkpoint here, or was stopped before the first one.

    A trial is resumed by its study only.
    """
    if run.study:
        return False
    stopped = run.status in ("KILLED", "FAILED") or (run.status == "RUNNING" and run.is_dead() is True)
    return stopped and (last_checkpoint(run.run_id, checkpoint_dir).is_file() or not tracking.logged_epochs(run.run_id))


def last_checkpoint(run_id: str, checkpoint_dir: Path) -> Path:
    """Return the path of the checkpoint that a run resumes from; a finished one may have that of its best epoch."""
    best, last = (checkpoint_dir / run_id / name for name in checkpoints.NAMES)
    return best if best.is_file() and not last.is_file() else last


def _as_started(config: TrainConfig, run_id: str) -> TrainConfig:
    run = tracking.find_run(run_id)
    if run is None or run.kind != "train":
        raise InputError(f"resume={run_id} is not the ID of a training run, nor auto")
    if run.status == "FINISHED":
        raise InputError(_finished(config, run_id))
    if run.study:
        raise InputError(
            f"resume={run_id}: that run is a trial of study {run.study!r}; repeat the study's command to resume it. To "
            f"train its setting to the end outside the study, start a new run with the same fields"
        )
    if run.status == "RUNNING" and run.is_dead() is False:
        raise InputError(f"resume={run_id}: that run is still running, in process {run.process['pid']}")
    file = last_checkpoint(run_id, Path(config.checkpoint_dir))
    if file.is_file():
        started: Mapping[str, Any] = checkpoints.load(file).config
    elif tracking.logged_epochs(run_id):
        raise InputError(f"resume={run_id}: its checkpoint {file} does not exist; give the right checkpoint_dir")
    else:
        started = tracking.stored_config(run_id)
    return merged(config, started)


def _finished(given: TrainConfig, run_id: str) -> str:
    """Return the message for a finished run, with the command that trains its model further in a new run."""
    started = tracking.stored_config(run_id)
    known = {field.name: field.default for field in fields(TrainConfig)}
    typed = {
        name: value
        for name, value in asdict(given).items()
        if name in known and (value != known[name] if given.typed is None else name in given.typed)
    }
    values = {name: started.get(name, default) for name, default in known.items()} | typed | {"resume": None}
    values["weights"] = f"runs:/{run_id}"
    if not started.get("log_model", True):
        folder = Path(given.checkpoint_dir) / run_id
        kept = [folder / f"{name}.pt" for name in (started.get("keep", "best"), "best", "last")]
        values["weights"] = str(next((file for file in kept if file.is_file()), kept[0]))
    return (
        f"resume={run_id}: that run has finished after {started.get('epochs')} epochs. To train its model further, "
        f"start a new run from its weights:\n  {here('train', values)}"
    )


def merged(given: TrainConfig, started: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration that a run was started with, updated by the given fields that may change.

    Args:
        given: the configuration given now. If it is unknown which fields were typed, those with defaults were not.
        started: the configuration of the run to resume.

    Raises:
        InputError: a given field would change the result of the run.
    """
    values, defaults = asdict(given), {field.name: field.default for field in fields(given)}
    matters, changed = decisive(values), []
    for name, was in started.items():
        if name not in values or name in ("resume", "checkpoint_dir", "records"):
            continue
        now = values[name]
        if now is None:  # a field that the recipe may set
            now = RECIPES[given.recipe].get(name)
        typed = now != defaults[name] and not (name == "data_dir" and Path(now) in _default_folders())
        if given.typed is not None:
            typed = name in given.typed or (
                given.recipe != started.get("recipe", "none") and name in RECIPES[given.recipe]
            )
        if not typed or (name == "micro_batch" and now == "auto"):
            values[name] = was
        elif name in matters and now != was:
            changed.append(f"{name}={was!r}, now {now!r}")
    if changed:
        raise InputError(f"run {given.resume} was started with {listed(changed)}: give only resume, or start a new run")
    try:
        return type(given)(**values | {"resume": None})
    except TypeError as error:
        raise InputError(
            f"run {given.resume} was started with {json.dumps(dict(started))}, which this version does not support"
        ) from error


def _default_folders() -> set[Path]:
    """Return what the folder `.` may have become: `mlflow run` passes the folder that it was started in."""
    found = {Path.cwd()}
    if "MLFLOW_RUN_ID" in os.environ:
        with suppress(psutil.Error):
            found |= {Path(parent.cwd()) for parent in psutil.Process().parents()[:2]}
    return found
