"""Append-only journal of everything a run logs. Entries stay on disk until the tracking server has accepted them.

A journal belongs to one process; another one that logs to the same run meanwhile has a journal of its own. It is a
folder with two streams, `records` and `files`, each a file of JSON lines and a count of those that were sent. A thread
for each stream sends its entries in order, again and again until they are accepted; so a store of files that fails does
not hold up the metrics. An entry may be sent twice if a process is killed, never out of order. An entry that will never
be accepted is set aside in the folder with the reason, and the next one is sent.
"""

import json
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple

from segmentation.errors import InputError
from segmentation.system import interruption
from studies.tracking.ownership import OWNER, Claim, ClaimedError, is_left

Entry = dict[str, Any]
Send = Callable[[Entry, Path], None]
"""Sends an entry, whose files lie in the given folder."""
Stream = Literal["records", "files"]
STREAMS: tuple[Stream, ...] = "records", "files"
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
"""Seconds between two attempts: each pause is twice the one before."""
REFUSED = "refused"
"""Name of the file and of the folder that hold what was set aside."""


class RefusedError(Exception):
    """An entry will never be accepted; the message says why."""

    spoils = True
    """Whether the run is not what it should be without the entry."""


class LostRunError(Exception):
    """The run accepts nothing from this process any more; the message says why."""

    def __init__(self, why: str, keep: bool) -> None:
        """Describe it.

        Args:
            why: the reason, and what to do.
            keep: whether the entries are of use later.
        """
        super().__init__(why)
        self.keep = keep


class Refused(NamedTuple):
    """An entry that was set aside."""

    stream: Stream
    entry: Entry
    why: str
    files: Path
    """Folder of its files; there is none if it has none."""


