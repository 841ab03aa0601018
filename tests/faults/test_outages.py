"""The tracking server stops, fails, is slow, loses responses or accepts no files: every record arrives once."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import mlflow
import optuna
import pytest
from optuna.trial import TrialState
from PIL import Image

import mlproject
from segmentation.errors import InputError
from studies import tracking
from studies.config import ModelsConfig, TuneConfig
from studies.runs.models import run_models
from studies.runs.training import run_training
from studies.runs.variants import run_configs
from studies.search.plan import make_plan
from studies.search.retries import retry_after_death
from studies.search.space import suggest
from studies.search.storage import open_storage
from studies.search.trials import REASON, RUN, counted_trials
from studies.search.worker import Worker
from studies.tracking import journal, store
from studies.tracking.journal import unsent_journals
from studies.tracking.ownership import OWNER
from tests import tiny_network
from tests.conftest import PROJECT
from tests.faults.outages import stopped_while_nothing_answers
from tests.faults.server import Door, Fault, Server
from tests.faults.training import Training, words
from tests.studies.search.conftest import tiny

pytestmark = pytest.mark.slow


class Place(NamedTuple):
    server: Server
    door: Door


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server and the proxy in front of it."""
    with Server(tmp_path_factory.mktemp("server")) as server, Door(server) as door:
        yield Place(server, door)


@pytest.fixture(autouse=True)
def place(behind: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    behind.door.fault, behind.door.turned_away = "none", 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", behind.door.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(journal, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(store, "RETRY_SECONDS", 20.0)
    return behind


def steps(run_id: str, name: str = "val/loss") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in mlflow.MlflowClient().get_metric_history(run_id, name)]


POINTS = [(number, 1 / number) for number in range(1, 13)]


def log_epochs(first: int, last: int) -> None:
    for number in range(first, last + 1):
        tracking.log_metrics({"val/loss": 1 / number}, step=number)
        tracking.log_text(f"epoch {number}", f"epochs/{number}.txt")


def test_an_undisturbed_server_gets_everything(place: Place) -> None:
    with tracking.tracked_run("outages", "none", {}) as run_id:
        log_epochs(1, 12)
    run = mlflow.get_run(run_id)
    assert (run.info.status, run.data.metrics["val/loss"]) == ("FINISHED", 1 / 12)
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/epochs/3.txt") == "epoch 3"
    assert tracking.where_to_look(run_id).startswith(f"See run {run_id}: {place.door.uri}/#/experiments/")


@pytest.mark.parametrize("fault", ["error", "slow", "lost answers"])
def test_all_points_and_files_arrive_once_and_in_order(fault: Fault, place: Place) -> None:
    with tracking.tracked_run("outages", fault, {}) as run_id:
        log_epochs(1, 4)
        place.door.fault = fault
        log_epochs(5, 8)
        while place.door.turned_away < 3:
            time.sleep(0.05)
        place.door.fault = "none"
        log_epochs(9, 12)
    run = mlflow.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert steps(run_id) == POINTS
    for number in (1, 6, 12):
        assert mlflow.artifacts.load_text(f"runs:/{run_id}/epochs/{number}.txt") == f"epoch {number}"
    assert not unsent_journals(tracking.UNSENT)
    assert not (tracking.UNSENT / run_id).exists()


def test_a_restarted_server_gets_everything(place: Place) -> None:
    with tracking.tracked_run("outages", "killed", {}) as run_id:
        log_epochs(1, 4)
        place.server.stop()
        began = time.monotonic()
        log_epochs(5, 8)
        assert time.monotonic() - began < 5, "training does not wait"
        place.server.start()
        log_epochs(9, 12)
    assert steps(run_id) == POINTS
    assert mlflow.get_run(run_id).info.status == "FINISHED"


