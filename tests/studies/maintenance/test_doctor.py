import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

import mlproject
from segmentation.config import DataConfig
from segmentation.data import load_split
from segmentation.system.processes import me
from segmentation.training import checkpoints
from studies import tracking
from studies.tracking.ownership import OWNER
from tests.conftest import PROJECT

pytestmark = pytest.mark.slow


def left_by_a_dead_process(record: dict[str, Any]) -> tuple[str, Path]:
    """Return a RUNNING run and the journal of its dead process, with one record."""
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        dead = json.dumps(me() | {"pid": process.pid})
    run_id = tracking.create_run("doctor", "left", {"kind": "train"})
    mlflow.MlflowClient().set_tag(run_id, tracking.PROCESS, dead)
    folder = Path("unsent", run_id)
    folder.mkdir(parents=True)
    (folder / OWNER).write_text(dead)
    (folder / "records.jsonl").write_text(f"{json.dumps(record)}\n")
    return run_id, folder


def test_doctor_closes_a_run_whose_process_is_dead_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        pid = process.pid
    runs = {
        "dead": me() | {"pid": pid}, "alive": me() | {"pid": os.getpid()}, "elsewhere": me() | {"host": "another"},
    }  # fmt: skip
    ids = {}
    for name, told in runs.items():
        ids[name] = tracking.create_run("doctor", name, {"kind": "train"})
        mlflow.MlflowClient().set_tag(ids[name], tracking.PROCESS, json.dumps(told))
    assert mlproject.main(["doctor", "--close=False"]) == 0
    assert mlflow.get_run(ids["dead"]).info.status == "RUNNING"
    capsys.readouterr()
    assert mlproject.main(["doctor"]) == 0
    said = capsys.readouterr().out
    states = {name: mlflow.get_run(run_id).info.status for name, run_id in ids.items()}
    assert states == {"dead": "KILLED", "alive": "RUNNING", "elsewhere": "RUNNING"}
    assert f"--resume {ids['dead']}" in said, "it had finished no epoch, and can start again in its run"
    tags = mlflow.get_run(ids["dead"]).data.tags
    assert tags["status_reason"] == "its process died"
    assert tags["mlflow.note.content"].startswith("**Stopped:** its process died\n")
    assert f"--resume {ids['dead']}\n```" in tags["mlflow.note.content"]
    for run_id in ids.values():
        mlflow.MlflowClient().set_terminated(run_id)


def test_doctor_names_a_damaged_checkpoint_and_a_damaged_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "checkpoints" / "some-run" / "last.pt"
    about = tmp_path / "cache" / "mlproject" / "a" / "b" / "about.json"
    for file in (checkpoint, about):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"half of it")
    assert mlproject.main(["doctor"]) == 1
    said = capsys.readouterr()
    assert "checkpoints/some-run/last.pt is not a checkpoint of this program, or it is damaged" in said.err
    assert f"{about.parent} was damaged" in said.out


def test_doctor_finds_damage_that_opening_a_cache_does_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = DataConfig(dataset="shapes", resize=16, crop=16, cache_dir=str(tmp_path / "kept"))
    images = np.array(load_split(config, "val").images)
    (file,) = (tmp_path / "kept").glob("*/*/images.npy")
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not np.array_equal(load_split(config, "val").images, images)

    doctor = ["doctor", "--cache_dir", config.cache_dir]
    assert mlproject.main([*doctor, "--close=False"]) == 1
    assert f"the prepared images in {file.parent} are damaged" in capsys.readouterr().err
    assert mlproject.main(doctor) == 0
    assert f"{file.parent} was damaged" in capsys.readouterr().out
    np.testing.assert_array_equal(load_split(config, "val").images, images)
    assert mlproject.main(doctor) == 0
    assert "1 split" in capsys.readouterr().out

    other = tmp_path / "kept/a/b"
    other.mkdir(parents=True)
    (other / "about.json").write_text('{"format": 2}')
    assert mlproject.main(doctor) == 0
    assert "1 split" in capsys.readouterr().out, "a cache of another version is not damaged"


def test_doctor_sends_the_records_of_a_dead_run_before_it_closes_it(capsys: pytest.CaptureFixture[str]) -> None:
    run_id, folder = left_by_a_dead_process({"what": "end", "status": "FINISHED", "time": 1})
    mlproject.main(["doctor"])
    assert "its records were sent, it is FINISHED" in capsys.readouterr().out
    assert mlflow.get_run(run_id).info.status == "FINISHED"
    assert not folder.exists()


def test_doctor_closes_a_dead_run_and_names_the_record_that_mlflow_refuses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_id, folder = left_by_a_dead_process({"what": "tags", "values": {"k" * 300: "a name that is too long"}})
    for _ in range(2):
        assert mlproject.main(["doctor"]) == 1
        said = capsys.readouterr()
        assert f"MLflow has refused 1 record of run {run_id}, set aside in {folder}" in said.err
        assert "MLflow refuses tags kkk" in said.err
        assert "Unsent records: of 0 runs" in said.out
        assert mlflow.get_run(run_id).info.status == "KILLED"


