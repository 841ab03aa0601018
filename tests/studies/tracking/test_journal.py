"""The journal with a store that fails, and with processes that are killed."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from segmentation.errors import InputError
from segmentation.system import interruption
from studies.tracking import journal as journals
from studies.tracking.journal import Entry, Journal, RefusedError
from studies.tracking.ownership import OWNER, ClaimedError

FORK = get_context("fork")
"""Forked processes start at once; a new interpreter would import torch for seconds."""
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")


class Store:
    """Accepts entries, with the text of their file if they have one."""

    def __init__(self) -> None:
        self.accepted: list[tuple[Entry, str]] = []
        self.is_away = threading.Event()

    def send(self, entry: Entry, files: Path) -> None:
        if self.is_away.is_set():
            raise ConnectionError("nobody listens\nand more")
        if entry.get("refuse"):
            raise RefusedError(f"{entry['number']} is refused")
        file = files / "text"
        self.accepted.append((entry, file.read_text() if file.is_file() else ""))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(journals, "LONGEST_PAUSE", 0.02)


def test_everything_arrives_in_order_with_its_files_and_the_folder_is_removed(tmp_path: Path) -> None:
    store = Store()
    journal = Journal(tmp_path / "run", store.send)
    for number in range(20):
        journal.add(
            "files", {"number": number}, lambda folder, number=number: (folder / "text").write_text(f"{number}")
        )
    assert journal.wait(1)
    journal.close()
    assert store.accepted == [({"number": number}, str(number)) for number in range(20)]
    assert not (tmp_path / "run").exists()


def test_entries_are_retried_in_order_and_arrive_once(tmp_path: Path) -> None:
    store, messages = Store(), []
    journal = Journal(tmp_path / "run", store.send, messages.append)
    journal.add("records", {"number": 0})
    assert journal.wait(1)
    store.is_away.set()
    for number in (1, 2, 3):
        journal.add("records", {"number": number})
    assert not journal.wait(0.1)
    store.is_away.clear()
    assert journal.wait(5)
    journal.close()
    assert [entry["number"] for entry, _ in store.accepted] == [0, 1, 2, 3]
    assert messages == ["nobody listens", ""]


def test_unsent_entries_are_sent_by_the_next_journal(tmp_path: Path) -> None:
    store = Store()
    store.is_away.set()
    journal = Journal(tmp_path / "run", store.send)
    journal.add("files", {"number": 1}, lambda folder: (folder / "text").write_text("kept"))
    journal.add("records", {"number": 2})
    assert not journal.wait(0.05)
    journal.close()
    store.is_away.clear()
    later = Journal(tmp_path / "run", store.send)
    later.add("records", {"number": 3})
    assert later.wait(5)
    later.close()
    assert {entry["number"]: text for entry, text in store.accepted} == {1: "kept", 2: "", 3: ""}
    assert [entry["number"] for entry, _ in store.accepted if entry["number"] > 1] == [2, 3]


def test_a_failing_artifact_store_does_not_delay_metrics(tmp_path: Path) -> None:
    taken = []

    def send(entry: Entry, files: Path) -> None:
        if files.is_dir():
            raise OSError("no such bucket")
        taken.append(entry["number"])

    journal = Journal(tmp_path / "run", send)
    journal.add("files", {"number": 0}, lambda folder: None)
    for number in (1, 2):
        journal.add("records", {"number": number})
    assert journal.wait(5, ("records",))
    assert not journal.wait(0.05)
    assert (taken, journal.unsent()) == ([1, 2], 1)
    journal.close()


def test_a_refused_entry_is_set_aside_with_its_reason_and_files_and_can_be_sent_again(tmp_path: Path) -> None:
    store, folder = Store(), tmp_path / "run"
    journal = Journal(folder, store.send)
    for number in range(4):
        entry = {"number": number, "refuse": number in (0, 2)}
        journal.add(
            "files", entry, lambda folder, number=number: (folder / "text").write_text(f"{number}")
        )  # fmt: skip
    journal.add("records", {"number": 9, "refuse": True})
    assert journal.wait(5)
    journal.close()
    assert store.accepted == [({"number": number, "refuse": False}, str(number)) for number in (1, 3)]
    assert sorted(journal.refusals) == ["0 is refused", "2 is refused", "9 is refused"]
    assert journals.unsent_journals(tmp_path) == [], "nothing waits"
    kept = {each.entry["number"]: each for each in journals.refused(folder)}
    assert {number: (each.stream, each.why) for number, each in kept.items()} == {
        0: ("files", "0 is refused"), 2: ("files", "2 is refused"), 9: ("records", "9 is refused"),
    }  # fmt: skip
    assert [(kept[number].files / "text").read_text() for number in (0, 2)] == ["0", "2"]

    taken: list[tuple[int, str]] = []
    later = Journal(folder, lambda entry, files: taken.append((entry["number"], _text(files))), again=True)
    assert later.wait(5)
    later.close()
    assert sorted(taken) == [(0, "0"), (2, "2"), (9, "")]
    assert not folder.exists()


def _text(files: Path) -> str:
    return (files / "text").read_text() if files.is_dir() else ""


def test_a_signal_to_stop_ends_all_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One deadline for everything, even if the server hangs."""
    assert interruption.STOP_SECONDS < 8
    monkeypatch.setattr(interruption, "STOP_SECONDS", 0.5)
    before = interruption.catch()
    answered = threading.Event()
    try:
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
            signal.raise_signal(signal.SIGTERM)
        assert 0 < interruption.seconds_left() <= 0.5
        began = time.monotonic()
        journal = Journal(tmp_path / "run", lambda entry, files: answered.wait())
        for _ in range(3):
            journal.add("records", {})
            assert not journal.wait(60.0)
        journal.close()
        assert time.monotonic() - began < 3
    finally:
        interruption.restore(before)
        answered.set()
    assert not interruption.is_stopping()
    assert len((tmp_path / "run" / "records.jsonl").read_text().splitlines()) == 3


