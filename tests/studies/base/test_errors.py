"""Errors of MLflow, Optuna and S3 end in a message that says what to do, never in a traceback."""

import re
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import ClientError
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

import mlproject
from segmentation.errors import InputError
from studies import tracking
from studies.base.errors import explained, is_final, reason, s3_code
from studies.config import StudyConfig
from studies.search.storage import open_storage
from studies.search.study import PARENT, READY
from tests.studies.search.conftest import tiny

GONE = 32 * "a"


def words(fields: dict[str, Any]) -> list[str]:
    return [word for name, value in fields.items() for word in (f"--{name}", str(value))]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the error message of a command that fails."""
    capsys.readouterr()
    assert mlproject.main(list(arguments)) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert "Traceback" not in printed
    return printed


def study(name: str, direction: str = "minimize") -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend("studies.journal"))
    return optuna.create_study(storage=storage, study_name=name, direction=direction)


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "--model_uri", f"runs:/{GONE}"],
        ["predict", "--model_uri", f"runs:/{GONE}", "--images", "own"],
        ["compare", "--run_ids", f"{GONE},{'b' * 32}"],
        ["report", "--run_ids", GONE],
        ["train", "--resume", GONE],
        ["sync", "--run_id", GONE],
    ],
)
def test_a_run_that_is_gone(arguments: list[str], capsys: pytest.CaptureFixture[str], own_data: Path) -> None:
    mlflow.MlflowClient().search_experiments()
    assert GONE in refused(capsys, *arguments)


def test_the_run_that_mlflow_has_opened_is_gone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, own_data: Path
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", GONE)
    said = refused(capsys, "train", *words(tiny(own_data)))
    assert GONE in said
    assert "deleted permanently" in said


def test_an_experiment_that_was_deleted(capsys: pytest.CaptureFixture[str], own_data: Path) -> None:
    experiment = MlflowClient().create_experiment("was deleted")
    MlflowClient().delete_experiment(experiment)
    fields = tiny(own_data, experiment="was deleted")
    for command in ("train", "tune"):
        said = refused(capsys, command, *words(fields))
        assert f"mlflow experiments restore --experiment-id {experiment}" in said


def test_a_run_in_an_experiment_that_was_deleted(capsys: pytest.CaptureFixture[str], own_data: Path) -> None:
    """As for a study that is resumed: its trials are created beside its run."""
    experiment = MlflowClient().create_experiment("was deleted later")
    parent = MlflowClient().create_run(experiment).info.run_id
    MlflowClient().delete_experiment(experiment)
    with pytest.raises(InputError, match="mlflow experiments restore"):
        tracking.create_run("any", "n", {}, parent)
    with pytest.raises(InputError, match="restore"), tracking.tracked_run("any", "n", {}, parent):
        pass


def test_a_study_whose_run_is_gone(capsys: pytest.CaptureFixture[str], own_data: Path) -> None:
    begun = study("gone")
    begun.set_user_attr(PARENT, GONE)
    begun.set_user_attr(READY, True)
    said = refused(capsys, "tune", *words(tiny(own_data, study_name="gone")))
    assert GONE in said
    assert "another name" in said


def test_a_study_of_other_directions(capsys: pytest.CaptureFixture[str], own_data: Path) -> None:
    study("upwards", "maximize").set_user_attr(READY, True)
    said = refused(capsys, "tune", *words(tiny(own_data, study_name="upwards")))
    assert (
        "study_name=upwards in storage=studies.journal exists with the directions maximize, but val/loss needs minimize"
        in said
    )


def test_a_study_of_another_program(capsys: pytest.CaptureFixture[str], own_data: Path) -> None:
    """It is neither continued, which would mix its trials with ours, nor treated as one of ours by `status`."""
    theirs = study("theirs")
    theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    said = refused(capsys, "tune", *words(tiny(own_data, study_name="theirs")))
    assert "study_name=theirs in storage=studies.journal was created by another program" in said
    assert len(theirs.trials) == 2
    assert mlproject.main(["status"]) == 0
    assert "theirs: 2 complete\n    This study was created by another program" in capsys.readouterr().out


def ask_after_deleting(storage: BaseStorage) -> None:
    begun = optuna.create_study(storage=storage, study_name="s")
    optuna.delete_study(storage=storage, study_name="s")
    begun.ask()


def test_a_study_that_is_deleted_meanwhile(tmp_path: Path) -> None:
    for place in (str(tmp_path / "s.journal"), f"sqlite:///{tmp_path / 's.db'}"):
        with (
            pytest.raises(InputError, match=f"storage={re.escape(place)}: the study was deleted"),
            open_storage(StudyConfig(storage=place), heartbeat=60) as storage,
        ):
            ask_after_deleting(storage)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_file_that_is_no_journal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "letter.journal").write_text("Dear Sir,\nyours\n")
    assert "storage=letter.journal is not a journal" in refused(capsys, "status", "--storage", "letter.journal")


def test_only_errors_of_mlflow_and_optuna_are_explained() -> None:
    assert explained(ValueError("a mistake of ours")) is None
    assert explained(KeyError("mlflow")) is None
    assert explained(OSError("no room")) is None
    assert "cannot be used: gone" in str(explained(MlflowException("gone\nlong story")))
    assert "cannot be used" in str(explained(optuna.exceptions.StorageInternalError("closed")))
    mine = InputError("said already")
    assert explained(mine) is mine


@pytest.mark.parametrize(
    ("code", "final", "advice"),
    [
        ("AccessDenied", True, "s3:PutObject"),
        ("NoSuchBucket", True, "Create the bucket"),
        ("EntityTooLarge", True, "limit of the S3 server"),
        ("InvalidAccessKeyId", False, "AWS_ACCESS_KEY_ID"),
        ("SlowDown", False, ""),
    ],
)
def test_a_refusal_of_an_s3_server(code: str, final: bool, advice: str) -> None:
    """boto3's `upload_file` raises a second error, which holds the code only in its context."""
    error = S3UploadFailedError(f"Failed to upload a to b/a: An error occurred ({code}) when calling PutObject")
    error.__context__ = ClientError({"Error": {"Code": code, "Message": "no"}}, "PutObject")
    assert s3_code(error) == code
    assert is_final(error) is final
    assert advice in reason(error)
    assert "MLflow at" in str(explained(error))
