"""Append-only journal of everything a run logs. Entries stay on disk until the tracking server has accepted them.

Each process that logs to a run has its own journal. A journal is a folder with two streams, `records` and `files`: each
is a file of JSON lines and the number of lines that were sent. One thread per stream sends its entries in order and
retries each until it is accepted, so a failing artifact store does not delay the metrics. If a process is killed, an
entry may be sent twice, but never out of order. An entry that will never be accepted is set aside in the folder with
the reason, and the next one is sent.
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
"""Sends an entry; its files are in the given folder."""
Stream = Literal["records", "files"]
STREAMS: tuple[Stream, ...] = "records", "files"
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
"""Seconds between two attempts: each pause is twice the previous one, up to the longest."""
REFUSED = "refused"
"""Name of the file and of the folder with the refused entries."""


class RefusedError(Exception):
    """An entry will never be accepted; the message is the reason."""

    is_essential = True
    """Whether the run is incomplete without the entry."""


class LostRunError(Exception):
    """The run accepts no more entries from this process; the message is the reason."""

    def __init__(self, why: str, keep: bool) -> None:
        """Make the error.

        Args:
            why: the reason, and what to do.
            keep: whether to keep the entries, because they can be sent later.
        """
        super().__init__(why)
        self.keep = keep


class Refused(NamedTuple):
    """An entry that MLflow refused and that was set aside."""

    stream: Stream
    entry: Entry
    why: str
    files: Path
    """Folder of its files; it exists only if there are files."""


class Journal:
    """The journal of one run."""

    def __init__(
        self, folder: Path, send: Send, report: Callable[[str], None] = lambda _: None, again: bool = False
    ) -> None:
        """Open a journal and start to send its unsent entries.

        Args:
            folder: created if missing, and removed once everything is sent.
            send: raises `RefusedError` if the entry will never be accepted, `LostRunError` if no entry will be accepted
                any more, and any other exception if the entry is to be retried.
            report: called with the reason when an entry is not accepted, and with "" when entries are accepted again.
            again: whether to send the refused entries again.

        Raises:
            ClaimedError: another process has it open.
            InputError: the folder cannot be written.
        """
        self.folder = folder
        self.lost: str | None = None
        """Why the run accepts no more entries."""
        self.refusals: list[str] = []
        """Why entries were set aside since the journal was opened, in order."""
        self.incomplete: str | None = None
        """Why the first essential entry was refused, without which the run is incomplete."""
        self._setting_aside = threading.Lock()
        with _writable(folder):
            self._claim = Claim(folder)
            self._senders = {name: _Sender(folder, name, send, report, self._set_aside, self._lose) for name in STREAMS}
            if again:
                self._add_refused()

    def add(self, stream: Stream, entry: Entry, fill: Callable[[Path], None] | None = None) -> None:
        """Append an entry to a stream.

        Args:
            stream: its entries are sent in order.
            entry: JSON content.
            fill: writes the entry's files into a folder.

        Raises:
            InputError: the journal cannot be written.
        """
        with _writable(self.folder):
            self._senders[stream].add(entry, fill)

    def wait(self, seconds: float, streams: tuple[Stream, ...] = STREAMS, at_most: float = float("inf")) -> bool:
        """Wait until everything is sent; return whether it is.

        Args:
            seconds: how long to wait after an attempt has failed. Without a failure there is no limit.
            streams: the streams to wait for.
            at_most: limit even if the server does not respond at all. A stopping process does not wait beyond
                its deadline either.
        """
        start = time.monotonic()
        sent = [self._senders[name].wait(start, seconds, start + at_most) for name in streams]
        return all(sent)

    def unsent(self) -> int:
        """Return the number of unsent entries."""
        return sum(len(sender) for sender in self._senders.values())

    def close(self) -> None:
        """Stop sending. The folder is removed, unless it holds unsent or refused entries."""
        for sender in self._senders.values():
            sender.stop()
        for sender in self._senders.values():
            sender.join()
        if self.unsent() or refused(self.folder):
            self._claim.release()
        else:
            self._claim.remove()

    def _set_aside(self, stream: Stream, entry: Entry, files: Path, error: RefusedError) -> None:
        """Move an entry and its files to the refused ones."""
        with self._setting_aside:
            target = self.folder / f"{REFUSED}.d" / f"{time.time_ns()}"
            if files.is_dir():
                target.parent.mkdir(exist_ok=True)
                files.rename(target)
            line = {"stream": stream, "entry": entry, "why": str(error), "files": target.name}
            with (self.folder / f"{REFUSED}.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            self.refusals.append(str(error))
            if error.is_essential:
                self.incomplete = self.incomplete or str(error)

    def _add_refused(self) -> None:
        """Append the refused entries to their streams."""
        for each in refused(self.folder):
            files = each.files
            fill = (lambda folder, files=files: _move(files, folder)) if files.is_dir() else None
            self._senders[each.stream].add(each.entry, fill)
        (self.folder / f"{REFUSED}.jsonl").unlink(missing_ok=True)

    def _lose(self, error: LostRunError) -> None:
        self.lost = self.lost or str(error)


def _move(source: Path, target: Path) -> None:
    for each in source.iterdir():
        each.rename(target / each.name)
    source.rmdir()


def journal_folders(parent: Path, run_id: str) -> Iterator[Path]:
    """Yield the possible folders of a run's journals without end: `ID`, `ID.1`, and so on, one for each process."""
    return (parent / (f"{run_id}.{number}" if number else run_id) for number in count())


