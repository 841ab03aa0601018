"""The run that `mlflow run` has opened, when the command records nothing in it."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

import mlproject
from studies.base.opened_run import summary
from tests.conftest import PROJECT


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> str:
    """The ID of a run as `mlflow run` opens it."""
    run_id = mlflow.MlflowClient().create_run("0", run_name="ugly-slug-7").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    return str(run_id)


@pytest.mark.parametrize(
    ("arguments", "name", "reason"),
    [
        (["trian"], "not started: command='trian' is not known", "Did you mean 'train'?"),
        (["train", "--epochs", "ten"], "not started: epochs='ten' is not a whole number, such as 50", "epochs='ten'"),
        (["train", "--epochs", "0", "--model", "x"], "not started: model='x' is not known", "epochs=0 is too small"),
        (["train", "--lr", "1"], "not started: --lr is not a field of train", "--learning_rate?"),
        (["train", "--learning_rat", "1"], "not started: --learning_rat is not a field of train", "--learning_rate?"),
        (["train", "--crop", "200"], "not started: crop=200 is larger than resize=128", "set crop to at most 128"),
        (["train", "--dataset=folder", "--data_dir=/nowhere"], "not started: data_dir=/nowhere does not exist", "data"),
        (["train", "--resume", "abc"], "not started: resume=abc is not the ID of a training run, nor auto", "resume"),
        (["evaluate", "--model_uri", "x"], "not started: 'x' is no", "'x'"),
        (["compare", "--run_ids", "abc,abd"], "not started: run_ids", "'abc' is not a run ID"),
        (["report", "--run_ids", "abc"], "not started: run_ids", "'abc' is not a run ID"),
        (["predict", "--model_uri=x", "--images=none.png"], "not started: images=", "none.png"),
        (["status"], "status: storage=studies.journal does not exist", "start a study with `tune`"),
        (["sync", "--run_id", "abc"], "sync: run_id=abc", "holds no records"),
    ],
)
def test_a_failure_without_a_run_of_its_own_names_and_describes_the_opened_run(
    arguments: list[str], name: str, reason: str, opened: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mlproject.main(arguments) != 0
    run = mlflow.get_run(opened)
    assert run.info.run_name.startswith(name)
    assert run.data.tags["mlflow.runName"] == run.info.run_name
    assert run.data.tags["kind"] == arguments[0]
    assert reason in run.data.tags["status_reason"]
    assert run.data.tags["status_reason"] in capsys.readouterr().err
    assert run.data.tags["mlflow.note.content"].startswith(f"**`{arguments[0]}` ")


@pytest.mark.parametrize(
    "words", ["evaluate --model_uri", "calibrate --run_id", "compare --run_ids", "report --run_ids"]
)
def test_the_id_of_a_missing_run_is_named_once_with_where_to_look(
    words: str, capsys: pytest.CaptureFixture[str], store: str
) -> None:
    assert mlproject.main([*words.split(), "a" * 32]) == 1
    said = capsys.readouterr().err
    assert said.count("a" * 32) == 1
    assert f"it is not in {store}" in said
    assert "study_name" not in said


def test_every_mistake_is_in_the_description(opened: str) -> None:
    mlproject.main(["train", "--epochs", "ten", "--seed", "-1"])
    note = mlflow.get_run(opened).data.tags["mlflow.note.content"]
    assert note.splitlines()[-2:] == [
        "- epochs='ten' is not a whole number, such as 50",
        "- seed=-1 is too small; it must be at least 0",
    ]


def test_a_store_of_another_layout_is_written_through_mlflow(
    opened: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written = {}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'empty.db'}")
    (tmp_path / "empty.db").touch()
    monkeypatch.setattr("studies.tracking.tag_run", lambda run_id, tags: written.update({run_id: tags}))
    assert mlproject.main(["status"]) == 1
    assert written[opened]["mlflow.runName"] == "status: storage=studies.journal does not exist"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("data_dir=x does not exist: create it", "data_dir=x does not exist"),
        ("no data in a.b/c: look there", "no data in a.b/c"),
        ("3 mistakes:\n  epochs='ten' is wrong\n  b", "epochs='ten' is wrong"),
        ("2 problems to fix:\n  one. Two", "one"),
        ("x" * 100, "x" * 79 + "…"),
    ],
)
def test_the_summary_is_the_first_mistake(message: str, expected: str) -> None:
    assert summary(message) == expected


def imported_by(calls: list[str], **environment: str) -> str:
    """Exit codes of calls in one new process, and which of the large libraries it has imported."""
    program = (
        f"import sys, mlproject\n"
        f"codes = [mlproject.main(words.split()) for words in {calls}]\n"
        f"print(codes, [name for name in ('torch', 'mlflow') if name in sys.modules])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(PROJECT)} | environment
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()[-1]


def test_mistakes_and_quick_commands_import_neither_torch_nor_mlflow(opened: str) -> None:
    calls = ["train --epochs ten", "status", "train --dataset folder --data_dir /nowhere", "sync", "trian"]
    assert imported_by(calls) == "[2, 1, 1, 0, 2] []"
    assert mlflow.get_run(opened).info.run_name == "not started: command='trian' is not known"


def test_doctor_imports_neither_if_there_is_nothing_to_examine(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("CREATE TABLE runs (run_uuid, status, lifecycle_stage)")
        database.execute("INSERT INTO runs VALUES ('a', 'FINISHED', 'active'), ('b', 'RUNNING', 'deleted')")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert imported_by(["doctor"], MLFLOW_TRACKING_URI=uri) == "[0] []"


@pytest.mark.slow
def test_sending_records_imports_mlflow_alone_and_a_training_run_draws_later() -> None:
    """What the first step of a run does not need is imported after it."""
    program = (
        "import sys\n"
        "def heavy(): return [name for name in ('torch', 'numba', 'matplotlib') if name in sys.modules]\n"
        "import studies.maintenance.doctor, studies.maintenance.sync\n"
        "print(heavy())\n"
        "import studies.runs.training\n"
        "print(heavy())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["[]", "['torch', 'numba']"]


def test_paths_of_inputs_are_relative_to_the_folder_where_mlflow_run_was_called(tmp_path: Path) -> None:
    """A process without MLFLOW_RUN_ID stands for `mlflow run`; it starts another one in another folder."""
    inner = (
        "import sys\n"
        "from studies.base.opened_run import find_callers_modules, with_callers_paths\n"
        "from studies.config import PredictConfig, TrainConfig\n"
        "print(with_callers_paths(TrainConfig(data_dir='../data')).data_dir)\n"
        "print(with_callers_paths(TrainConfig(data_dir='/data')).data_dir)\n"
        "print(with_callers_paths(PredictConfig(model_uri='m', images='a.png')).images)\n"
        "find_callers_modules(TrainConfig(model='my_models:net'))\n"
        "print(sys.path[-1])\n"
    )
    outer = (
        "import os, subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {inner!r}], cwd={str(PROJECT)!r}, check=True,\n"
        "               env=os.environ | {'MLFLOW_RUN_ID': 'a' * 32})\n"
    )
    (tmp_path / "called").mkdir()
    command = [sys.executable, "-c", outer]
    done = subprocess.run(command, cwd=tmp_path / "called", capture_output=True, text=True, check=True)
    called = tmp_path / "called"
    assert done.stdout.split() == [str(tmp_path / "data"), "/data", str(called / "a.png"), str(called)]
