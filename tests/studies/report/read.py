"""Parse an HTML page with the standard library: elements, sections, tables, commands and images."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
from PIL import Image

VOID = {"meta", "img", "br", "hr"}


class Read(HTMLParser):
    """Tags with their attributes, text by section, tables as rows of cells, commands and images."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.sections: dict[str, str] = {}
        self.tables: list[list[list[str]]] = []
        self.commands: list[str] = []
        self._open: list[str] = []
        self._heading = ""
        self.feed(text)
        self.close()
        assert self._open == [], self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "pre":
            self.commands.append("")
        if tag == "h2":
            self._heading = ""

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "h2":
            self.sections[self._heading] = ""

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        data = data.replace("\u00a0", " ")
        self.text.append(data)
        if "h2" in self._open:
            self._heading += data
        elif self._heading in self.sections:
            self.sections[self._heading] += data
        if "td" in self._open or "th" in self._open:
            self.tables[-1][-1][-1] += data
        if "pre" in self._open:
            self.commands[-1] += data

    @property
    def names(self) -> set[str]:
        return {tag for tag, _ in self.tags}

    def attributes(self, name: str) -> list[str]:
        return [given[name] for _, given in self.tags if name in given]

    def images(self) -> list[bytes]:
        head = "data:image/png;base64,"
        sources = [given["src"] for tag, given in self.tags if tag == "img"]
        assert all(source.startswith(head) for source in sources)
        return [base64.b64decode(source.removeprefix(head), validate=True) for source in sources]

    def table(self, *header: str) -> list[dict[str, str]]:
        """Return the rows of the only table whose header starts with these cells."""
        (found,) = [table for table in self.tables if tuple(table[0][: len(header)]) == header]
        return [dict(zip(found[0], row, strict=True)) for row in found[1:]]


def pixels(png: bytes) -> np.ndarray:
    """Return the pixels of a PNG, `(H, W, 3)` uint8."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