def test_an_incomplete_line_is_dropped(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "records.jsonl").write_text('{"number": 0}\n{"number": 1}\n{"num')
    (folder / "records.sent").write_text("1")
    store = Store()
    journal = Journal(folder, store.send)
    journal.add("records", {"number": 2})
    assert journal.wait(5)
    journal.close()
    assert [entry["number"] for entry, _ in store.accepted] == [1, 2]


def write_forever(folder: Path, sent: Path, added: Connection) -> None:
    def send(entry: Entry, files: Path) -> None:
        with sent.open("a") as file:
            file.write(f"{entry['number']}\n")

    journal = Journal(folder, send)
    for number in range(10**6):
        journal.add("records", {"number": number})
        added.send(number)


def test_a_killed_process_loses_nothing_that_was_added(tmp_path: Path) -> None:
    folder, sent = tmp_path / "run", tmp_path / "sent"
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=write_forever, args=(folder, sent, sender))
    process.start()
    sender.close()
    added = [receiver.recv() for _ in range(50)]
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with suppress(EOFError, OSError):  # the last number may be incomplete
        while True:
            added.append(receiver.recv())
    rest: list[int] = []
    journal = Journal(folder, lambda entry, _: rest.append(entry["number"]))
    assert journal.wait(5)
    journal.close()
    arrived = [int(line) for line in sent.read_text().splitlines()] + rest if sent.exists() else rest
    assert set(arrived) >= set(added)
    assert sorted(set(arrived)) == list(dict.fromkeys(arrived)), "out of order"
    assert len(arrived) - len(set(arrived)) <= 1, "only the entry that was being sent may be sent twice"


