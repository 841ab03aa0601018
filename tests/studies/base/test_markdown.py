"""Escaped text shows unchanged and breaks no table: read back by another Markdown parser."""

import re
from html import unescape

import markdown as renderer
import pytest

from studies.base.markdown import code, escaped
from studies.base.tables import table

NAMES = [
    "plain",
    "a|b",
    "a\nb",
    "| x |",
    "`a|b`",
    "*b*",
    "<b>x</b>",
    "a\\|b",
    "[x](y)",
    "a_b _c_",
    "\r\n\ta",
    "&amp;",
    "~~a~~",
]


def cells(text: str) -> list[list[str]]:
    """The cells of a table as a reader sees them."""
    html = renderer.markdown(text, extensions=["tables"])
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    found = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]
    assert not [tag for row in found for cell in row for tag in re.findall(r"<(?!/?code)[^>]*>", cell)]
    return [[unescape(re.sub(r"</?code>", "", cell)) for cell in row] for row in found]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", [escaped, code])
def test_a_cell_shows_the_name_and_stays_one_cell(name: str, form: object) -> None:
    shown = " ".join(name.split())
    written = "\n".join(table(["run", form(name)], [[form(name), "0.5"], ["other", form(name)]]))  # type: ignore[operator]
    assert cells(written) == [["run", shown], [shown, "0.5"], ["other", shown]]
