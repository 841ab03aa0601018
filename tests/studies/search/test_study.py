"""Studies of real tiny trials: what they log to MLflow, how they end, and how they are resumed."""

import csv
import io
import shlex
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import optuna
import pytest
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna import Study
from optuna.trial import TrialState

import mlproject
from segmentation.data import shapes
from segmentation.errors import InputError
from studies import tracking
from studies.config import StatusConfig, StudyConfig, TrainConfig, TuneConfig
from studies.runs.start import load_data
from studies.runs.training import run_training
from studies.search import finishing
from studies.search.finishing import FINISHED, LOCK
from studies.search.plan import make_plan
from studies.search.show_status import show_status
from studies.search.space import grid_points
from studies.search.storage import open_storage
from studies.search.study import run_study
from studies.search.trials import EPOCHS, INTERRUPTED, LONGEST, RUN, counted_trials, kept_metrics, reason_of
from studies.search.worker import Worker
from tests.studies.search.conftest import tiny

pytestmark = pytest.mark.slow


def search(root: Path, **more: Any) -> TuneConfig:
    return TuneConfig(**tiny(root, **{"epochs": 2, "study_name": "s"} | more))


def opened(config: StudyConfig, name: str = "s") -> Study:
    with open_storage(config, heartbeat=60) as storage:
        return optuna.load_study(study_name=name, storage=storage)


def parent_of(study: Study) -> Run:
    return MlflowClient().get_run(study.user_attrs["mlflow_run_id"])


def children(study: Study) -> list[Run]:
    run = parent_of(study)
    query = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    return MlflowClient().search_runs([run.info.experiment_id], query, order_by=["attributes.start_time ASC"])


def artifacts(run: Run) -> set[str]:
    return {file.path for file in MlflowClient().list_artifacts(run.info.run_id, "study")}


def test_a_grid_logs_its_table_its_heat_maps_and_a_run_for_each_trial(
    own_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = "learning_rate=0.01|0.1,weight_decay=0"
    config = search(own_data, sampler="grid", search=grid, confirm_seeds=2, monitor="val/ece")
    run_study(config)
    printed = capsys.readouterr().out
    study = opened(config)
    trials = counted_trials(study)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    parent = parent_of(study)
    assert parent.info.status == "FINISHED"
    assert "learning_rate" not in parent.data.params  # searched, so not a parameter of the study
    assert parent.data.params["momentum"] == "0.9"
    assert {"study/trials.csv", "study/trials.md", "study/loss.png", "study/pixel_accuracy.png", "study/ece.png"} <= (
        artifacts(parent)
    )

    # the table holds the metrics that the runs logged
    rows = list(csv.DictReader(io.StringIO(mlflow.artifacts.load_text(f"runs:/{parent.info.run_id}/study/trials.csv"))))
    assert len(rows) == 2
    for row, trial in zip(rows, trials, strict=True):
        run = MlflowClient().get_run(row["run_id"])
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert (run.data.tags["trial"], run.data.tags["sampler"]) == (str(trial.number), "grid")
        assert float(run.data.params["learning_rate"]) == float(row["learning_rate"]) == trial.params["learning_rate"]
        history = MlflowClient().get_metric_history(run.info.run_id, "val/loss")
        kept = {point.step: point.value for point in history}[int(row["epoch"])]
        assert float(row["val/loss"]) == kept == trial.value
        ece = {point.step: point.value for point in MlflowClient().get_metric_history(run.info.run_id, "val/ece")}
        assert int(row["epoch"]) == min(ece, key=lambda step: ece[step])  # the monitor decides
    best = study.best_trial
    assert f"Best by val/loss: trial {best.number}," in printed
    assert parent.data.tags["objective"] == "val/loss"
    assert parent.data.tags["best_trial"] == str(best.number)
    assert "Predicting " in parent.data.tags["baseline"]
    assert parent.data.metrics["val_model/loss"] == best.value
    found = MlflowClient().search_runs([parent.info.experiment_id], f"metrics.`val_model/loss` <= {best.value}")
    assert {run.info.run_id for run in found} >= {parent.info.run_id, best.user_attrs[RUN]}, "one filter must find both"
    assert parent.data.tags["best_run"] == best.user_attrs[RUN]

    # the printed command trains the best trial again, with the same result
    (line,) = [line.strip() for line in printed.splitlines() if "mlproject.py train " in line]
    words = shlex.split(line)
    arguments = words[words.index("train") + 1 :]
    again = run_training(mlproject.parse(TrainConfig, arguments, "train"))
    assert again.kept["val/loss"] == best.value

    # further seeds
    with open_storage(config, heartbeat=60) as storage:
        confirmed = optuna.load_study(study_name=f"s · trial {best.number} confirmed", storage=storage)
    values = [trial.value for trial in confirmed.trials]
    assert [trial.params for trial in confirmed.trials] == [{"seed": 1}, {"seed": 2}]
    assert len({*values, best.value}) == 3
    assert f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}" in capsys.readouterr().out + printed
    roles = [run.data.tags["role"] for run in children(study)]
    assert sorted(roles) == ["confirmation"] * 2 + ["search"] * 2
    assert "further seed" in parent.data.tags["mlflow.note.content"]

    # a second call has nothing to do
    run_study(config)
    assert len(children(study)) == 4
    assert parent_of(study).info.status == "FINISHED"