class Journal:
    """The journal of one run."""

    def __init__(
        self, folder: Path, send: Send, tell: Callable[[str], None] = lambda _: None, again: bool = False
    ) -> None:
        """Open a journal, with what is still unsent in it.

        Args:
            folder: made if it is not there; it vanishes when all is sent.
            send: raises `RefusedError` for an entry that will never be accepted, `LostRunError` when none will be any
                more, and anything else for one that is to be sent again later.
            tell: called when an entry is not accepted, and when entries are accepted again.
            again: whether to send once more what was set aside before.

        Raises:
            ClaimedError: another process has it open.
            InputError: it cannot be written.
        """
        self.folder = folder
        self.lost: str | None = None
        """Why the run accepts nothing any more."""
        self.refusals: list[str] = []
        """Why entries were set aside, one after the other, since the journal was opened."""
        self.spoiled: str | None = None
        """Why the first entry was refused without which the run is not what it should be."""
        self._setting_aside = threading.Lock()
        with _writable(folder):
            self._claim = Claim(folder)
            self._senders = {name: _Sender(folder, name, send, tell, self._set_aside, self._lose) for name in STREAMS}
            if again:
                self._add_refused()

    def add(self, stream: Stream, entry: Entry, fill: Callable[[Path], None] | None = None) -> None:
        """Put an entry at the end of a stream.

        Args:
            stream: its entries are sent in order.
            entry: what JSON can hold.
            fill: writes the entry's files into a folder.

        Raises:
            InputError: it cannot be written here.
        """
        with _writable(self.folder):
            self._senders[stream].add(entry, fill)

    @property
    def refusal(self) -> str | None:
        """Why the first entry was set aside, if any was."""
        return next(iter(self.refusals), None)

    def wait(self, patience: float, streams: tuple[Stream, ...] = STREAMS, at_most: float = float("inf")) -> bool:
        """Wait until everything is sent; returns whether it is.

        Args:
            patience: seconds to wait after an entry was turned away.
            streams: what to wait for.
            at_most: seconds to wait in any case, also for a server that does not answer at all. A process that was
                signalled to stop does not wait beyond its deadline.
        """
        began = time.monotonic()
        sent = [self._senders[name].wait(began, patience, began + at_most) for name in streams]
        return all(sent)

    def unsent(self) -> int:
        """How many entries wait."""
        return sum(len(sender) for sender in self._senders.values())

    def close(self) -> None:
        """Stop sending; what is unsent or set aside stays in the folder, which is removed if there is nothing."""
        for sender in self._senders.values():
            sender.stop()
        for sender in self._senders.values():
            sender.join()
        if self.unsent() or refused(self.folder):
            self._claim.let_go()
        else:
            self._claim.remove()

    def _set_aside(self, stream: Stream, entry: Entry, files: Path, error: RefusedError) -> None:
        """Keep an entry and its files apart from those to send."""
        with self._setting_aside:
            kept = self.folder / f"{REFUSED}.d" / f"{time.time_ns()}"
            if files.is_dir():
                kept.parent.mkdir(exist_ok=True)
                files.rename(kept)
            line = {"stream": stream, "entry": entry, "why": str(error), "files": kept.name}
            with (self.folder / f"{REFUSED}.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            self.refusals.append(str(error))
            if error.spoils:
                self.spoiled = self.spoiled or str(error)

    def _add_refused(self) -> None:
        """Put what was set aside at the end of its stream."""
        for each in refused(self.folder):
            files = each.files
            fill = (lambda folder, files=files: _moved(files, folder)) if files.is_dir() else None
            self._senders[each.stream].add(each.entry, fill)
        (self.folder / f"{REFUSED}.jsonl").unlink(missing_ok=True)

    def _lose(self, error: LostRunError) -> None:
        self.lost = self.lost or str(error)


def _moved(source: Path, target: Path) -> None:
    for each in source.iterdir():
        each.rename(target / each.name)
    source.rmdir()


def places(place: Path, run_id: str) -> Iterator[Path]:
    """Where a run's journals may be, one for each process that has it open."""
    return (place / (f"{run_id}.{number}" if number else run_id) for number in count())


def run_of(folder: Path) -> str:
    """The id of the run whose journal a folder is."""
    return folder.name.partition(".")[0]


def all_journals(place: Path, run_id: str | None = None) -> list[Path]:
    """The journals in a folder, all or a run's, also those that somebody has open."""
    return sorted(file.parent for file in place.glob(f"*/{OWNER}") if run_id in (None, run_of(file.parent)))


def journals(place: Path, run_id: str | None = None) -> list[Path]:
    """The journals in a folder, all or a run's, that hold something to send, and that nobody has open.

    One of another machine may be open there, and is left out. Those of which all is sent are removed: a process that
    was killed in its last moment leaves such.
    """
    left = [folder for folder in all_journals(place, run_id) if is_left(folder)]
    waiting = []
    for folder in left:
        if any(len(_whole_lines(folder, name)) > _sent(folder, name) for name in STREAMS):
            waiting.append(folder)
        elif not refused(folder):
            with suppress(ClaimedError):
                Claim(folder).remove()
    return waiting


def refused(folder: Path) -> list[Refused]:
    """What was set aside in a journal's folder, in that order."""
    found = []
    for line in _whole_lines(folder, REFUSED):
        with suppress(ValueError, KeyError, TypeError):
            told = json.loads(line)
            files = folder / f"{REFUSED}.d" / str(told["files"])
            found.append(Refused(told["stream"], told["entry"], told["why"], files))
    return found


def _whole_lines(folder: Path, name: str) -> list[bytes]:
    """The entries of a stream; the last line, which may be torn, only if it ends."""
    file = folder / f"{name}.jsonl"
    lines = file.read_bytes().splitlines(keepends=True) if file.is_file() else []
    return [line for line in lines if line.endswith(b"\n")]


def _sent(folder: Path, name: Stream) -> int:
    """How many entries of a stream are sent."""
    file = folder / f"{name}.sent"
    return int(file.read_text() or 0) if file.is_file() else 0


class _Sender:
    """One stream and the thread that sends it."""

    def __init__(
        self,
        folder: Path,
        name: Stream,
        send: Send,
        tell: Callable[[str], None],
        set_aside: Callable[[Stream, Entry, Path, RefusedError], None],
        lose: Callable[[LostRunError], None],
    ) -> None:
        self._name: Stream = name
        self._payloads, self._count_file = folder / f"{name}.d", folder / f"{name}.sent"
        self._send, self._tell, self._set_aside, self._lose = send, tell, set_aside, lose
        self._turned_away: float | None = None
        self._has_ended = False
        self._changed, self._stopping = threading.Condition(), threading.Event()
        self._thread: threading.Thread | None = None
        whole = _whole_lines(folder, name)
        self._number = len(whole)
        self._waiting = deque((number, json.loads(whole[number])) for number in range(_sent(folder, name), len(whole)))
        self._size = sum(map(len, whole))
        self._file = (folder / f"{name}.jsonl").open("ab", buffering=0)
        self._file.truncate(self._size)
        self._adding = threading.Lock()
        if self._waiting:
            self._start()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entry: Entry, fill: Callable[[Path], None] | None) -> None:
        line = json.dumps(entry).encode() + b"\n"
        with self._adding:
            if fill is not None:
                payload = self._payload(self._number)
                shutil.rmtree(payload, ignore_errors=True)
                payload.mkdir(parents=True)
                fill(payload)
            try:
                left = memoryview(line)
                while left:  # a disk that is nearly full takes a part
                    left = left[self._file.write(left) :]
            except OSError:
                self._file.truncate(self._size)  # nothing may follow half a line
                raise
            self._size += len(line)
            with self._changed:
                self._waiting.append((self._number, entry))
                self._number += 1
                self._changed.notify_all()
            self._start()

    def wait(self, began: float, patience: float, until: float) -> bool:
        with self._changed:
            while self._waiting:
                since, left = self._turned_away, min(until - time.monotonic(), interruption.seconds_left())
                is_over = since is not None and time.monotonic() >= max(since, began) + patience
                if self._has_ended or is_over or left <= 0:
                    return False
                self._changed.wait(min(0.2, left))
        return True

    def stop(self) -> None:
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()

    def join(self) -> None:
        if self._thread is not None:  # it may be in the middle of a request that nobody answers
            self._thread.join(min(1.0, 0.1 + interruption.seconds_left()))
        self._file.close()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()

    def _work(self) -> None:
        pause = FIRST_PAUSE
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping.is_set())
                if self._stopping.is_set():
                    return
                number, entry = self._waiting[0]
            try:
                self._send(entry, self._payload(number))
            except LostRunError as error:
                self._lose(error)
                if error.keep:
                    self._has_ended = True
                    return
            except Exception as error:
                if not self._was_set_aside(number, entry, error):
                    if self._turned_away is None:
                        self._turned_away = time.monotonic()
                        self._tell(_first_line(error))
                    if self._stopping.wait(pause):
                        return
                    pause = min(2 * pause, LONGEST_PAUSE)
                    continue
            if self._turned_away is not None:
                self._turned_away = None
                self._tell("")
            pause = FIRST_PAUSE
            self._has_sent(number)

    def _was_set_aside(self, number: int, entry: Entry, error: Exception) -> bool:
        """Set an entry aside that will never be accepted; false for another error, and where the disk is full."""
        if not isinstance(error, RefusedError) or self._stopping.is_set():
            return False
        try:
            self._set_aside(self._name, entry, self._payload(number), error)
        except OSError:
            return False
        return True

    def _has_sent(self, number: int) -> None:
        if self._stopping.is_set():
            return  # another process may have the journal by now; it sends this once more
        with suppress(OSError):  # a full disk: nothing is lost, though another process would send this once more
            temporary = self._count_file.with_suffix(".new")
            temporary.write_text(str(number + 1))
            temporary.replace(self._count_file)
        shutil.rmtree(self._payload(number), ignore_errors=True)
        with self._changed:
            self._waiting.popleft()
            self._changed.notify_all()

    def _payload(self, number: int) -> Path:
        return self._payloads / f"{number:06d}"


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Turn a disk that is full, or a folder that cannot be written, into an `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"what is to be recorded could not be kept in {folder}: {error.strerror or error}; make room there, or go "
            f"to another folder. What was recorded before is safe, and so are the checkpoints"
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
