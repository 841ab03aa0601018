import json

import mlflow
import pytest

from segmentation.config import TrainConfig
from studies import tracking
from studies.tracking import runs


def test_a_failing_run_says_why_and_the_error_goes_on() -> None:
    with pytest.raises(ZeroDivisionError), tracking.tracked_run("e", "n", {"a": "b"}) as run_id:
        _ = 1 / 0
    run = mlflow.get_run(run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["status_reason"] == "ZeroDivisionError: division by zero"
    assert run.data.tags["a"] == "b"


def test_an_interrupted_run_is_killed() -> None:
    with pytest.raises(KeyboardInterrupt), tracking.tracked_run("e", "n", {}) as run_id:
        raise KeyboardInterrupt
    assert mlflow.get_run(run_id).info.status == "KILLED"
    assert mlflow.get_run(run_id).data.tags["status_reason"] == "interrupted"


def test_the_run_that_mlflow_opened_is_used_and_its_raw_params_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    client = mlflow.MlflowClient()
    opened = client.create_run(client.create_experiment("chosen by mlflow run"))
    client.log_param(opened.info.run_id, "learning_rate", "1e-3")
    monkeypatch.setenv("MLFLOW_RUN_ID", opened.info.run_id)
    with tracking.tracked_run("not this one", "a name", {}) as run_id:
        tracking.log_config(TrainConfig(learning_rate=1e-3))
    run = client.get_run(opened.info.run_id)
    assert run_id == opened.info.run_id
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "a name"
    assert run.data.params["learning_rate"] == "1e-3"
    assert run.data.params["epochs"] == "50"
    assert json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/config.json"))["learning_rate"] == 0.001


def test_a_long_error_is_cut_without_baring_half_a_password(capsys: pytest.CaptureFixture[str]) -> None:
    journal = runs._opened_journal("0" * 32)
    journal._senders["records"]._tell(f"{'x' * 130} http://me:Xq7-hunter2-and-much-more@host refused")
    journal.close()
    printed = capsys.readouterr().err
    assert "MLflow takes no records (xxx" in printed
    assert "Xq7" not in printed
