"""Which run `resume` resumes, with which configuration."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import mlflow
import pytest

import mlproject
from segmentation.errors import InputError
from studies import tracking
from studies.config import QuickStartConfig, TrainConfig
from studies.runs.resume import merged
from tests.conftest import PROJECT, last_run, write_own_data
from tests.faults.training import Training, differences, words
from tests.studies.conftest import Trained

pytestmark = pytest.mark.slow

STARTED = TrainConfig(
    dataset="shapes", epochs=7, learning_rate=0.3, data_dir="/somewhere", device="cpu", recipe="careful"
)


def test_fields_that_are_not_given_keep_their_values() -> None:
    assert merged(TrainConfig(resume="x"), asdict(STARTED)) == STARTED
    assert merged(TrainConfig(resume="x", epochs=7, dataset="shapes"), asdict(STARTED)) == STARTED


def test_a_default_folder_resolved_by_mlflow_does_not_count_as_given() -> None:
    assert merged(TrainConfig(resume="x", data_dir=str(Path.cwd())), asdict(STARTED)).data_dir == "/somewhere"


def test_fields_without_effect_on_the_result_may_change() -> None:
    given = TrainConfig(resume="x", data_dir="/elsewhere", device="cuda", checkpoint_dir="moved", plot_every=3)
    changed = {"data_dir": "/elsewhere", "device": "cuda", "checkpoint_dir": "moved", "plot_every": 3}
    assert merged(given, asdict(STARTED)) == replace(STARTED, **changed)


def test_fields_with_effect_on_the_result_may_not_change() -> None:
    with pytest.raises(InputError, match=r"run x was started with learning_rate=0.3, now 0.2, seed=0, now 5: give"):
        merged(TrainConfig(resume="x", learning_rate=0.2, seed=5), asdict(STARTED))


@pytest.mark.parametrize("given", [{"freeze_backbone": 0}, {"backbone_learning_rate_factor": 1.0}])
def test_fields_of_a_recipe_count_as_given(given: dict[str, float]) -> None:
    (name, value), was = *given.items(), {"freeze_backbone": 3, "backbone_learning_rate_factor": 0.1}
    with pytest.raises(InputError, match=rf"run x was started with {name}={was[name]}, now {value}: give"):
        merged(TrainConfig(resume="x", **given), asdict(STARTED))
    with pytest.raises(InputError, match=r"started with freeze_backbone=0, now 3: give"):
        merged(TrainConfig(resume="x", recipe="head_first"), asdict(replace(STARTED, recipe="none", freeze_backbone=0)))


def test_typed_fields_count_as_given_even_with_their_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"run x was started with epochs=7, now 50, learning_rate=0.3, now 0.01: give"):
        merged(typed("--resume=x", "--learning-rate=0.01", "--epochs", "50"), asdict(STARTED))
    with pytest.raises(InputError, match=r"started with freeze_backbone=3, now 0: give"):
        merged(typed("--resume", "x", "--freeze_backbone", "0"), asdict(STARTED))
    assert merged(typed("--resume", "x", "--data_dir", "."), asdict(STARTED)).data_dir == "."
    assert merged(typed("--resume", "x", "--recipe", "careful", "--epochs", "7"), asdict(STARTED)) == STARTED
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)  # where MLproject's own defaults are typed, too
    assert merged(typed("--resume=x", "--learning_rate=0.01", "--epochs", "50"), asdict(STARTED)) == STARTED


def typed(*arguments: str) -> TrainConfig:
    found = mlproject.parse(TrainConfig, arguments, "train")
    assert isinstance(found, TrainConfig)
    return found


def test_a_run_of_an_older_version_keeps_its_configuration() -> None:
    older = asdict(TrainConfig(weights="imagenet", normalization="signed_unit"))
    del older["deterministic"]
    found = merged(TrainConfig(resume="x"), older)
    assert (found.normalization, found.deterministic) == ("signed_unit", False)


def test_defaults_of_the_quick_start_do_not_count_as_given() -> None:
    started = QuickStartConfig(epochs=3)
    assert merged(QuickStartConfig(resume="x"), asdict(started)) == started
    assert asdict(merged(TrainConfig(resume="x"), asdict(started))) == asdict(started)


EPOCHS = 12


@pytest.mark.parametrize(("number", "processes"), [("SIGUSR1", 1), ("SIGTERM", 2)])
def test_a_terminated_run_prints_the_command_that_resumes_it(
    number: str, processes: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"data_dir": write_own_data(tmp_path, 24), "epochs": EPOCHS, "processes": processes}
    fields |= {"log_model": False, "plot_every": EPOCHS}
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "mlproject.py"), *words(**fields)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    run_id = next(line for line in process.stdout if line.startswith("Run ")).split()[1].rstrip(":")
    while "epoch 2/" not in process.stdout.readline():
        pass
    os.killpg(process.pid, signal.Signals[number])  # all of them, as a terminal or a scheduler does
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"Stopped: {number}" in errors
    assert f"python {PROJECT / 'mlproject.py'} train --resume {run_id}\n" in said
    run = mlflow.get_run(run_id)
    assert run.info.status == "KILLED"
    assert run.data.tags["status_reason"] == f"killed by {number}"
    first, *others = run.data.tags["mlflow.note.content"].splitlines()
    assert first == f"**Stopped:** killed by {number}"
    assert others[:4] == ["", "To resume it:", "```", f"python {PROJECT / 'mlproject.py'} train --resume {run_id}"]
    assert "curves/loss.png" in {file.path for file in mlflow.MlflowClient().list_artifacts(run_id, "curves")}

    if processes == 1:  # as `mlflow run` starts it: in a run of its own
        monkeypatch.setenv("MLFLOW_RUN_ID", mlflow.MlflowClient().create_run("0").info.run_id)
    assert mlproject.main(["train", f"--resume={run_id}"]) == 0
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    said = capsys.readouterr().out
    assert f"of {EPOCHS}." in said
    assert "epoch 1/" not in said
    points = mlflow.MlflowClient().get_metric_history(run_id, "val/loss")
    assert [point.step for point in points] == list(range(1, EPOCHS + 1))
    run = mlflow.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert "status_reason" not in run.data.tags
    below = mlflow.MlflowClient().search_runs(["0"], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert [each.info.status for each in below] == ["FINISHED"] * (processes == 1), "what `mlflow run` has opened"
    assert mlproject.main(["train", f"--resume={run_id}"]) == 1
    assert "that run has finished" in capsys.readouterr().err


def test_a_finished_run_prints_the_command_that_trains_its_model_further(
    two_seeds: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = two_seeds.run_ids[0]
    assert mlproject.main(["train", f"--resume={run_id}", "--epochs=1"]) == 1
    refusal = capsys.readouterr().err
    assert f"resume={run_id}: that run has finished after 4 epochs" in refusal
    (command,) = [line for line in refusal.splitlines() if " train " in line and "mlproject.py" in line]
    words = shlex.split(command)
    assert (
        mlproject.main(
            [*words[words.index("train") :], "--log_model=False", "--register_as=None", "--experiment=further"]
        )
        == 0
    )
    further = last_run()
    started, now = (mlflow.artifacts.load_dict(f"runs:/{each}/config.json") for each in (run_id, further.info.run_id))
    changed = {name: value for name, value in now.items() if value != started[name]}
    assert changed.items() >= {"epochs": 1, "weights": f"runs:/{run_id}"}.items()
    assert changed.keys() <= {"epochs", "weights", "log_model", "experiment", "register_as", "alias"}
    assert further.info.run_id != run_id
    assert mlflow.artifacts.load_dict(f"runs:/{further.info.run_id}/starting_weights.json")["fresh"] == []


def test_a_running_run_is_not_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    run_id = tracking.create_run("e", "n", {"kind": "train"})
    assert mlproject.main(["train", f"--resume={run_id}"]) == 1
    assert f"still running, in process {os.getpid()}" in capsys.readouterr().err
    tracking.end_run(run_id, "FINISHED")


@pytest.mark.parametrize(("resume", "message"), [("nonsense", "is not the ID"), ("0" * 32, "is not the ID")])
def test_a_name_that_is_not_a_training_run_is_refused(
    resume: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mlproject.main(["train", f"--resume={resume}"]) == 1
    assert message in capsys.readouterr().err


def test_a_run_without_its_checkpoint_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with tracking.tracked_run("e", "n", {"kind": "train"}) as run_id:
        tracking.log_metrics({"val/loss": 1.0}, step=1)
    tracking.end_run(run_id, "KILLED", "by this test")
    assert mlproject.main(["train", f"--resume={run_id}"]) == 1
    assert "right checkpoint_dir" in capsys.readouterr().err


def test_a_killed_and_resumed_run_has_the_metrics_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tests.faults.kills` does the same at many random moments, and starts a process for every run."""
    alone, killed = (
        Training(tmp_path / name, epochs=12, log_model=False, plot_every=0) for name in ("alone", "killed")
    )

    def train(training: Training, *more: str) -> None:
        monkeypatch.chdir(training.place)
        for name, value in training.environment.items():
            monkeypatch.setenv(name, value)
        with (training.place / "said").open("a") as said, contextlib.redirect_stdout(said):
            assert mlproject.main([*words(**training.fields), *more]) == 0

    process = killed.start("--resume=auto")
    while killed.epochs_done() < 2:
        assert process.poll() is None, killed.said()
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert killed.epochs_done() < 12
    train(alone)
    train(killed, "--resume=auto")
    assert killed.epochs_done() < 24
    assert differences(alone, killed) == []
