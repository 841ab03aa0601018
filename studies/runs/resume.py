"""Going on with a training that was stopped: which one, and with the configuration it was begun with."""

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
from studies.runs.identity import IDENTITY, identity
from studies.runs.start import load_data, starting_model
from studies.tracking import FoundRun

AUTO = "auto"


class Resumption(NamedTuple):
    """What to go on with."""

    config: TrainConfig
    run_id: str | None
    """None if nothing of this configuration was stopped."""
    data: Data | None
    """Its splits, if they had to be loaded to find it."""


def find(config: TrainConfig) -> Resumption:
    """Look for what `config.resume` names.

    Raises:
        InputError: that run cannot be gone on with, or was begun with other values than those that are given now.
    """
    assert config.resume is not None
    if config.resume != AUTO:
        return Resumption(_as_begun(config, config.resume), config.resume, None)
    config = resolve_normalization(replace(config, resume=None))
    data = load_data(config)
    network, _ = starting_model(config, data.train)
    for run in tracking.runs_tagged(IDENTITY, identity(config, data, network)):
        if can_go_on(run, Path(config.checkpoint_dir)):
            print(f"Going on with run {run.run_id} ({run.name}).")
            return Resumption(config, run.run_id, data)
        if run.status == "RUNNING" and not run.study and run.is_dead() is None:
            print(
                f"Run {run.run_id} is said to be under way elsewhere. If its process is dead, go on with it by "
                f"resume={run.run_id}."
            )
    print("Nothing of this configuration was stopped that can be gone on with here: a new run begins.")
    return Resumption(config, None, data)


def can_go_on(run: FoundRun, checkpoint_dir: Path) -> bool:
    """Whether a training was stopped, and its checkpoint is here, or it had not come to its first.

    A trial's run belongs to its study, which may resume it at any time: no other command does.
    """
    if run.study:
        return False
    stopped = run.status in ("KILLED", "FAILED") or (run.status == "RUNNING" and run.is_dead() is True)
    return stopped and (last_checkpoint(run.run_id, checkpoint_dir).is_file() or not tracking.logged_epochs(run.run_id))


def last_checkpoint(run_id: str, checkpoint_dir: Path) -> Path:
    """Where a training keeps the state that it can go on from."""
    return checkpoint_dir / run_id / "last.pt"


def _as_begun(config: TrainConfig, run_id: str) -> TrainConfig:
    run = tracking.find_run(run_id)
    if run is None or run.kind != "train":
        raise InputError(f"resume={run_id} is not the ID of a training's run, nor auto")
    if run.status == "FINISHED":
        raise InputError(_finished(config, run_id))
    if run.study:
        raise InputError(
            f"resume={run_id}: that run is a trial of study {run.study!r}, which resumes it itself: give the study's "
            f"command again. To train its setting to the end by itself, begin a new run with the same fields"
        )
    if run.status == "RUNNING" and run.is_dead() is False:
        raise InputError(f"resume={run_id}: that training is still under way, in process {run.process['pid']}")
    file = last_checkpoint(run_id, Path(config.checkpoint_dir))
    if file.is_file():
        begun: Mapping[str, Any] = checkpoints.load(file).config
    elif tracking.logged_epochs(run_id):
        raise InputError(f"resume={run_id}: its checkpoint {file} is not there; name the right checkpoint_dir")
    else:
        begun = tracking.stored_config(run_id)
    return merged(config, begun)


def _finished(given: TrainConfig, run_id: str) -> str:
    """What to say of a training that has finished, with the command that trains its model further in a new run."""
    begun = tracking.stored_config(run_id)
    known = {field.name: field.default for field in fields(TrainConfig)}
    typed = {
        name: value
        for name, value in asdict(given).items()
        if name in known and (value != known[name] if given.typed is None else name in given.typed)
    }
    values = {name: begun.get(name, default) for name, default in known.items()} | typed | {"resume": None}
    values["weights"] = f"runs:/{run_id}"
    if not begun.get("log_model", True):
        values["weights"] = str(last_checkpoint(run_id, Path(given.checkpoint_dir)).with_name("best.pt"))
    return (
        f"resume={run_id}: that training has finished after its {begun.get('epochs')} epochs. To train its model "
        f"further, begin a new run with its weights:\n  {here('train', values)}"
    )


def merged(given: TrainConfig, begun: Mapping[str, Any]) -> TrainConfig:
    """The configuration that a training was begun with, and what may be different now, if it was given.

    Args:
        given: what was typed now; where that is not known, a field that has its default was not typed.
        begun: the fields of the training that is to go on.

    Raises:
        InputError: a field is given that would make it another training.
    """
    values, defaults = asdict(given), {field.name: field.default for field in fields(given)}
    matters, changed = decisive(values), []
    for name, was in begun.items():
        if name not in values or name in ("resume", "checkpoint_dir", "records"):
            continue
        now = values[name]
        if now is None:  # of a field that a recipe sets, if one was given
            now = RECIPES[given.recipe].get(name)
        typed = now != defaults[name] and not (name == "data_dir" and Path(now) in _default_folders())
        if given.typed is not None:
            typed = name in given.typed or (
                given.recipe != begun.get("recipe", "none") and name in RECIPES[given.recipe]
            )
        if not typed:
            values[name] = was
        elif name in matters and now != was:
            changed.append(f"{name}={was!r}, now {now!r}")
    if changed:
        raise InputError(
            f"run {given.resume} was begun with {listed(changed)}: leave out what you gave beside resume, or begin a "
            f"new run"
        )
    try:
        return type(given)(**values | {"resume": None})
    except TypeError as error:
        raise InputError(f"run {given.resume} was begun with {json.dumps(dict(begun))}, which fits no more") from error


def _default_folders() -> set[Path]:
    """What the folder `.` may have become: `mlflow run` gives it as the one that itself was started in."""
    found = {Path.cwd()}
    if "MLFLOW_RUN_ID" in os.environ:
        with suppress(psutil.Error):
            found |= {Path(parent.cwd()) for parent in psutil.Process().parents()[:2]}
    return found
