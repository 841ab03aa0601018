"""`Page`: Markdown with its images and missing parts, and the formatting of metrics in it."""

import io
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from segmentation import plots
from studies.base.markdown import escaped
from studies.base.tables import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_BREAK = "\u00a0"
GALLERY, WIDE_GALLERY = "gallery/", "wide-gallery/"
"""Folders, in the Markdown, of images that are shown in a grid, and in one with fewer columns."""
WIDE = 2.2
"""Ratio of width to height from which an image gets a scroll bar on narrow screens."""


class MissingPart(NamedTuple):
    """A part of the report that MLflow does not have."""

    what: str
    command: str
    """Command that creates it."""


class Page:
    """A page under construction: lines of Markdown, the images they show, and the parts that are missing."""

    def __init__(self, lettered: bool = False) -> None:
        self.lettered = lettered
        """Whether headings carry the letters of the original report's points."""
        self.lines: list[str] = []
        self.images: dict[str, bytes] = {}
        """PNG files, and WebP files of galleries, by their path in the Markdown."""
        self.missing: list[MissingPart] = []
        self.headings: list[str] = []
        self.commands: dict[str, str] = {}
        """Commands with the heading of the section that shows them."""

    def heading(self, title: str, letter: str = "") -> None:
        """Start a section. The title is ours, not a user's, and has only letters, digits, spaces and brackets.

        Args:
            title: without the letter.
            letter: point of the original report.
        """
        title = f"({letter}) {title}" if self.lettered and letter else title
        self.headings.append(title)
        self.lines += [f"## {title}", ""]

    def text(self, *paragraphs: str) -> None:
        """Add paragraphs of Markdown; empty ones are left out."""
        for paragraph in filter(None, paragraphs):
            self.lines += [paragraph, ""]

    def items(self, items: Iterable[str]) -> None:
        """Add a list of Markdown items."""
        self.lines += [*(f"- {item}" for item in items), ""]

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Add a table of Markdown cells."""
        self.lines += [*table(header, rows), ""]

    def code(self, command: str) -> None:
        """Add a command as a code block, or the section that has it already."""
        if command in self.commands:
            self.text(f"The command is above, under {self.commands[command]}.")
            return
        self.commands[command] = self.headings[-1] if self.headings else "the title"
        longest = max(map(len, re.findall("`+", command)), default=0)
        fence = "`" * max(3, longest + 1)
        self.lines += [f"{fence}sh", " ".join(command.splitlines()), fence, ""]

    def image(self, name: str, content: bytes, alt: str) -> None:
        """Add a PNG with a plain alternative text."""
        path = f"images/{re.sub(r'[^A-Za-z0-9.-]+', '-', name)}"
        self.images[path] = content
        self.lines += [f"![{escaped(alt)}]({path})", ""]

    def gallery(self, images: Iterable[tuple[bytes, str]], wide: bool = False) -> None:
        """Add WebP images in a grid, each with its plain caption."""
        lines = []
        for content, caption in images:
            path = f"{WIDE_GALLERY if wide else GALLERY}{len(self.images)}.webp"
            self.images[path] = content
            lines.append(f"![{escaped(caption)}]({path})")
        self.lines += [*lines, ""]

    def add_missing(self, what: str, command: str) -> None:
        """Add a note that a part is missing, with the command that creates it."""
        self.missing.append(MissingPart(what, command))
        self.text(f"**Not here:** {what}. To create it:")
        self.code(command)


def shortened(text: str, length: int = 60) -> str:
    """Return the beginning of a long name; not escaped yet."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def on_one_line(text: str) -> str:
    """Replace spaces, so that a table cell does not wrap."""
    return text.replace(" ", NO_BREAK)


def slug(title: str) -> str:
    """Return the anchor that Markdown renderers give a heading."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())


def number(value: float | None, ends: Sequence[float | None] = (), sign: str = "") -> str:
    """Format a metric with four decimals and its 95 % interval, if known; `–` for None and NaN."""
    if value is None or value != value:
        return "–"
    known = [end for end in ends if end is not None and end == end]
    return f"{value:{sign}.4f}" + (f" {interval(known)}" if len(known) == 2 else "")


def interval(ends: Sequence[float], sign: str = "") -> str:
    """Format the ends of an interval on one line."""
    return f"[{ends[0]:{sign}.4f},{NO_BREAK}{ends[1]:{sign}.4f}]"


def measured(scores: Mapping[str, Mapping[str, object]], metric: str) -> str:
    """Format a metric of stored scores with its interval."""
    return number(scores["metrics"].get(metric), scores["intervals"].get(metric) or ())  # type: ignore[arg-type]


def png(figure: "Figure") -> bytes:
    """Return a plot as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(plots.pixels(figure)).save(file, "png")
    return file.getvalue()


def is_wide(png: bytes) -> bool:
    """Whether an image would be too small to read on a narrow screen."""
    width, height = struct.unpack(">II", png[16:24])
    return width > WIDE * height
