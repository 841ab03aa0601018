"""Passwords are hidden in every place where one can be given, and nothing else is."""

from dataclasses import asdict

import mlflow
import pytest

from segmentation.errors import InputError
from studies import tracking
from studies.base.redaction import (
    hidden,
    move_credentials_to_environment,
    refuse_passwords,
    split_credentials,
    without_password,
)
from studies.config import TrainConfig

SECRET = "Xq7-hunter2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"http://me:{SECRET}@host:5000/path", "http://me:***@host:5000/path"),
        (f"postgresql+psycopg://me:{SECRET}@host/db", "postgresql+psycopg://me:***@host/db"),
        (f"redis://:{SECRET}@host", "redis://:***@host"),
        (f"postgresql://me:a@b/{SECRET}@host/db", "postgresql://me:***@host/db"),
        (f"postgresql://me:two words {SECRET}@host/db", "postgresql://me:***@host/db"),
        (f"postgresql://host/db?password={SECRET}", "postgresql://host/db?password=***"),
        (f"postgresql://host/db?user=me&sslpassword={SECRET}&x=1", "postgresql://host/db?user=me&sslpassword=***&x=1"),
        (f"host=h password='{SECRET} b' dbname=d", "host=h password=*** dbname=d"),
        (f"https://{SECRET}{SECRET}@github.com/a/b", "https://***@github.com/a/b"),
        (f"cannot use http://me:{SECRET}@host: refused", "cannot use http://me:***@host: refused"),
        (f"s3://bucket/x?X-Amz-Signature={SECRET}&a=b", "s3://bucket/x?X-Amz-Signature=***&a=b"),
    ],
)
def test_a_password_is_hidden_and_what_is_around_it_stays(text: str, shown: str) -> None:
    assert without_password(text) == shown
    assert without_password(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/me/mlflow.db",
        "http://127.0.0.1:5000/#/experiments/1/runs/abc",
        "postgresql://postgres@127.0.0.1:5432/studies",
        "http://127.0.0.1:5000 answers, models:/fcn@latest-run is there",
        "storage holds a password, and MLflow shows parameters to everybody",
        "learning_rate=0.01, C:\\data, models:/name@alias",
    ],
)
def test_what_is_no_password_stays(text: str) -> None:
    assert without_password(text) == text


def test_passwords_of_the_environment_are_hidden_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:a%2Fsecret@host/db")
    monkeypatch.setenv("PGPASSWORD", "other one")
    assert without_password("auth of a/secret or a%2Fsecret, other one") == "auth of *** or ***, ***"
    monkeypatch.setenv("PGPASSWORD", "a")
    assert without_password("a cat") == "a cat"


@pytest.mark.parametrize(
    ("password", "text", "shown"),
    [
        ("postgres", "postgresql://localhost/optuna", "postgresql://localhost/optuna"),
        ("postgresql", "postgresql+psycopg://localhost/optuna", "postgresql+psycopg://localhost/optuna"),
        ("psycopg", "postgresql+psycopg://localhost/optuna", "postgresql+psycopg://localhost/optuna"),
        ("http", "http://127.0.0.1:5000 answers", "http://127.0.0.1:5000 answers"),
        ("test", "tests of the latest contest, test_1", "tests of the latest contest, test_1"),
        ("test", "user me with password test failed (test)", "user me with password *** failed (***)"),
        ("$test", "a$test or $tests", "a*** or $tests"),
    ],
)
def test_a_password_that_is_a_word_is_hidden_as_a_whole_word_alone(
    password: str, text: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", password)
    assert without_password(text) == shown


@pytest.mark.parametrize("password", ["postgres", "postgresql", "localhost", "optuna", "test", "shapes", "split"])
def test_a_password_that_is_a_word_changes_no_command_line(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", password)
    for storage in ("postgresql://localhost/optuna", "postgresql://postgres@localhost/postgres"):
        refuse_passwords(["tune", "--storage", storage, "--dataset=shapes", "--val_split", "test"])
    with pytest.raises(InputError, match="storage holds a password"):
        refuse_passwords(["tune", "--storage", f"postgresql://me:{password}@localhost/optuna"])


def test_a_password_that_is_a_word_changes_no_structured_artifact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "test")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "train")
    secret = f"http://me:{SECRET}@host/w.pt"
    content = {"split": "test", "kind": ["train", {"test": 1.0}], "weights": secret, "said": f"password={SECRET}"}
    table = "split,images\ntest,3\n"
    config = TrainConfig(val_split="test", weights=secret, experiment="secrets")
    with tracking.tracked_run("secrets", "words", {"kind": "train"}) as run_id:
        tracking.log_config(config)
        tracking.log_json(content, "content.json")
        tracking.log_table(table, "table.csv")
        tracking.log_text("no access with test", "training.log")
    artifact = f"runs:/{run_id}/"
    assert mlflow.artifacts.load_dict(f"{artifact}config.json") == asdict(config) | {
        "weights": "http://me:***@host/w.pt"
    }
    assert mlflow.artifacts.load_dict(f"{artifact}content.json") == content | {
        "weights": "http://me:***@host/w.pt", "said": "password=***",
    }  # fmt: skip
    assert mlflow.artifacts.load_text(f"{artifact}table.csv") == table
    assert mlflow.artifacts.load_text(f"{artifact}training.log") == "no access with ***"
    run = mlflow.get_run(run_id)
    assert (run.data.params["val_split"], run.data.tags["kind"]) == ("test", "train")


def test_values_are_hidden_by_name() -> None:
    given = {"weights": f"http://me:{SECRET}@host/w.pt", "epochs": 3, "crop": None}
    assert hidden(given) == {"weights": "http://me:***@host/w.pt", "epochs": 3, "crop": None}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "3", "--storage", f"postgresql://me:{SECRET}@host/db"],
        [f"--storage=postgresql://host/db?password={SECRET}"],
    ],
)
def test_a_command_line_with_a_password_is_refused_by_the_field_s_name(arguments: list[str]) -> None:
    with pytest.raises(InputError, match="^storage holds a password.*PGPASSWORD") as refusal:
        refuse_passwords(arguments)
    assert SECRET not in str(refusal.value)
    refuse_passwords(["--storage", "postgresql://me@host/db", "--experiment", "tokens"])


def test_user_and_password_are_kept_apart_from_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert split_credentials("http://host:1/x") is None
    assert split_credentials(f"sqlite:///a:{SECRET}@b") is None
    assert split_credentials("http://me:p%40ss@host:1/x?y") == ("http://host:1/x?y", "me", "p@ss")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "to be removed afterwards")
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:p%40ss@host")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "https://me:another@host")
    move_credentials_to_environment()
    import os

    assert os.environ["MLFLOW_TRACKING_URI"] == "https://host"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("me", "p@ss")
    assert os.environ["MLFLOW_REGISTRY_URI"] == "https://me:another@host", "MLflow knows one password for both"