def test_a_failing_artifact_store_does_not_delay_metrics(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(store, "RETRY_SECONDS", 0.5)
    place.door.fault = "no files"
    with tracking.tracked_run("outages", "no files", {}) as run_id:
        log_epochs(1, 12)
    assert steps(run_id) == POINTS
    assert mlflow.get_run(run_id).info.status == "FINISHED"
    said = capsys.readouterr().err
    assert f"MLflow did not accept 12 records of run {run_id}. They are kept in unsent/{run_id}" in said
    assert "mlproject.py sync" in said
    place.door.fault = "none"
    monkeypatch.setattr(store, "RETRY_SECONDS", 20.0)
    assert tracking.send_unsent(Path("unsent") / run_id) == 0
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/epochs/12.txt") == "epoch 12"


def test_a_finished_run_whose_scores_have_not_arrived_is_completed_before_reuse(
    place: Place, own_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unsent records in this folder are sent; others are made again from the checkpoint, in the same run."""
    network = tiny_network.NAME
    config = ModelsConfig(
        dataset="folder", data_dir=str(own_data), resize=32, crop=32, device="cpu", epochs=1, batch_size=4,
        learning_rate=0.05, examples=1, log_model=False, plot_every=0, variants=f"{network}, {network} flip=0.5",
    )  # fmt: skip
    monkeypatch.setattr(store, "RETRY_SECONDS", 0.2)
    place.door.fault = "no files"
    trained = [run_training(each).run_id for each in run_configs(config)]
    assert [mlflow.get_run(run_id).info.status for run_id in trained] == ["FINISHED"] * 2
    (tracking.UNSENT / trained[1]).rename(tracking.UNSENT.parent / "elsewhere")
    place.door.fault = "none"
    monkeypatch.setattr(store, "RETRY_SECONDS", 20.0)
    capsys.readouterr()
    assert run_models(config) == trained
    said = capsys.readouterr().out
    assert f"Already trained in run {trained[0]}" in said
    assert f"Run {trained[1]} " in said
    assert "MLflow lacks its scores or model: made again." in said
    assert [step for step, _ in steps(trained[1])] == [1]
    assert run_models(config) == trained
    assert capsys.readouterr().out.count("Already trained") == 2


def test_sync_sends_the_records_of_a_run_whose_server_stayed_away(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(store, "RETRY_SECONDS", 0.5)
    with tracking.tracked_run("outages", "gone", {}) as run_id:
        log_epochs(1, 2)
        place.door.fault = "error"
        log_epochs(3, 12)
    place.door.fault = "none"
    monkeypatch.setattr(store, "RETRY_SECONDS", 20.0)
    assert mlflow.get_run(run_id).info.status == "RUNNING"
    capsys.readouterr()
    assert mlproject.main(["doctor"]) == 1
    assert f"unsent/{run_id}" in capsys.readouterr().err
    assert mlproject.main(["sync"]) == 0
    assert f"Run {run_id}: all records are sent." in capsys.readouterr().out
    assert steps(run_id) == POINTS
    assert mlflow.get_run(run_id).info.status == "FINISHED"
    assert mlproject.main(["sync"]) == 0
    assert "No unsent records" in capsys.readouterr().out


def test_a_refused_record_fails_the_run_with_the_reason(place: Place) -> None:
    with (
        pytest.raises(InputError, match="MLflow refuses tags .* of run"),
        tracking.tracked_run("outages", "refused", {}) as run_id,
    ):
        tracking.log_tags({"k" * 300: "a name that is too long"})
    run = mlflow.get_run(run_id)
    assert run.info.status == "FAILED"
    assert "MLflow refuses tags" in run.data.tags["status_reason"]


@pytest.mark.parametrize("command", ["train", "tune"])
def test_a_stopped_process_ends_soon_even_if_its_server_hangs(command: str, place: Place, tmp_path: Path) -> None:
    """A request waits for its response meanwhile. Docker kills after 10 s."""
    training = Training(tmp_path / "stopped", 500, place.door.uri, plot_every=0, log_model=False)
    fields = tiny(training.fields["data_dir"], epochs=500, n_trials=1, search="learning_rate", pruner="none")
    words = [f"--{name}={value}" for name, value in fields.items()]
    arguments = ["tune", *words] if command == "tune" else []
    found = stopped_while_nothing_answers(training, place.door, *arguments, within=20)  # the drill has no other load
    assert found == []


@pytest.mark.parametrize(("fault", "when"), [("error", "starts"), ("hang", "resumes")])
def test_a_trial_is_postponed_while_its_server_is_away(
    fault: Fault, when: str, place: Place, own_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """It is not lost, however often that happens, and no failure is counted."""
    monkeypatch.setattr(store, "RETRY_SECONDS", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    config = TuneConfig(
        **tiny(own_data, epochs=1, n_trials=1, search="learning_rate", storage=str(tmp_path / "s.journal"))
    )
    wanted = make_plan(config)
    with open_storage(config, heartbeat=60) as storage:
        study = optuna.create_study(storage=storage, study_name=wanted.name)
        parent = tracking.create_run("outages", "study", {})
        if when == "resumes":
            begun = study.ask()
            suggest(begun, wanted.space)
            begun.set_user_attr(RUN, tracking.create_run("outages", "begun", {}, parent))
            study.tell(begun, state=TrialState.FAIL)
            retry_after_death(study, study.trials[0])
        before = len(study.trials) + (when == "starts")
        place.door.fault = fault

        def come_back() -> None:
            until = time.monotonic() + 60
            while len(study.trials) <= before and time.monotonic() < until:
                time.sleep(0.05)
            time.sleep(1)
            place.door.fault = "none"

        waiting = threading.Thread(target=come_back)
        waiting.start()
        Worker(study, wanted, parent, "search", max_failures=1).work()
        waiting.join()
        *earlier, done = study.trials
        assert len(earlier) >= before, "it was postponed"
        assert {trial.state for trial in earlier} == {TrialState.FAIL}
        assert (done.state, REASON in done.user_attrs) == (TrialState.COMPLETE, False)
        assert len(counted_trials(study)) == 1
        below = tracking.runs_tagged("mlflow.parentRunId", parent)
        assert [run.status for run in below] == ["FINISHED"]
        assert below[0].run_id == done.user_attrs[RUN]
    assert "The trial waits until MLflow answers" in capsys.readouterr().err
    tracking.end_run(parent, "FINISHED")


def test_a_file_that_is_too_large_is_set_aside(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A proxy's limit. The run lacks only an image; `sync` sends it when the limit is raised."""
    place.door.fault, place.door.too_large = "too large", "5.png"
    with tracking.tracked_run("outages", "too large", {}) as run_id:
        for number in range(1, 9):
            figure, axes = plt.subplots()
            axes.plot([number])
            tracking.log_figure(figure, f"epochs/{number}.png")
            plt.close(figure)
    assert place.door.turned_away == 1, "it is not retried"
    run = mlflow.get_run(run_id)
    assert run.info.status == "FINISHED"
    there = {Path(file.path).name for file in mlflow.MlflowClient().list_artifacts(run_id, "epochs")}
    assert there == {f"{number}.png" for number in range(1, 9)} - {"5.png"}
    folder = Path("unsent") / run_id
    said = capsys.readouterr().err
    assert f"MLflow refused 1 record of run {run_id}. They are set aside in {folder}" in said
    assert not unsent_journals(tracking.UNSENT), "nothing is unsent"
    assert tracking.where_to_look(run_id).startswith(f"See run {run_id}: http")
    assert mlproject.main(["doctor"]) == 1
    listed = capsys.readouterr()
    assert "Unsent records: of 0 runs" in listed.out
    assert f"set aside in {folder}: MLflow refuses artifacts epochs/5.png of run {run_id}: 413" in listed.err
    assert mlproject.main(["sync"]) == 0
    assert mlproject.main(["sync", "--again=True"]) == 1, "it is refused again"
    assert "some records were not sent" in capsys.readouterr().err
    place.door.fault = "none"
    assert mlproject.main(["sync", "--again=True"]) == 0
    assert "5.png" in {Path(file.path).name for file in mlflow.MlflowClient().list_artifacts(run_id, "epochs")}
    assert not folder.exists()


@pytest.mark.parametrize("kind", ["image", "artifact", "model"])
def test_damaged_files_are_set_aside_and_all_else_is_sent(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = tracking.create_run("outages", kind, {})
    folder = tmp_path / "unsent" / run_id
    damaged, whole = folder / "files.d" / "000000", folder / "files.d" / "000001"
    whole.mkdir(parents=True)
    (whole / "after.txt").write_text("after it")
    entries: list[dict[str, object]] = [{"what": "artifacts", "path": "lost.txt"}]
    if kind == "image":
        damaged.mkdir()
        Image.effect_noise((64, 64), 50).save(damaged / "image.png")
        os.truncate(damaged / "image.png", 1000)
        entries = [{"what": "image", "key": "k", "step": 1, "time": 1}]
    elif kind == "model":
        (damaged / "model").mkdir(parents=True)
        (damaged / "model" / "MLmodel").write_bytes(b"\0" * 100)
        entries = [{"what": "model", "register_as": None, "alias": "a"}]
    entries.append({"what": "artifacts", "path": "after.txt"})
    (folder / "files.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    (folder / "records.jsonl").write_text(json.dumps({"what": "end", "status": "FINISHED", "time": 1}) + "\n")
    (folder / OWNER).write_text("{}")
    assert mlproject.main(["sync"]) == 1
    said = capsys.readouterr().err
    assert f"MLflow has refused 1 record of run {run_id}" in said
    assert "cannot be sent: its file" in said
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/after.txt") == "after it"
    assert mlflow.get_run(run_id).info.status == "FINISHED"
    assert mlproject.main(["sync"]) == 0
    capsys.readouterr()
    assert mlproject.main(["doctor"]) == 1
    assert "set aside in unsent/" in capsys.readouterr().err


TRAINING = """
import sys
from studies import tracking
tracking.store.RETRY_SECONDS = 1.0
import mlproject
sys.exit(mlproject.main(sys.argv[1:]))
"""


def test_a_run_ends_without_its_server_and_is_sent_later_with_its_model(
    place: Place, own_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = words(data_dir=own_data, epochs=2, examples=1, register_as="synced", plot_every=1)
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(
        [sys.executable, "-c", TRAINING, *arguments], cwd=tmp_path, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as training:  # fmt: skip
        assert training.stdout is not None
        run_id = next(line for line in training.stdout if line.startswith("Run ")).split()[1].rstrip(":")
        while "epoch 1/" not in training.stdout.readline():
            pass
        place.door.fault = "error"
        said, errors = training.communicate(timeout=200)
    assert training.returncode == 0, errors
    assert "Traceback" not in errors
    assert "of run" in errors
    assert "To see the run, send its records first" in said
    place.door.fault = "none"
    assert mlproject.main(["sync"]) == 0
    run = mlflow.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert [step for step, _ in steps(run_id)] == [1, 2]
    assert mlproject.main(["evaluate", "--model_uri", "models:/synced@latest-run", "--examples", "0"]) == 0
    evaluated = capsys.readouterr().out
    assert f"{run.data.metrics['val_model/ece']:.4f}" in evaluated
