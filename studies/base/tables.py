"""Tables as Markdown and as CSV."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table. Cells are Markdown: escape text with `studies.base.markdown.escaped`."""
    yield from (f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def csv_text(header: Sequence[object], rows: Iterable[Sequence[object]], line_end: str = "\r\n") -> str:
    """Return a table as CSV text, quoted where needed."""
    text = io.StringIO()
    csv.writer(text, lineterminator=line_end).writerows([header, *rows])
    return text.getvalue()
