"""The journal is tried with a store that fails as it is told, and with processes that are killed."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path

import pytest

from segmentation.errors import InputError
from segmentation.system import interruption
from studies.tracking import journal as journals
from studies.tracking.journal import Entry, Journal, RefusedError
from studies.tracking.ownership import OWNER, ClaimedError
from tests.conftest import PROJECT


class Store:
    """Takes entries, with the text of their file if they have one."""

    def __init__(self) -> None:
        self.taken: list[tuple[Entry, str]] = []
        self.is_away = threading.Event()

    def send(self, entry: Entry, files: Path) -> None:
        if self.is_away.is_set():
            raise ConnectionError("nobody listens\nand more")
        if entry.get("refuse"):
            raise RefusedError(f"{entry['number']} is refused")
        file = files / "text"
        self.taken.append((entry, file.read_text() if file.is_file() else ""))


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(journals, "LONGEST_PAUSE", 0.02)


def test_everything_arrives_in_order_with_its_files_and_nothing_is_left(tmp_path: Path) -> None:
    store = Store()
    journal = Journal(tmp_path / "run", store.send)
    for number in range(20):
        journal.add(
            "files", {"number": number}, lambda folder, number=number: (folder / "text").write_text(f"{number}")
        )
    assert journal.wait(1)
    journal.close()
    assert store.taken == [({"number": number}, str(number)) for number in range(20)]
    assert not (tmp_path / "run").exists()


def test_what_nobody_took_arrives_later_in_order_and_once(tmp_path: Path) -> None:
    store, told = Store(), []
    journal = Journal(tmp_path / "run", store.send, told.append)
    journal.add("records", {"number": 0})
    assert journal.wait(1)
    store.is_away.set()
    for number in (1, 2, 3):
        journal.add("records", {"number": number})
    assert not journal.wait(0.1)
    store.is_away.clear()
    assert journal.wait(5)
    journal.close()
    assert [entry["number"] for entry, _ in store.taken] == [0, 1, 2, 3]
    assert told == ["nobody listens", ""]


def test_what_was_never_taken_waits_for_another_journal(tmp_path: Path) -> None:
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
    assert {entry["number"]: text for entry, text in store.taken} == {1: "kept", 2: "", 3: ""}
    assert [entry["number"] for entry, _ in store.taken if entry["number"] > 1] == [2, 3]


def test_a_store_of_files_that_fails_does_not_hold_up_the_figures(tmp_path: Path) -> None:
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


def test_what_is_refused_is_set_aside_with_its_reason_and_its_files_and_can_be_sent_again(tmp_path: Path) -> None:
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
    assert store.taken == [({"number": number, "refuse": False}, str(number)) for number in (1, 3)]
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
    """One deadline for everything, whatever the server does."""
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


def test_half_a_line_is_forgotten(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "records.jsonl").write_text('{"number": 0}\n{"number": 1}\n{"num')
    (folder / "records.sent").write_text("1")
    store = Store()
    journal = Journal(folder, store.send)
    journal.add("records", {"number": 2})
    assert journal.wait(5)
    journal.close()
    assert [entry["number"] for entry, _ in store.taken] == [1, 2]


WRITER = """
import sys
from pathlib import Path
from studies.tracking import journal
def send(entry, files):
    with open(sys.argv[2], "a") as file:
        file.write(f"{entry['number']}\\n")
journal = journal.Journal(Path(sys.argv[1]), send)
for number in range(10**6):
    journal.add("records", {"number": number})
    print(number, flush=True)
"""


def test_a_killed_process_loses_nothing_that_was_added(tmp_path: Path) -> None:
    folder, taken = tmp_path / "run", tmp_path / "taken"
    arguments = [sys.executable, "-c", WRITER, str(folder), str(taken)]
    with subprocess.Popen(arguments, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        added = [int(process.stdout.readline()) for _ in range(50)]
        process.send_signal(signal.SIGKILL)
        added += [int(line) for line in process.stdout.read().splitlines()]
    rest: list[int] = []
    journal = Journal(folder, lambda entry, _: rest.append(entry["number"]))
    assert journal.wait(5)
    journal.close()
    arrived = [int(line) for line in taken.read_text().splitlines()] + rest if taken.exists() else rest
    assert set(arrived) >= set(added)
    assert sorted(set(arrived)) == list(dict.fromkeys(arrived)), "out of order"
    assert len(arrived) - len(set(arrived)) <= 1, "more than the entry that was on its way came twice"


def test_a_full_disk_is_told_and_what_was_added_before_is_intact(tmp_path: Path) -> None:
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
    assert [entry["number"] for entry, _ in store.taken] == [0, 2]


def test_journals_of_living_processes_are_left_alone_and_those_that_are_sent_go(tmp_path: Path) -> None:
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


def test_a_journal_belongs_to_one_at_a_time_and_another_gets_it_with_what_is_left(tmp_path: Path) -> None:
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
    assert sorted(entry["number"] for entry, _ in store.taken) == [1, 2]
    assert not list(tmp_path.iterdir())


def test_a_count_that_cannot_be_kept_holds_nothing_up(tmp_path: Path) -> None:
    store = Store()
    journal = Journal(tmp_path / "run", store.send)
    (tmp_path / "run" / "records.new").mkdir()  # as if the disk were full
    for number in (1, 2):
        journal.add("records", {"number": number})
    assert journal.wait(1)
    journal.close()
    assert [entry["number"] for entry, _ in store.taken] == [1, 2]
    assert not (tmp_path / "run").exists()


SHARED = """
import sys
from itertools import islice
from pathlib import Path
from studies.tracking import journal
from studies.tracking.ownership import ClaimedError
place, taken, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
def send(entry, files):
    with open(taken, "a") as file:
        file.write(f"{entry['number']}\\n")
for number in range(100):
    for folder in islice(journal.journal_folders(place, "run"), 9):
        try:
            opened = journal.Journal(folder, send)
        except ClaimedError:
            continue
        break
    opened.add("records", {"number": f"{name}-{number}"})
    opened.wait(1)
    opened.close()
"""


def test_processes_that_tell_of_the_same_run_do_not_disturb_each_other(tmp_path: Path) -> None:
    place, taken = tmp_path / "unsent", tmp_path / "taken"
    arguments = [sys.executable, "-c", SHARED, str(place), str(taken)]
    processes = [subprocess.Popen([*arguments, name], cwd=PROJECT, stderr=subprocess.PIPE) for name in "ab"]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, b"")
    assert sorted(taken.read_text().split()) == sorted(f"{name}-{number}" for name in "ab" for number in range(100))
    assert not list(place.iterdir())


def test_waiting_ends_when_the_last_entry_is_taken(tmp_path: Path) -> None:
    def send(entry: Entry, files: Path) -> None:
        time.sleep(0.3)

    journal = Journal(tmp_path / "run", send)
    journal.add("records", {})
    assert journal.wait(0), "nobody has turned it away"
    journal.close()