def run_of(folder: Path) -> str:
    """Return the ID of the run that a journal's folder belongs to."""
    return folder.name.partition(".")[0]


def all_journals(parent: Path, run_id: str | None = None) -> list[Path]:
    """Return the folders of all journals, or of one run's, including those that a process has open."""
    return sorted(file.parent for file in parent.glob(f"*/{OWNER}") if run_id in (None, run_of(file.parent)))


def unsent_journals(parent: Path, run_id: str | None = None) -> list[Path]:
    """Return the folders of journals with unsent entries that no process has open: all, or one run's.

    Journals of other machines are left out, since they may be open there. A journal whose entries are all sent is
    removed: a process that is killed at its end leaves one.
    """
    unsent = []
    for folder in all_journals(parent, run_id):
        if not is_left(folder):
            continue
        if any(len(_whole_lines(folder, name)) > _sent(folder, name) for name in STREAMS):
            unsent.append(folder)
        elif not refused(folder):
            with suppress(ClaimedError):
                Claim(folder).remove()
    return unsent


def refused(folder: Path) -> list[Refused]:
    """Return the refused entries in a journal's folder, in the order of their refusal."""
    found = []
    for line in _whole_lines(folder, REFUSED):
        with suppress(ValueError, KeyError, TypeError):
            content = json.loads(line)
            files = folder / f"{REFUSED}.d" / str(content["files"])
            found.append(Refused(content["stream"], content["entry"], content["why"], files))
    return found


def _whole_lines(folder: Path, name: str) -> list[bytes]:
    """Return the lines of a stream, without an incomplete last line, which a killed process leaves."""
    file = folder / f"{name}.jsonl"
    lines = file.read_bytes().splitlines(keepends=True) if file.is_file() else []
    return [line for line in lines if line.endswith(b"\n")]


def _sent(folder: Path, name: Stream) -> int:
    """Return the number of entries of a stream that were sent."""
    file = folder / f"{name}.sent"
    return int(file.read_text() or 0) if file.is_file() else 0


class _Sender:
    """One stream and the thread that sends it."""

    def __init__(
        self,
        folder: Path,
        name: Stream,
        send: Send,
        report: Callable[[str], None],
        set_aside: Callable[[Stream, Entry, Path, RefusedError], None],
        lose: Callable[[LostRunError], None],
    ) -> None:
        self._name: Stream = name
        self._payloads, self._count_file = folder / f"{name}.d", folder / f"{name}.sent"
        self._send, self._report, self._set_aside, self._lose = send, report, set_aside, lose
        self._failed_at: float | None = None
        self._is_lost = False
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
                while left:  # a disk that is nearly full writes a part
                    left = left[self._file.write(left) :]
            except OSError:
                self._file.truncate(self._size)  # no entry may follow an incomplete line
                raise
            self._size += len(line)
            with self._changed:
                self._waiting.append((self._number, entry))
                self._number += 1
                self._changed.notify_all()
            self._start()

    def wait(self, start: float, seconds: float, until: float) -> bool:
        with self._changed:
            while self._waiting:
                failed_at, left = self._failed_at, min(until - time.monotonic(), interruption.seconds_left())
                is_over = failed_at is not None and time.monotonic() >= max(failed_at, start) + seconds
                if self._is_lost or is_over or left <= 0:
                    return False
                self._changed.wait(min(0.2, left))
        return True

    def stop(self) -> None:
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()

    def join(self) -> None:
        if self._thread is not None:  # it may be waiting for a response that never comes
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
                    self._is_lost = True
                    return
            except Exception as error:
                if not self._is_set_aside(number, entry, error):
                    if self._failed_at is None:
                        self._failed_at = time.monotonic()
                        self._report(_first_line(error))
                    if self._stopping.wait(pause):
                        return
                    pause = min(2 * pause, LONGEST_PAUSE)
                    continue
            if self._failed_at is not None:
                self._failed_at = None
                self._report("")
            pause = FIRST_PAUSE
            self._mark_sent(number)

    def _is_set_aside(self, number: int, entry: Entry, error: Exception) -> bool:
        """Set a refused entry aside; return false for another error, and if the disk is full."""
        if not isinstance(error, RefusedError) or self._stopping.is_set():
            return False
        try:
            self._set_aside(self._name, entry, self._payload(number), error)
        except OSError:
            return False
        return True

    def _mark_sent(self, number: int) -> None:
        if self._stopping.is_set():
            return  # another process may have claimed the journal; it sends this entry again
        with suppress(OSError):  # a full disk: nothing is lost, but another process may send the entry again
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
    """Raise an `InputError` if the disk is full or the folder is not writable."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"records cannot be written to {folder}: {error.strerror or error}. Free disk space, or change the field "
            f"`records`. Earlier records and the checkpoints are intact"
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
