import os
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from segmentation.errors import InputError
from segmentation.training import checkpoints
from segmentation.training.checkpoints import Checkpoint, Writer, keep_as, load, remove_unneeded, save, size_of
from tests.conftest import PROJECT


def checkpoint(epoch: int = 3) -> Checkpoint:
    return Checkpoint(
        config={"model": "fcn_resnet50", "crop": None}, class_names=["a", "b"], palette=[[0, 0, 0], [1, 2, 3]],
        fingerprint="f", epoch=epoch, best_epoch=2, best_value=0.5, best_loss=0.25, network={"w": torch.arange(3.0)},
        optimizer={"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}, scaler={},
    )  # fmt: skip


def test_load_returns_what_save_has_written(tmp_path: Path) -> None:
    save(checkpoint(), tmp_path / "deep" / "last.pt")
    loaded = load(tmp_path / "deep" / "last.pt")
    assert torch.equal(loaded.network["w"], torch.arange(3.0))
    assert replace(loaded, network={}, optimizer={}) == replace(checkpoint(), network={}, optimizer={})
    assert loaded.labels.names == ("a", "b")


def test_a_new_checkpoint_replaces_the_old_one_and_leaves_no_other_file(tmp_path: Path) -> None:
    for epoch in (1, 2):
        save(checkpoint(epoch), tmp_path / "last.pt")
    assert load(tmp_path / "last.pt").epoch == 2
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    save(checkpoint(1), tmp_path / "last.pt")
    unwritable = replace(checkpoint(2), network={"w": lambda: None})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save(unwritable, tmp_path / "last.pt")
    assert load(tmp_path / "last.pt").epoch == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_created_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"last\.pt could not be written: .* set another checkpoint_dir"):
        save(checkpoint(), tmp_path / "file" / "last.pt")


def test_a_second_name_keeps_the_content_when_the_first_one_is_replaced(tmp_path: Path) -> None:
    best, last = tmp_path / "best.pt", tmp_path / "last.pt"
    save(checkpoint(1), last)
    save(checkpoint(2), best)
    keep_as(best, last)
    assert best.samefile(last)
    keep_as(best, last)
    save(checkpoint(3), last)
    assert (load(best).epoch, load(last).epoch) == (2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "last.pt"]


def test_a_second_name_is_a_copy_where_links_are_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(self: Path, target: Path) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", no_link)
    save(checkpoint(2), tmp_path / "best.pt")
    keep_as(tmp_path / "best.pt", tmp_path / "last.pt")
    assert load(tmp_path / "last.pt").epoch == 2
    with pytest.raises(InputError, match=r"last\.pt could not be written: .*best\.pt is intact"):
        keep_as(tmp_path / "best.pt", tmp_path / "no folder" / "last.pt")


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_an_input_error(fraction: float, tmp_path: Path) -> None:
    save(checkpoint(), tmp_path / "last.pt")
    content = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(InputError, match=r"last.pt is not a checkpoint of this program, or it is damaged"):
        load(tmp_path / "last.pt")


class Trap:
    """An object that runs a command when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.file}",)


def test_code_in_a_file_is_not_executed(tmp_path: Path) -> None:
    torch.save({"format": 1, "network": Trap(tmp_path / "executed")}, tmp_path / "trap.pt")
    with pytest.raises(InputError, match="is not a checkpoint"):
        load(tmp_path / "trap.pt")
    assert not (tmp_path / "executed").exists()


def test_a_file_of_another_program_and_a_missing_file_are_input_errors(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="is not a checkpoint of this program"):
        load(tmp_path / "other.pt")
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "missing.pt")


@pytest.mark.parametrize(("keep", "left"), [("best", "best.pt"), ("last", "last.pt")])
def test_a_finished_run_keeps_the_checkpoint_of_its_model(keep: str, left: str, tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"best")
    assert remove_unneeded(tmp_path, keep) == 0, "the only one"
    (tmp_path / "last.pt").write_bytes(b"and last")
    assert size_of(tmp_path.iterdir()) == 12
    assert remove_unneeded(tmp_path, keep) == {"best": 8, "last": 4}[keep]
    assert [file.name for file in tmp_path.iterdir()] == [left]


def test_two_names_of_one_checkpoint_take_its_size_once(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"best")
    keep_as(tmp_path / "best.pt", tmp_path / "last.pt")
    assert size_of(tmp_path.iterdir()) == 4
    assert remove_unneeded(tmp_path, "best") == 0
    assert [file.name for file in tmp_path.iterdir()] == ["best.pt"]


class Held:
    """Stands for `save`: it waits until it is let go, and records the epochs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started, self.go, self.epochs = threading.Semaphore(0), threading.Semaphore(0), list[int]()
        monkeypatch.setattr(checkpoints, "save", self)

    def __call__(self, checkpoint: Checkpoint, file: Path) -> None:
        self.started.release()
        assert self.go.acquire(timeout=10)
        self.epochs.append(checkpoint.epoch)
        save(checkpoint, file)


