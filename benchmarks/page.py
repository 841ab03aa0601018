"""Parts of Markdown pages that are generated from results, between comments that name them."""

from collections.abc import Mapping
from pathlib import Path

from benchmarks import tables
from benchmarks.expectations import expectations
from benchmarks.results import Record

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
IMAGES = PAGE.parent / "images"
BLOCKS = {"expectations": expectations, "stages": tables.stages, "growth": tables.growth}
"""The generated parts of the page, and the functions that write them."""


def with_results(page: str, records: Mapping[str, Record]) -> str:
    """The page with all generated parts replaced.

    Raises:
        ValueError: a comment is missing.
    """
    for name, write in BLOCKS.items():
        page = with_part(page, name, write(records))
    return page


def with_part(page: str, name: str, written: str) -> str:
    """The page with the text between `<!-- name -->` and `<!-- end of name -->` replaced.

    Raises:
        ValueError: a comment is missing.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, begun, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not begun or not ended:
        raise ValueError(f"the page lacks {begin} or, after it, {end}")
    return f"{before}{begin}\n\n{written}\n\n{end}{after}"
