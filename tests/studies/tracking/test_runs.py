import json
import time
from pathlib import Path

import mlflow
import pytest

import mlproject
from segmentation.errors import InputError
from studies import tracking
from studies.config import TrainConfig
from studies.tracking import run_journals, runs
from tests.conftest import last_run

ANOTHER = json.dumps({"host": "elsewhere", "pid": 7, "started": 1.0})


def test_a_failing_run_has_the_reason_and_raises_the_error() -> None:
    with pytest.raises(ZeroDivisionError), tracking.tracked_run("e", "n", {"a": "b"}) as run_id:
        _ = 1 / 0
    run = mlflow.get_run(run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["status_reason"] == "ZeroDivisionError: division by zero"
    assert run.data.tags["a"] == "b"
    assert run.data.tags["mlflow.note.content"] == "**Failed:** ZeroDivisionError: division by zero"


def test_the_description_begins_with_the_reason_and_the_remedy_until_the_run_is_resumed() -> None:
    step = "To resume it:\n  train --resume ID"

    def stopped() -> None:
        with tracking.tracked_run("e", "n", {}, remedy=lambda run_id: step) as run_id:
            run_ids.append(run_id)
            tracking.log_note("| what | was logged |")
            raise tracking.Stopped("no time left")

    run_ids: list[str] = []
    with pytest.raises(tracking.Stopped):
        stopped()
    note = mlflow.get_run(run_ids[0]).data.tags["mlflow.note.content"]
    assert note.splitlines()[:6] == [
        "**Stopped:** no time left",
        "",
        "To resume it:",
        "```",
        "train --resume ID",
        "```",
    ]
    assert "logged" in note.splitlines()[-1]
    with tracking.tracked_run("e", "n", {}, run_ids[0]):
        assert not {"mlflow.note.content", "status_reason"} & mlflow.get_run(run_ids[0]).data.tags.keys()


def test_an_experiment_gets_a_view_with_the_headline_metrics_of_the_models() -> None:
    with tracking.tracked_run("viewed", "n", {}) as run_id:
        tracking.log_metrics({"val_model/loss": 0.5})
    experiment = mlflow.get_experiment(mlflow.get_run(run_id).info.experiment_id)
    columns = json.loads(experiment.tags["mlflow.sharedViewState.results"])["selectedColumns"]
    assert columns[1:] == [f"metrics.`val_model/{name}`" for name in ("loss", "pixel_accuracy", "mean_iou", "ece")]
    address, _ = tracking.where_to_look(run_id).splitlines()
    assert address.endswith(
        f"/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning&viewStateShareKey=results"
    )


def test_a_store_that_refuses_the_view_records_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise mlflow.MlflowException("no permission")

    monkeypatch.setattr(mlflow.MlflowClient, "set_experiment_tag", refuse)
    with tracking.tracked_run("no view", "n", {}) as run_id:
        tracking.log_metrics({"val_model/loss": 0.5})
    assert mlflow.get_run(run_id).info.status == "FINISHED"
    assert len(tracking.where_to_look(run_id).splitlines()) == 1, "without the view its address would open another page"


def test_an_interrupted_run_is_killed() -> None:
    with pytest.raises(KeyboardInterrupt), tracking.tracked_run("e", "n", {}) as run_id:
        raise KeyboardInterrupt
    assert mlflow.get_run(run_id).info.status == "KILLED"
    assert mlflow.get_run(run_id).data.tags["status_reason"] == "interrupted"


@pytest.mark.parametrize("opened_by", ["us", "mlflow run", "the caller"])
def test_a_run_whose_journal_cannot_be_written_does_not_stay_running(
    opened_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unsent").write_text("a file where the folder should be")
    run_id = None if opened_by == "us" else tracking.create_run("no place", "given", {})
    if run_id and opened_by == "mlflow run":
        monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    with (
        pytest.raises(InputError, match="records cannot be written to unsent"),
        tracking.tracked_run("no place", "ours", {}, run_id if opened_by == "the caller" else None),
    ):
        raise AssertionError("it must not begin")
    run = last_run()
    assert run_id in (None, run.info.run_id)
    assert run.info.status == "FAILED"
    assert "records cannot be written to unsent" in run.data.tags["status_reason"]
    with pytest.raises(IndexError):
        run_journals.open_run()


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


def test_a_long_error_is_cut_without_showing_a_part_of_a_password(capsys: pytest.CaptureFixture[str]) -> None:
    journal = run_journals.open_journal("0" * 32, lambda entry, files: None)
    journal._senders["records"]._report(f"{'x' * 130} http://me:Xq7-hunter2-and-much-more@host refused")
    journal.close()
    printed = capsys.readouterr().err
    assert "MLflow does not accept records (xxx" in printed
    assert "Xq7" not in printed


def test_a_process_that_was_presumed_dead_logs_nothing_to_a_run_that_another_has_resumed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "OWNER_CHECK_SECONDS", 0.0)

    def train(run_id: str) -> None:
        tracking.log_metrics({"val/loss": 1.0}, 1)
        assert tracking.wait_until_sent()
        mlflow.MlflowClient().set_tag(run_id, tracking.PROCESS, ANOTHER)
        tracking.log_metrics({"val/loss": 0.5}, 2)

    with (
        pytest.raises(InputError, match="process 7 on elsewhere"),
        tracking.tracked_run("e", "n", {}) as run_id,
    ):
        train(run_id)
    run = mlflow.get_run(run_id)
    assert [point.step for point in mlflow.MlflowClient().get_metric_history(run_id, "val/loss")] == [1]
    assert (run.info.status, "status_reason" in run.data.tags) == ("RUNNING", False)


def test_processes_share_a_shared_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "OWNER_CHECK_SECONDS", 0.0)
    with tracking.tracked_run("e", "n", {}, shared=True) as run_id:
        mlflow.MlflowClient().set_tag(run_id, tracking.PROCESS, ANOTHER)
        tracking.log_metrics({"val/loss": 0.5}, 2)
    run = mlflow.get_run(run_id)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"val/loss": 0.5})


def test_the_records_of_a_deleted_run_are_kept_until_it_is_restored(
    capsys: pytest.CaptureFixture[str],
) -> None:
    client, run_ids = mlflow.MlflowClient(), []

    def train() -> None:
        with tracking.tracked_run("e", "n", {}) as run_id:
            run_ids.append(run_id)
            tracking.log_metrics({"val/loss": 1.0}, 1)
            assert tracking.wait_until_sent()
            client.delete_run(run_id)
            for number in range(2, 1000):
                tracking.log_metrics({"val/loss": 0.5}, number)
                time.sleep(0.05)

    with pytest.raises(InputError, match="mlflow runs restore --run-id"):
        train()
    (run_id,) = run_ids
    assert mlproject.main(["sync"]) == 1
    assert "mlflow runs restore" in capsys.readouterr().err
    client.restore_run(run_id)
    assert mlproject.main(["sync"]) == 0
    run = mlflow.get_run(run_id)
    steps = [point.step for point in client.get_metric_history(run_id, "val/loss")]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 1
    assert run.info.status == "FAILED"
    assert "was deleted" in run.data.tags["status_reason"]