def test_a_checkpoint_is_written_by_a_thread_as_it_was_when_it_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(checkpoint(0), tmp_path / "last.pt")
    held, writer, given = Held(monkeypatch), Writer(tmp_path), checkpoint(1)
    writer.save(given, is_best=True)
    given.network["w"].zero_()  # training continues
    given.optimizer["state"][0]["momentum_buffer"].zero_()
    assert held.started.acquire(timeout=10)
    assert load(tmp_path / "last.pt").epoch == 0
    held.go.release()
    writer.close()
    writer.check()
    loaded = load(tmp_path / "last.pt")
    assert torch.equal(loaded.network["w"], torch.arange(3.0))
    assert torch.equal(loaded.optimizer["state"][0]["momentum_buffer"], torch.ones(2))
    assert (tmp_path / "best.pt").samefile(tmp_path / "last.pt")


def test_a_newer_checkpoint_replaces_one_that_waits_unless_that_is_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(checkpoint(0), tmp_path / "last.pt")
    held, writer = Held(monkeypatch), Writer(tmp_path)
    writer.save(checkpoint(1), is_best=True)
    assert held.started.acquire(timeout=10)
    writer.save(checkpoint(2), is_best=False)
    writer.save(checkpoint(3), is_best=True)
    held.go.release(2)
    threading.Timer(0.1, held.go.release, [2]).start()
    writer.save(checkpoint(4), is_best=False)  # waits until the third is being written
    writer.save(replace(checkpoint(5), network={"w": torch.ones(3)}), is_best=False)
    writer.close()
    writer.check()
    assert held.epochs[:2] == [1, 3]
    assert held.epochs[-1] == 5
    assert load(tmp_path / "best.pt").epoch == 3
    assert torch.equal(load(tmp_path / "best.pt").network["w"], torch.arange(3.0))
    assert torch.equal(load(tmp_path / "last.pt").network["w"], torch.ones(3))


@pytest.mark.parametrize("is_best", [False, True])
def test_the_first_checkpoint_is_written_when_save_returns(is_best: bool, tmp_path: Path) -> None:
    """A run that has logged an epoch can be resumed."""
    writer = Writer(tmp_path)
    writer.save(checkpoint(1), is_best)
    assert load(tmp_path / "last.pt").epoch == 1
    writer.close()


def test_an_error_of_the_thread_is_raised_by_save_and_by_check(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    writer = Writer(tmp_path / "file")
    for again in (
        lambda: writer.save(checkpoint(1), is_best=False),
        writer.check,
        lambda: writer.save(checkpoint(2), False),
    ):
        with pytest.raises(InputError, match=r"last\.pt could not be written: .* set another checkpoint_dir"):
            again()
    writer.close()


def test_an_error_after_the_first_checkpoint_is_raised_by_the_next_save(tmp_path: Path) -> None:
    save(checkpoint(0), tmp_path / "last.pt")
    (tmp_path / "best.pt" / "folder").mkdir(parents=True)
    writer = Writer(tmp_path)
    writer.save(checkpoint(1), is_best=True)
    writer.close()
    for again in (writer.check, lambda: writer.save(checkpoint(2), is_best=False)):
        with pytest.raises(InputError, match=r"best\.pt could not be written"):
            again()


KILLED = """
import os, signal, sys, threading
from dataclasses import replace
from pathlib import Path
import torch
from segmentation.training import checkpoints
from tests.segmentation.training.test_checkpoints import checkpoint

writer, write = checkpoints.Writer(Path(sys.argv[1])), torch.save
writer.save(checkpoint(1), is_best=True)
writer.close()

def half(content, stream):
    write(content, stream)
    stream.truncate(stream.tell() // 2)
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)

torch.save, writer = half, checkpoints.Writer(Path(sys.argv[1]))
writer.save(checkpoint(2), is_best=True)
threading.Event().wait(20)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_while_its_thread_writes_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=PROJECT, check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 3
    checkpoints.remove_unfinished(tmp_path)
    assert [load(tmp_path / name).epoch for name in sorted(file.name for file in tmp_path.iterdir())] == [1, 1]


def test_a_folder_that_the_system_refuses_is_named_with_the_reason() -> None:
    with pytest.raises(InputError, match=r"checkpoint_dir=/proc/none: /proc cannot be written"):
        checkpoints.check_folder(Path("/proc/none"))
