import json
from pathlib import Path

import mlflow
import pytest
from matplotlib.figure import Figure
from PIL import Image

from segmentation.config import TrainConfig
from segmentation.errors import InputError
from studies import tracking


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


def test_what_is_not_a_number_is_not_logged() -> None:
    with tracking.tracked_run("e", "n", {}) as run_id:
        tracking.log_metrics({"good": 1.0, "absent": float("nan")}, step=1)
        tracking.log_json({"values": [1.0, float("nan")]}, "x.json")
    assert mlflow.get_run(run_id).data.metrics == {"good": 1.0}
    assert json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/x.json")) == {"values": [1.0, None]}


def test_an_unusable_store_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'file' / 'below' / 'm.db'}")
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"runs cannot be recorded in .*m.db: it cannot be written"),
        tracking.tracked_run("e", "n", {}),
    ):
        pass


def test_a_description_that_is_too_long_is_cut_at_the_end_of_a_line() -> None:
    lines = [f"line {number} of many" for number in range(1000)]
    with tracking.tracked_run("notes", "long", {}) as run_id:
        tracking.log_note("\n".join(lines))
    told = mlflow.get_run(run_id).data.tags["mlflow.note.content"].splitlines()
    assert told[:-1] == lines[: len(told) - 1]
    assert told[-1] == "…"
    assert len(told) > 300


def test_a_description_shows_pictures_between_what_is_said_and_the_details() -> None:
    figure = Figure((9, 6), dpi=100)
    with tracking.tracked_run("notes", "pictures", {}) as run_id:
        tracking.log_note(
            "said", [figure, Image.new("RGBA", (1120, 100))], "| name | value |\n| --- | --- |\n| a | 1 |"
        )
    told = mlflow.get_run(run_id).data.tags["mlflow.note.content"].splitlines()
    gap = "\u2003\u200b"
    assert list(filter(None, told)) == [
        "said",
        f"![description/0.png](get-artifact?path=description/0.png&run_uuid={run_id})",
        f"![description/1.png](get-artifact?path=description/1.png&run_uuid={run_id})",
        f"| name{gap} | value |", "| --- | --- |", f"| a{gap} | 1 |",
    ]  # fmt: skip
    assert mlflow.artifacts.load_image(f"runs:/{run_id}/description/0.png").size == (560, 373)
    assert mlflow.artifacts.load_image(f"runs:/{run_id}/description/1.png").size == (560, 50)


def test_a_long_error_is_cut_without_baring_half_a_password(capsys: pytest.CaptureFixture[str]) -> None:
    journal = tracking._opened_journal("0" * 32)
    journal._senders["records"]._tell(f"{'x' * 130} http://me:Xq7-hunter2-and-much-more@host refused")
    journal.close()
    printed = capsys.readouterr().err
    assert "MLflow takes no records (xxx" in printed
    assert "Xq7" not in printed
