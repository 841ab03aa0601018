"""Collecting asks the tracking server a fixed number of times, however many runs there are."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import RunTag
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from studies.config import ReportConfig, TrainConfig
from studies.report.collect import collect


def light_runs(experiment: str, count: int, folder: Path) -> list[str]:
    """Record runs with a configuration and the metrics of the kept model only."""
    client = mlflow.MlflowClient()
    experiment_id = client.create_experiment(experiment, artifact_location=str(folder / experiment))
    ids = []
    for number in range(count):
        run = client.create_run(experiment_id, run_name=f"run {number}", tags={"kind": "train"})
        client.log_batch(run.info.run_id, tags=[RunTag("kind", "train")])
        client.log_metric(run.info.run_id, "val_model/mean_iou", number / 100)
        artifacts = Path(run.info.artifact_uri)
        artifacts.mkdir(parents=True)
        values = asdict(TrainConfig(dataset="folder", data_dir="x", monitor="val/mean_iou", seed=number))
        (artifacts / "config.json").write_text(json.dumps(values))
        client.set_terminated(run.info.run_id)
        ids.append(run.info.run_id)
    return ids


@contextmanager
def counted(patch: pytest.MonkeyPatch, *names: str) -> Iterator[list[str]]:
    calls: list[str] = []
    for name in names:
        original = getattr(SqlAlchemyStore, name)

        def call(self: SqlAlchemyStore, *args: object, _name: str = name, _original: object = original, **more: object):  # type: ignore[no-untyped-def]
            calls.append(_name)
            return _original(self, *args, **more)  # type: ignore[operator]

        patch.setattr(SqlAlchemyStore, name, call)
    yield calls


def test_the_number_of_requests_does_not_grow_with_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = light_runs("few light runs", 9, tmp_path), light_runs("many light runs", 20, tmp_path)
    found = []
    for experiment, ids in (("few light runs", few), ("many light runs", many)):
        with monkeypatch.context() as patch, counted(patch, "get_run", "search_runs", "get_experiment") as calls:
            content = collect(ReportConfig(experiment=experiment))
        assert [run.run_id for run in content.training_runs] == ids
        assert [run.config["seed"] for run in content.training_runs] == list(range(len(ids)))
        assert content.main is not None
        assert content.main.run_id == ids[-1]
        found.append(sorted(calls))
    assert found[0] == found[1]
    assert found[0].count("get_run") <= 1