def test_a_full_disk_is_an_error_and_earlier_entries_are_intact(tmp_path: Path) -> None:
    store = Store()
    store.is_away.set()
    journal = Journal(tmp_path / "run", store.send)
    journal.add("records", {"number": 0})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = (tmp_path / "run" / "records.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, before[1]))
    try:
        with pytest.raises(InputError, match="records cannot be written to .*run: File too large"):
            journal.add("records", {"number": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    journal.add("records", {"number": 2})
    store.is_away.clear()
    assert journal.wait(5)
    journal.close()
    assert [entry["number"] for entry, _ in store.accepted] == [0, 2]


def test_only_unsent_journals_of_dead_processes_are_found(tmp_path: Path) -> None:
    store = Store()
    store.is_away.set()
    open_journal = Journal(tmp_path / "mine", store.send)
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        pid = process.pid
    owner = json.loads((tmp_path / "mine" / OWNER).read_text())
    assert owner["pid"] == os.getpid()
    dead = owner | {"pid": pid}
    for name, told in {"dead": dead, "sent": dead, "elsewhere": owner | {"host": "another"}, "damaged": 3}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / OWNER).write_text(json.dumps(told))
        (tmp_path / name / "records.jsonl").write_text("{}\n{}\n{")
        (tmp_path / name / "records.sent").write_text("2" if name == "sent" else "1")
    assert [folder.name for folder in journals.unsent_journals(tmp_path)] == ["damaged", "dead"]
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["damaged", "dead", "elsewhere", "mine"]
    open_journal.close()


def test_a_journal_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    store = Store()
    store.is_away.set()
    first = Journal(tmp_path / "run", store.send)
    first.add("records", {"number": 1})
    with pytest.raises(ClaimedError):
        Journal(tmp_path / "run", store.send)
    other = Journal(next(islice(journals.journal_folders(tmp_path, "run"), 1, None)), store.send)
    other.add("records", {"number": 2})
    first.close()
    assert [journals.run_of(folder) for folder in journals.unsent_journals(tmp_path)] == ["run"], (
        "the other one is open"
    )
    store.is_away.clear()
    again = Journal(tmp_path / "run", store.send)
    assert again.wait(5)
    assert other.wait(5)
    again.close()
    other.close()
    assert sorted(entry["number"] for entry, _ in store.accepted) == [1, 2]
    assert not list(tmp_path.iterdir())


def test_a_count_that_cannot_be_written_does_not_stop_the_journal(tmp_path: Path) -> None:
    store = Store()
    journal = Journal(tmp_path / "run", store.send)
    (tmp_path / "run" / "records.new").mkdir()  # as if the disk were full
    for number in (1, 2):
        journal.add("records", {"number": number})
    assert journal.wait(1)
    journal.close()
    assert [entry["number"] for entry, _ in store.accepted] == [1, 2]
    assert not (tmp_path / "run").exists()


def log_to_the_same_run(parent: Path, sent: Path, name: str) -> None:
    def send(entry: Entry, files: Path) -> None:
        with sent.open("a") as file:
            file.write(f"{entry['number']}\n")

    for number in range(100):
        for folder in islice(journals.journal_folders(parent, "run"), 9):
            try:
                opened = Journal(folder, send)
            except ClaimedError:
                continue
            break
        opened.add("records", {"number": f"{name}-{number}"})
        opened.wait(1)
        opened.close()


def test_processes_that_log_to_the_same_run_do_not_disturb_each_other(tmp_path: Path) -> None:
    parent, sent = tmp_path / "unsent", tmp_path / "sent"
    processes = [FORK.Process(target=log_to_the_same_run, args=(parent, sent, name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert sorted(sent.read_text().split()) == sorted(f"{name}-{number}" for name in "ab" for number in range(100))
    assert not list(parent.iterdir())


def test_waiting_ends_when_the_last_entry_is_accepted(tmp_path: Path) -> None:
    def send(entry: Entry, files: Path) -> None:
        time.sleep(0.3)

    journal = Journal(tmp_path / "run", send)
    journal.add("records", {})
    assert journal.wait(0), "no attempt has failed"
    journal.close()
