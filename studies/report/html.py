"""Render Markdown and its images as one self-contained HTML file: no script, no font, no URL."""

import base64
import html
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping

from markdown import Markdown
from markdown.extensions.tables import TableExtension
from markdown.extensions.toc import TocExtension
from markdown.treeprocessors import Treeprocessor

from studies.report.markup import GALLERY, WIDE_GALLERY, is_wide

STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --faint: #5c6b7a; --line: #d5dce3; --paper: #fff; --box: #f3f6f9;
  --link: #1b5fa8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e8ed; --faint: #9fadba; --line: #3a4652; --paper: #14191f;
  --box: #1e262e; --link: #7db8f2; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1rem 1rem 4rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0; }
h2 { font-size: 1.3rem; line-height: 1.25; margin: 3rem 0 .8rem; padding-top: .8rem;
  border-top: 2px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
p, ul { margin: .7rem 0; }
ul { padding-left: 1.3rem; }
a { color: var(--link); }
code { font: .85em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { margin: .6rem 0 1.2rem; padding: .6rem .8rem; background: var(--box); border-left: 3px solid var(--line); }
pre code { white-space: pre-wrap; overflow-wrap: anywhere; }
.box { margin: .8rem 0 1.2rem; width: max-content; min-width: 100%; max-width: calc(50vw + 27rem); overflow-x: auto;
  scrollbar-width: thin; }
.box.broad { position: relative; left: 50%; transform: translateX(-50%); max-width: calc(100vw - 3rem); }
td.prose { max-width: 34rem; }
table { border-collapse: collapse; font-size: .88rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  overflow-wrap: normal; }
th { border-bottom-width: 2px; color: var(--faint); font-weight: 600; }
td:first-child, th:first-child { padding-left: 0; }
figure { margin: 1rem 0 1.6rem; overflow-x: auto; scrollbar-width: thin; }
figure img { display: block; max-width: min(100%, 40rem); height: auto; background: #fff; }
figure.wide img { max-width: 100%; }
figcaption { font-size: .85rem; line-height: 1.4; color: var(--faint); margin-top: .3rem; position: sticky; left: 0; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); gap: .8rem;
  margin: .8rem 0 1.2rem; }
.gallery.wide { grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); }
.gallery figure { margin: 0; overflow: visible; }
.gallery img { max-width: 100%; max-height: 15rem; background: none; }
.gallery figcaption { color: var(--faint); font-size: .75rem; line-height: 1.35; margin-top: .2rem; }
@media (max-width: 44rem) {
  .box, .box.broad { position: static; transform: none; width: auto; min-width: 0; max-width: none; }
  .box, figure.wide { border-right: 2px solid var(--line); }
  .box.wide::before, figure.wide::before { content: "\\2194  scroll sideways to see all"; display: block;
    position: sticky; left: 0; width: max-content; font-size: .75rem; color: var(--faint); }
  .box.wide th:first-child, .box.wide td:first-child { position: sticky; left: 0; background: var(--paper); }
  .box:not(.wide) { border-right: 0; }
  figure.wide img { max-width: none; width: 52rem; }
  .gallery { grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
  table { font-size: .8rem; }
  th, td { padding: .25rem .4rem; }
  td.prose { min-width: 11rem; }
}
@media print {
  @page { size: A4; margin: 16mm; }
  :root { color-scheme: light; --ink: #000; --faint: #333; --line: #bbb; --paper: #fff; --box: #f3f3f3; --link: #000; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2, h3, p:has(+ figure), p:has(+ pre) { break-after: avoid; }
  h2 { margin-top: 1.6rem; }
  p, li { orphans: 3; widows: 3; }
  figure, tr, pre { break-inside: avoid; }
  figure, .box { overflow: visible; }
  .box, .box.broad { position: static; transform: none; width: auto; min-width: 0; max-width: none; }
  figure img, figure.wide img { width: auto; max-width: 100%; max-height: 11.5cm; }
  table { font-size: 8pt; }
  th, td { padding: .2rem .4rem; }
  pre code { font-size: 8pt; }
}
"""


NARROW = 52
"""Characters of a table's row that fit on a narrow screen."""
BROAD = 140
"""Characters from which a row is wider than the text and the free room beside it."""
PROSE = 24
"""Characters from which a cell with spaces wraps on a narrow screen."""
LINE = 75
"""Characters from which it wraps on a wide screen."""
GAP = 3
"""Characters that take as much room as the space between two columns."""


class SelfContained(Treeprocessor):
    """Embeds the images, and wraps tables and wide images into scrollable boxes."""

    def __init__(self, markdown: Markdown, images: Mapping[str, bytes]) -> None:
        super().__init__(markdown)
        self.images = images

    def run(self, root: ElementTree.Element) -> None:
        """Change the tree in place."""
        for parent in list(root.iter()):
            for index, each in enumerate(list(parent)):
                if each.tag == "table":
                    narrow, full = _widths(each)
                    kind = f"box{' wide' if narrow > NARROW else ''}{' broad' if full > BROAD else ''}"
                    parent[index] = ElementTree.Element("div", {"class": kind, "tabindex": "0"})
                    parent[index].append(each)
                elif each.tag == "p" and len(each) and all(_in_gallery(image) for image in each):
                    parent[index] = self._gallery(each)
                elif each.tag == "p" and len(each) == 1 and each[0].tag == "img":
                    content = self.images[each[0].attrib["src"]]
                    each[0].set("src", _data_url(content, "png"))
                    ElementTree.SubElement(each, "figcaption").text = each[0].attrib["alt"]
                    each.tag = "figure"
                    each.text = None
                    if is_wide(content):
                        each.attrib.update({"class": "wide", "tabindex": "0"})

    def _gallery(self, images: Iterable[ElementTree.Element]) -> ElementTree.Element:
        """Return images in a grid, each above its alternative text."""
        grid = ElementTree.Element("div", {"class": "gallery"})
        for image in images:
            path = image.attrib["src"]
            if path.startswith(WIDE_GALLERY):
                grid.set("class", "gallery wide")
            image.set("src", _data_url(self.images[path], "webp"))
            image.tail = None
            figure = ElementTree.SubElement(grid, "figure")
            figure.append(image)
            ElementTree.SubElement(figure, "figcaption").text = image.attrib["alt"]
        return grid


def _in_gallery(element: ElementTree.Element) -> bool:
    return element.tag == "img" and element.attrib["src"].startswith((GALLERY, WIDE_GALLERY))


def _data_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _widths(table: ElementTree.Element) -> tuple[int, int]:
    """Mark the cells of a table that may wrap; return its width on a narrow and on a wide screen, in characters."""
    widths: dict[int, tuple[int, int]] = {}
    for row in table.iter("tr"):
        for column, cell in enumerate(row):
            text = "".join(cell.itertext())
            if len(text) > PROSE and " " in text:
                cell.set("class", "prose")
            narrow, full = (PROSE, min(len(text), LINE)) if cell.get("class") else (len(text), len(text))
            before = widths.get(column, (0, 0))
            widths[column] = max(before[0], narrow), max(before[1], full)
    return sum(narrow + GAP for narrow, _ in widths.values()), sum(full + GAP for _, full in widths.values())


def to_html(text: str, images: Mapping[str, bytes], title: str) -> str:
    """Return a page as HTML.

    Args:
        text: Markdown; HTML in it is escaped.
        images: PNG files by their path in the Markdown, where each is a paragraph by itself; and WebP files of
            galleries (`Page.gallery`).
        title: plain text.
    """
    markdown = Markdown(extensions=["fenced_code", TableExtension(), TocExtension(marker="")], output_format="html")
    markdown.preprocessors.deregister("html_block")
    for pattern in ("html", "autolink", "automail"):
        markdown.inlinePatterns.deregister(pattern)
    markdown.treeprocessors.register(SelfContained(markdown, images), "self_contained", 1)
    body = markdown.convert(text)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