def test_only_the_best_trial_draws_plots_and_logs_its_model_at_the_end(
    own_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that does it dies first; the same command does it, without training."""
    config = search(
        own_data, sampler="grid", search="learning_rate=0.01|0.1", epochs=1, plot_every=1, log_model=True, examples=1,
        register_as="tuned",
    )  # fmt: skip

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(finishing, "complete_run", die)
        with pytest.raises(KeyboardInterrupt):
            run_study(config)
    study = opened(config)
    best = study.best_trial
    runs = [trial.user_attrs[RUN] for trial in study.trials]
    client = MlflowClient()
    assert FINISHED not in study.user_attrs
    for run_id in runs:
        assert not mlflow.search_logged_models([client.get_run(run_id).info.experiment_id], output_format="list")
        assert not [file.path for file in client.list_artifacts(run_id, "reliability") if file.path.endswith(".png")]

    monkeypatch.setattr("studies.search.worker.run_training", die)
    with FileLock(Path(config.checkpoint_dir) / best.user_attrs[RUN] / LOCK):
        run_study(config)
    assert "Another process draws the plots" in capsys.readouterr().out
    assert FINISHED not in opened(config).user_attrs

    run_study(config)
    assert opened(config).user_attrs[FINISHED] == best.user_attrs[RUN]
    run = client.get_run(best.user_attrs[RUN])
    assert (run.info.status, run.info.run_name) == ("FINISHED", run.data.tags["mlflow.runName"])
    assert run.info.run_name.startswith(f"search {best.number} · ")
    assert run.data.tags["mlflow.parentRunId"] == parent_of(study).info.run_id
    paths = {
        file.path
        for folder in ("reliability", "curves", "examples")
        for file in client.list_artifacts(run.info.run_id, folder)
    }
    assert {"reliability/val.png", "reliability/val.json", "curves/loss.png", "examples/val_0.png"} <= paths
    (version,) = client.search_model_versions("name='tuned'")
    assert version.run_id == run.info.run_id
    (loaded,) = mlflow.search_logged_models([run.info.experiment_id], output_format="list")
    assert loaded.source_run_id == run.info.run_id
    history = client.get_metric_history(run.info.run_id, "val/loss")
    assert [point.step for point in history] == [1]
    scores = mlflow.artifacts.load_dict(f"runs:/{run.info.run_id}/reliability/val.json")
    assert scores["metrics"]["loss"] == pytest.approx(best.value, rel=1e-6)

    def refuse(*_: object) -> None:
        raise AssertionError("it is finished")

    monkeypatch.setattr(finishing, "complete_run", refuse)
    run_study(config)


@pytest.mark.parametrize(("outputs", "logs_model"), [("best", False), ("all", True)])
def test_trials_log_their_model_only_on_request(own_data: Path, outputs: Any, logs_model: bool) -> None:
    config = search(own_data, trial_outputs=outputs, plot_every=5, log_model=True, register_as="tuned")
    plan = make_plan(config)
    trial = plan.trial_config({"learning_rate": 0.01, "weight_decay": 0.0})
    assert (trial.log_model, trial.plot_every, trial.register_as) == (logs_model, 5 * logs_model, None)
    best = plan.best_config({"learning_rate": 0.01, "weight_decay": 0.0})
    assert (best.log_model, best.plot_every, best.register_as) == (True, 5, "tuned")
    assert plan.settings() == make_plan(replace(config, trial_outputs="best")).settings()


def test_a_search_prunes_within_its_budget_and_can_be_extended(
    own_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both calls get a run from `mlflow run`: the first becomes the study's run, the second a worker's."""
    client = MlflowClient()
    given = [client.create_run("0").info.run_id for _ in range(2)]
    monkeypatch.setenv("MLFLOW_RUN_ID", given[0])
    same = {"search": "learning_rate=0.0001..0.1,flip=0..1", "model": "lraspp_mobilenet_v3_large"}
    config = search(own_data, max_epochs_total=5, **same)
    run_study(config)
    study = opened(config)
    assert sum(trial.user_attrs["epochs"] for trial in study.trials) <= 5
    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert pruned
    for trial in pruned:
        run = MlflowClient().get_run(trial.user_attrs[RUN])
        assert run.info.status == "KILLED"
        assert f"pruned at epoch {trial.user_attrs['epochs']}" in run.data.tags["status_reason"]
        assert len(MlflowClient().get_metric_history(run.info.run_id, "val/loss")) == trial.user_attrs["epochs"] == 1
    assert {"study/history.png", "study/trials.png", "study/reliability.png"} <= artifacts(parent_of(study))

    assert parent_of(study).info.run_id == given[0]

    before = len(study.trials)
    monkeypatch.setenv("MLFLOW_RUN_ID", given[1])
    run_study(search(own_data, n_trials=before + 1, **same))
    assert len(opened(config).trials) == before + 1
    assert "Resuming study 's'" in capsys.readouterr().out
    assert parent_of(opened(config)).info.run_id == given[0]
    assert client.get_run(given[1]).info.run_name == "worker of s"
    assert client.get_run(given[1]).data.tags["study_run"] == given[0]

    with pytest.raises(InputError, match=r"study_name=s .*epochs=2 \(now 3\)"):
        run_study(search(own_data, epochs=3, max_epochs_total=4, **same))

    show_status(StatusConfig(study_name="s"))
    printed = capsys.readouterr().out
    assert printed.startswith("s: ")
    assert f"{len(pruned)} pruned" in printed
    for place in ("other.journal", "sqlite:///other.db"):
        with pytest.raises(InputError, match=f"storage={place}"):
            show_status(StatusConfig(storage=place))
        assert not Path(place.removeprefix("sqlite:///")).exists()
    with pytest.raises(InputError, match="study_name=t is not in storage=studies.journal, which holds s"):
        show_status(StatusConfig(study_name="t"))


def test_an_interrupted_search_is_resumed_with_the_same_results(
    own_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by a signal after the first of three epochs: the same values and metrics, to the last digit."""
    more = {"epochs": 3, "n_trials": 2, "search": "learning_rate", "pruner": "none"}
    run_study(search(own_data, **more))
    whole = opened(search(own_data))

    config = search(own_data, **more, study_name="t")
    fields = tiny(own_data, **more, study_name="t")
    arguments = [part for name, value in fields.items() for part in (f"--{name}", str(value))]
    keep = Worker._keep

    def keep_and_stop(*given: Any) -> None:
        keep(*given)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_keep", keep_and_stop)
        assert mlproject.main(["tune", *arguments]) == 130
    assert "Run the same command again to resume the study." in capsys.readouterr().out
    interrupted = opened(config, "t")
    assert parent_of(interrupted).info.status == "KILLED"
    assert [trial.state for trial in interrupted.trials] == [TrialState.FAIL, TrialState.WAITING]
    assert interrupted.trials[0].user_attrs[INTERRUPTED] == "not a failure; a new trial resumes it"
    assert INTERRUPTED not in interrupted.trials[1].user_attrs
    assert [trial.user_attrs[EPOCHS] for trial in interrupted.trials] == [1, 1]
    (run,) = children(interrupted)
    assert run.info.status == "KILLED"
    assert run.data.tags["status_reason"] == "killed by SIGTERM"

    assert mlproject.main(["tune", *arguments]) == 0
    resumed = opened(config, "t")
    assert [trial.params for trial in counted_trials(resumed)] == [trial.params for trial in counted_trials(whole)]
    for ours, theirs in zip(counted_trials(resumed), counted_trials(whole), strict=True):
        assert ours.value == theirs.value
        ours_run, theirs_run = (MlflowClient().get_run(trial.user_attrs[RUN]) for trial in (ours, theirs))
        assert ours_run.info.status == "FINISHED"
        assert "status_reason" not in ours_run.data.tags
        timed = {"epoch_seconds", "images_per_second"}
        for name in set(theirs_run.data.metrics) - timed:
            if not name.startswith("system/"):
                points = [MlflowClient().get_metric_history(each.info.run_id, name) for each in (ours_run, theirs_run)]
                histories = [sorted((point.step, point.value) for point in each) for each in points]
                assert histories[0] == histories[1], name
    assert parent_of(resumed).info.status == "FINISHED"
    assert len(children(resumed)) == 2
    assert resumed.user_attrs["trials"] == "2 trials. 1 interrupted trial resumed under another number, shown as Fail."
    for attributes in (resumed.user_attrs, *(trial.user_attrs for trial in resumed.trials)):  # columns of dashboards
        assert max(len(str(value)) for value in attributes.values()) <= LONGEST


def test_failed_trials_stop_the_worker(own_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """checkpoint_dir is a file, so no checkpoint can be written."""
    broken = str(own_data / "classes.txt")
    config = search(own_data, checkpoint_dir=broken, max_failures=2, n_trials=5, pruner="none")
    with pytest.raises(InputError, match="2 trials in a row failed .*max_failures=2.*: checkpoint .*classes.txt"):
        run_study(config)
    study = opened(config)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 2
    assert parent_of(study).info.status == "FAILED"
    for run in children(study):
        assert run.info.status == "FAILED"
        assert "InputError: checkpoint " in run.data.tags["status_reason"]
    assert "failed: InputError: checkpoint " in capsys.readouterr().out


def test_a_trial_that_diverges_is_pruned(own_data: Path) -> None:
    config = search(own_data, search="learning_rate=1e30", sampler="grid")
    run_study(config)
    study = opened(config)
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED]
    for run in children(study):
        assert run.info.status == "KILLED"
        assert "the loss is" in run.data.tags["status_reason"]


def test_two_objectives_with_a_constraint_leave_a_front_in_a_sqlite_file(
    own_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = search(
        own_data, objectives="val/mean_iou,val/ece", constraint="val/pixel_accuracy>=0.2", n_trials=2, epochs=1,
        search="learning_rate,momentum", storage="sqlite:///s.db",
    )  # fmt: skip
    run_study(config)
    study = opened(config)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["val/mean_iou", "val/ece"]
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    for trial in study.trials:
        history = MlflowClient().get_metric_history(trial.user_attrs[RUN], "val/ece")
        assert trial.values[1] == {point.step: point.value for point in history}[kept_metrics(trial)["epoch"]]
        accuracy = kept_metrics(trial)["val/pixel_accuracy"]
        assert trial.constraints == {"val/pixel_accuracy>=0.2": pytest.approx(0.2 - accuracy)}
    assert "study/pareto.png" in artifacts(parent_of(study))
    printed = capsys.readouterr().out
    assert all(f"trial {trial.number}" in printed for trial in study.best_trials)


def test_wrong_fields_are_refused_before_the_first_trial(own_data: Path, tmp_path: Path) -> None:
    for values, message in (
        ({"storage": "sqlite:///s.db", "workers": 2}, "storage=sqlite:///s.db with workers=2"),
        ({"storage": "mysql://a/b"}, "MySQL and MariaDB are not supported"),
        ({"storage": "mysql+pymysql://a/b"}, "Write postgresql://HOST/NAME"),
        ({"storage": "postgresql+psycopg2://a/b"}, "write postgresql:// instead of postgresql+psycopg2://"),
        ({"storage": "postgres://a/b"}, "write postgresql:// instead of postgres://"),
        ({"storage": "sqlite+pysqlite:///s.db"}, "write sqlite:///FILE"),
        ({"storage": "redis://a/b"}, "write FILE.journal"),
        ({"storage": "postgresql+psycopg://me@127.0.0.1:1/x"}, "cannot be used"),
        ({"storage": "postgresql://me:secret@localhost/x"}, "storage holds a password"),
        ({"storage": "postgresql://localhost/x?password=secret"}, "storage holds a password"),
        ({"storage": "postgresql://me@[::1/x"}, "cannot be used"),
        ({"storage": "postgresql://me@127.0.0.1:1/x"}, "cannot be used"),
        ({"storage": str(tmp_path)}, "cannot be written"),
        ({"storage": "nowhere/s.journal"}, "nowhere does not exist"),
        ({"sampler": "grid", "n_trials": 3}, "sampler=grid tries every combination"),
        ({"max_epochs_total": 1}, "max_epochs_total=1 "),
        ({"sampler": "gp", "pruner": "halving"}, "pruner=halving does not fit sampler=gp"),
        ({"objectives": "val/loss,val/ece", "pruner": "median"}, "pruner=median needs a single objective"),
        ({"learning_rate": 0.5}, "learning_rate=0.5 is set"),
        ({"data_dir": str(tmp_path / "nowhere")}, "nowhere"),
    ):
        with pytest.raises(InputError) as caught:
            run_study(search(own_data, **values))
        assert message in str(caught.value)
        assert "secret" not in str(caught.value)


def test_the_default_budget_is_half_of_the_original_grid() -> None:
    assert make_plan(TuneConfig()).max_epochs == 8 * 50
    assert make_plan(TuneConfig(n_trials=3)).max_epochs is None
    assert make_plan(TuneConfig(sampler="grid")).max_epochs is None
    assert make_plan(TuneConfig(objective="val/ece")).base.monitor == "val/ece"
    assert make_plan(TuneConfig(objectives="val/ece,val/loss")).base.monitor == "val/ece"
    assert make_plan(TuneConfig(objective="val/ece", monitor="val/loss")).base.monitor == "val/loss"
    typed = mlproject.parse(TuneConfig, ["--objective", "val/ece", "--monitor", "val/mean_iou"], "tune")
    assert make_plan(typed).base.monitor == "val/mean_iou"


def test_trials_that_search_a_field_of_the_data_get_other_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "COUNTS", {"train": 8, "val": 4, "test": 4})
    worker = Worker(None, None, "", "search", 1)  # type: ignore[arg-type]
    config = TrainConfig(dataset="shapes", resize=16, crop=16)
    ours = worker._data(config)
    changes: tuple[dict[str, Any], ...] = (
        {"calibration_fraction": 0.5}, {"dataset_seed": 1}, {"train_split": "val"}, {"resize": 24}, {"crop": 8},
    )  # fmt: skip
    for change in changes:
        other = replace(config, **change)
        theirs, expected = worker._data(other), load_data(other)
        assert theirs.train.fingerprint == expected.train.fingerprint
        np.testing.assert_array_equal(theirs.train.images, expected.train.images)
        assert not np.array_equal(ours.train.images, theirs.train.images)
    assert worker._data(replace(config, seed=5, learning_rate=0.5)) is ours


def test_a_failure_before_the_training_starts_has_a_reason(own_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deleted experiment. Without a reason the trial would look like one of a dead worker, and be retried forever."""
    config = search(own_data, n_trials=9, max_failures=2)
    plan = make_plan(config)
    study = optuna.create_study(study_name="s", storage=None)
    parent = tracking.create_run("to be deleted", "study", {})
    experiment = MlflowClient().get_experiment_by_name("to be deleted")
    assert experiment is not None
    MlflowClient().delete_experiment(experiment.experiment_id)
    with pytest.raises(InputError, match="2 trials in a row failed .*: InputError: MLflow at"):
        Worker(study, plan, parent, "search", config.max_failures).work()
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 2
    for trial in study.trials:
        assert "deleted" in str(reason_of(trial))


def test_an_invalid_combination_beyond_the_checked_corners_fails_its_trial(own_data: Path) -> None:
    """More combinations than are checked at the start; the invalid ones come last."""
    many = "|".join(f"0.{number:04d}" for number in range(1, 1101))
    more = {"search": f"crop=16|256,momentum={many}", "resize": 128, "crop": 128}
    config = search(own_data, sampler="grid", max_failures=2, **more)
    plan = make_plan(config)
    study = optuna.create_study(study_name="s", storage=None)
    for values in grid_points(plan.space)[1::2][:5]:
        assert values["crop"] > config.resize
        study.enqueue_trial(values)
    with pytest.raises(InputError, match="2 trials in a row failed .*crop=256.* is not valid"):
        Worker(study, plan, "", "search", config.max_failures).work()
    reasons = [str(reason_of(trial)) for trial in study.trials]
    assert [state.name for state in (trial.state for trial in study.trials)] == ["FAIL"] * 2 + ["WAITING"] * 3
    assert all("crop=256 is larger than resize=128" in reason for reason in reasons[:2])


def test_an_epoch_that_a_killed_process_did_not_report_is_reported_after_resuming(own_data: Path) -> None:
    """A checkpoint is saved before its epoch is reported; the pruner must see that epoch all the same."""
    fields = tiny(own_data, epochs=3)
    config, reported = TrainConfig(**fields), []

    def report(epoch: int, metrics: dict[str, float]) -> None:
        if epoch == 2 and len(reported) == 1:
            raise KeyboardInterrupt("killed")
        reported.append((epoch, metrics["val/loss"]))

    run_id = tracking.create_run(config.experiment, "killed", {})
    with pytest.raises(KeyboardInterrupt):
        run_training(config, run_id, watch=report)
    assert [epoch for epoch, _ in reported] == [1]
    run_training(config, run_id, watch=report)
    history = MlflowClient().get_metric_history(run_id, "val/loss")
    assert reported == reported[:1] + [(point.step, point.value) for point in history]
    assert [epoch for epoch, _ in reported] == [1, 1, 2, 3]
