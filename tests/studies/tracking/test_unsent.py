"""Journals of ended processes are sent to a real store."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest

from segmentation.errors import InputError
from segmentation.system.processes import me
from studies import tracking
from studies.base.checksum import CHECKSUM, WEIGHTS
from studies.tracking.ownership import OWNER
from tests.studies.conftest import Trained


def journal(folder: Path, process: dict[str, Any], *records: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / OWNER).write_text(json.dumps(process))
    (folder / "records.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    file = folder / "files.d" / "000000"
    file.mkdir(parents=True)
    (file / "known.txt").write_text("of the dead process")
    (file.parent / "000001").mkdir()
    (file.parent / "000001" / "new.txt").write_text("of the dead process")
    entries = [{"what": "artifacts", "path": name} for name in ("known.txt", "new.txt")]
    (folder / "files.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    return folder


def metrics(step: int, value: float) -> dict[str, Any]:
    return {"what": "metrics", "values": {"val/loss": value}, "step": step, "time": step}


LATE = (
    metrics(1, 0.5), metrics(2, 0.4), metrics(3, 0.3),
    {"what": "tags", "values": {"status_reason": "its server was away"}},
    {"what": "end", "status": "FAILED", "time": 9},
)  # fmt: skip


def finished() -> str:
    """Return a run whose second epoch is missing."""
    with tracking.tracked_run("unsent", "resumed", {}) as run_id:
        tracking.log_metrics({"val/loss": 0.5}, 1)
        tracking.log_metrics({"val/loss": 0.3}, 3)
        tracking.log_text("of the living process", "known.txt")
    return run_id


def test_records_of_a_run_that_another_process_has_resumed_only_fill_gaps(tmp_path: Path) -> None:
    run_id = finished()
    folder = journal(tmp_path / run_id, me() | {"host": "another"}, *LATE)
    assert tracking.send_unsent(folder) == 0
    run, points = mlflow.get_run(run_id), mlflow.MlflowClient().get_metric_history(run_id, "val/loss")
    assert sorted((point.step, point.value) for point in points) == [(1, 0.5), (2, 0.4), (3, 0.3)]
    assert run.info.status == "FINISHED"
    assert "status_reason" not in run.data.tags
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/known.txt") == "of the living process"
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/new.txt") == "of the dead process"
    assert not folder.exists()


def test_records_of_the_last_process_of_a_run_are_all_sent(tmp_path: Path) -> None:
    run_id = finished()
    assert tracking.send_unsent(journal(tmp_path / f"{run_id}.1", me(), *LATE[3:])) == 0
    run = mlflow.get_run(run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["status_reason"] == "its server was away"
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/known.txt") == "of the dead process"


def test_a_journal_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run aaa does not exist.*remove"):
        tracking.send_unsent(journal(tmp_path / "aaa", me()))


def test_a_model_that_is_sent_late_takes_no_alias_from_a_later_one(two_seeds: Trained, tmp_path: Path) -> None:
    saved = mlflow.artifacts.download_artifacts("models:/first-seed@first", dst_path=str(tmp_path / "saved"))

    def send(made: int) -> str:
        run_id = tracking.create_run("unsent", f"made at {made}", {})
        folder = tmp_path / run_id
        shutil.copytree(saved, folder / "files.d" / "000000" / "model")
        if made == 1000:  # as earlier versions saved it
            (folder / "files.d/000000/model" / WEIGHTS).unlink()
            file = folder / "files.d/000000/model/MLmodel"
            file.write_text(re.sub(rf"\n +{CHECKSUM}: \w+", "", file.read_text()))
            assert CHECKSUM not in file.read_text()
        (folder / OWNER).write_text(json.dumps(me()))
        entry = {"what": "model", "register_as": "sent late", "alias": "latest-run", "time": made}
        (folder / "files.jsonl").write_text(json.dumps(entry) + "\n")
        assert tracking.send_unsent(folder) == 0
        return run_id

    client, run_ids = mlflow.MlflowClient(), []
    for made, latest in ((2000, 0), (1000, 0), (3000, 2)):
        run_ids.append(send(made))
        assert client.get_model_version_by_alias("sent late", "latest-run").run_id == run_ids[latest]
    assert len(client.search_model_versions("name='sent late'")) == 3