WORKERS = """
import os, sys, time
from pathlib import Path
from segmentation.training import checkpoints
from studies import tracking
for name in ("first", "left", "last"):
    if os.fork() == 0:
        os.chdir(name)
        with tracking.tracked_run("doctor", "shared", {"kind": "tune"}, sys.argv[1], shared=True, others=lambda: True):
            print(name, os.getpid(), flush=True)
            while not Path("leave").exists():
                time.sleep(0.05)
        os._exit(0)
for _ in range(3):
    print("ended", os.wait()[0], flush=True)
"""
"""Starts three workers of a study as forks of one process, which imports torch once."""


def test_doctor_closes_a_study_when_all_its_workers_are_dead_and_not_before(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run_id = tracking.create_run("doctor", "shared", {"kind": "tune"})
    for name in ("first", "left", "last"):
        (tmp_path / name).mkdir()
    parent = subprocess.Popen(
        [sys.executable, "-c", WORKERS, run_id], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert parent.stdout is not None
    lines = parent.stdout
    pids = {name: int(pid) for name, pid in (lines.readline().split() for _ in range(3))}
    (tmp_path / "left" / "leave").touch()
    assert lines.readline() == f"ended {pids['left']}\n"
    os.kill(pids["last"], signal.SIGKILL)
    assert lines.readline() == f"ended {pids['last']}\n"

    def judged() -> tuple[str, str]:
        mlproject.main(["doctor"])
        (line,) = [line for line in capsys.readouterr().out.splitlines() if run_id in line]
        return mlflow.get_run(run_id).info.status, line

    status, line = judged()
    assert status == "RUNNING"
    assert f"process {pids['first']} on" in line
    assert f"process {pids['left']} on" not in line
    assert "at least one process is alive" in line
    os.kill(pids["first"], signal.SIGKILL)
    parent.communicate()
    status, line = judged()
    assert status == "KILLED"
    assert "dead; closed as KILLED" in line


def test_doctor_creates_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'absent.db'}")
    assert mlproject.main(["doctor"]) == 0
    assert f"Runs: none yet, sqlite:///{tmp_path / 'absent.db'} does not exist." in capsys.readouterr().out
    assert not (tmp_path / "absent.db").exists()


@pytest.mark.parametrize("command", ["doctor", "sync"])
def test_the_run_that_mlflow_opens_for_doctor_and_sync_is_named(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = mlflow.MlflowClient()
    opened = client.create_run(client.create_experiment(f"for {command}"), run_name="ugly-slug-7").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    assert mlproject.main([command]) == 0
    run = client.get_run(opened)
    assert (run.info.run_name, run.data.tags["kind"], run.info.status) == (command, command, "RUNNING")
    client.set_terminated(opened)


def test_doctor_lists_and_prunes_the_checkpoints_that_finished_runs_do_not_need(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, expected = mlflow.MlflowClient(), []
    monkeypatch.setattr(checkpoints, "load", lambda file: None)
    logged = tracking.create_run("doctor", "logged", {"kind": "train"})
    monkeypatch.setattr(tracking, "has_model", lambda run_id: run_id == logged)
    for status, kind, names in (
        ("FINISHED", "train", ["best.pt", "last.pt"]),  # its model is in MLflow
        ("FINISHED", "train", ["last.pt"]),
        ("FINISHED", "train", []),
        ("KILLED", "train", []), ("FAILED", "train", []), ("RUNNING", "train", []), ("FINISHED", "other", []),
    ):  # fmt: skip
        run_id = logged if not expected else tracking.create_run("doctor", status, {"kind": kind})
        folder = tmp_path / "checkpoints" / run_id
        folder.mkdir(parents=True)
        (folder / "best.pt").write_bytes(bytes(1_000_000))
        if len(expected) != 3:
            (folder / "last.pt").write_bytes(bytes(2_000_000))
        expected += [folder / name for name in names] or [folder]
        client.set_terminated(run_id, status)
    gone = [file for file in expected if file.suffix == ".pt"]
    kept = set(tmp_path.glob("checkpoints/*/*.pt")) - set(gone)
    (tmp_path / "checkpoints" / "unknown").mkdir()
    (tmp_path / "checkpoints" / "unknown" / "last.pt").write_bytes(b"of another store")

    mlproject.main(["doctor"])
    said = capsys.readouterr().out
    assert all(f"checkpoints/{file.parent.name}/{file.name}" in said for file in gone)
    assert not any(f"checkpoints/{file.parent.name}/{file.name}" in said for file in kept)
    assert "To delete 3 checkpoints, 5.0 MB" in said
    assert "doctor --prune True" in said
    assert all(file.is_file() for file in gone)
    mlproject.main(["doctor", "--prune", "true"])
    assert "Deleted 3 checkpoints, 5.0 MB." in capsys.readouterr().out
    assert set(tmp_path.glob("checkpoints/*/*.pt")) == {*kept, tmp_path / "checkpoints/unknown/last.pt"}
