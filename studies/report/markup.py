"""Markdown as it is written here: what comes from outside is escaped, and pictures are kept beside their place."""

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from studies.base.markdown import escaped, table

NO_BREAK = "\u00a0"
WIDE = 2.2
"""Width over height from which a picture has room to scroll."""


class Missing(NamedTuple):
    """A part that MLflow does not hold."""

    what: str
    command: str
    """What would make it."""


class Page:
    """A page while it is being written: lines of Markdown, the pictures they show, and what is missing."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.pictures: dict[str, bytes] = {}
        self.missing: list[Missing] = []
        self.headings: list[str] = []

    def heading(self, title: str) -> None:
        """Begin a section; the title is not from outside, and of letters, digits, spaces and brackets."""
        self.headings.append(title)
        self.lines += [f"## {title}", ""]

    def text(self, *paragraphs: str) -> None:
        """Add paragraphs of Markdown."""
        for paragraph in paragraphs:
            self.lines += [paragraph, ""]

    def items(self, items: Iterable[str]) -> None:
        """Add a list of Markdown items."""
        self.lines += [*(f"- {item}" for item in items), ""]

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Add a table of Markdown cells."""
        self.lines += [*table(header, rows), ""]

    def code(self, command: str) -> None:
        """Add a command, as it is typed."""
        longest = max(map(len, re.findall("`+", command)), default=0)
        fence = "`" * max(3, longest + 1)
        self.lines += [f"{fence}sh", " ".join(command.splitlines()), fence, ""]

    def picture(self, name: str, content: bytes, alt: str) -> None:
        """Add a PNG; the alternative text is plain."""
        path = f"images/{re.sub(r'[^A-Za-z0-9.-]+', '-', name)}"
        self.pictures[path] = content
        self.lines += [f"![{escaped(alt)}]({path})", ""]

    def lacks(self, what: str, command: str) -> None:
        """Say that a part is missing, and what would make it."""
        self.missing.append(Missing(what, command))
        self.text(f"**Missing:** {what}. This would make it:")
        self.code(command)


def shortened(text: str, length: int = 60) -> str:
    """The beginning of a long name; not yet escaped."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def slug(title: str) -> str:
    """The anchor that Markdown renderers give to a heading."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())


def figure(value: float | None, ends: Sequence[float | None] = (), sign: str = "") -> str:
    """A figure with its 95 % interval, if there is one."""
    if value is None or value != value:
        return "–"
    known = [end for end in ends if end is not None and end == end]
    return f"{value:{sign}.4f}" + (f" {interval(known)}" if len(known) == 2 else "")


def interval(ends: Sequence[float], sign: str = "") -> str:
    """The ends of an interval, which stay on one line."""
    return f"[{ends[0]:{sign}.4f},{NO_BREAK}{ends[1]:{sign}.4f}]"


def measured(record: Mapping[str, Mapping[str, object]], metric: str) -> str:
    """A metric of a record of scores, with its interval."""
    return figure(record["metrics"].get(metric), record["intervals"].get(metric) or ())  # type: ignore[arg-type]


def is_wide(png: bytes) -> bool:
    """Whether a picture would be too small to read on a narrow screen."""
    width, height = struct.unpack(">II", png[16:24])
    return width > WIDE * height
