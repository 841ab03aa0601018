"""Names of users stay text, and a page needs nothing but itself."""

import io
import re

import pytest
from markdown import Markdown
from PIL import Image

from studies.report.html import to_html
from studies.report.markup import Page, escaped, number, slug
from tests.studies.report.read import Read

NASTY = (
    "<script>alert(1)</script>", "a | b", "**bold** _x_ `code`", "[link](javascript:alert(1))",
    "![x](http://e.org/x.png)",
    "&lt;b&gt; &amp;", "{: onclick=alert(1) }", "\\*no\\*", "~~struck~~ $x$", 'a "quoted" \'name\'', "ends with #",
    "<http://e.org>",
    "[TOC]", "lraspp_mobilenet_v3_large · lr 0.1", "ümläut 猫 · ×", "a <img src=x onerror=alert(1)> b", "]( x",
    "me@example.org", "1. one", "# title", "- item", "> quote",
)  # fmt: skip


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize("name", NASTY)
def test_any_name_is_shown_as_text(name: str) -> None:
    page = Page()
    page.text(f"Run {escaped(name)}.", f"[{escaped(name)}](#here)")
    page.items([f"It is {escaped(name)}"])
    page.table(["head", escaped(name)], [["a", escaped(name)], [escaped(name), "b"]])
    page.image("x.png", png(4, 4), name)
    read = Read(to_html("\n".join(page.lines), page.images, name))
    assert read.names == {
        "html", "head", "meta", "title", "style", "body", "p", "ul", "li", "a", "div", "table", "thead", "tbody", "tr",
        "th", "td", "figure", "figcaption", "img",
    }  # fmt: skip
    text = "".join(read.text)
    assert f"Run {name}." in text
    assert f"It is {name}" in text
    assert read.tables == [[["head", name], ["a", name], [name, "b"]]]
    assert read.attributes("alt") == [name]
    assert read.attributes("href") == ["#here"]
    assert not [given for _, given in read.tags if any(key.startswith("on") for key in given)]


def test_a_gallery_shows_each_image_above_its_caption() -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 30, 30)).save(file, "WEBP")
    page = Page()
    page.gallery([(file.getvalue(), NASTY[0]), (file.getvalue(), "b.jpg, 3 %")])
    page.gallery([(file.getvalue(), "c")], wide=True)
    page.image("x.png", png(4, 4), "alone")
    read = Read(to_html("\n".join(page.lines), page.images, "t"))
    assert read.attributes("class") == ["gallery", "gallery wide"]
    assert [tag for tag, _ in read.tags].count("figcaption") == 4
    assert {NASTY[0], "b.jpg, 3 %", "c"} <= {text.strip() for text in read.text}
    sources = [source.partition(",")[0] for source in read.attributes("src")]
    assert sources == ["data:image/webp;base64"] * 3 + ["data:image/png;base64"]
    assert read.attributes("alt") == [NASTY[0], "b.jpg, 3 %", "c", "alone"]


def test_line_breaks_and_control_characters_become_spaces() -> None:
    assert escaped("a\n\n# b\r\n\x02\x03\tc") == "a &#35; b c"


def test_html_in_the_markdown_is_escaped() -> None:
    read = Read(to_html("a <b>c</b>\n\n<script>alert(1)</script>\n\n<http://e.org>\n", {}, "t"))
    assert read.names == {"html", "head", "meta", "title", "style", "body", "p"}
    assert "<script>alert(1)</script>" in "".join(read.text)


def test_a_command_is_shown_unchanged() -> None:
    page = Page()
    command = "mlflow run . -e train -P data_dir='a ``` b <c> & |' -P weights=\"x_y\""
    page.code(command)
    assert Read(to_html("\n".join(page.lines), {}, "t")).commands == [command + "\n"]


def test_images_are_embedded_unchanged_and_wide_ones_scroll() -> None:
    page = Page()
    wide, square = png(300, 100), png(100, 100)
    page.image("wide one.png", wide, "wide")
    page.image("square.png", square, "square")
    assert list(page.images) == ["images/wide-one.png", "images/square.png"]
    read = Read(to_html("\n".join(page.lines), page.images, "t"))
    assert read.images() == [wide, square]
    assert [given.get("class", "") for tag, given in read.tags if tag == "figure"] == ["wide", ""]


def test_a_page_loads_nothing_and_fits_a_phone_and_paper() -> None:
    page = to_html("| a | b |\n| --- | --- |\n| 1 | 2 |\n", {}, "<title>")
    read = Read(page)
    (policy,) = [given["content"] for tag, given in read.tags if given.get("http-equiv") == "Content-Security-Policy"]
    assert policy.split(";")[0] == "default-src 'none'"
    (viewport,) = [given["content"] for tag, given in read.tags if given.get("name") == "viewport"]
    assert "width=device-width" in viewport
    for part in ("@media (max-width: 44rem)", "@media print", "size: A4", "prefers-color-scheme: dark"):
        assert part in page
    assert re.search(r"\.box \{[^}]*overflow-x: auto", page)
    assert not re.search(r"https?://|@import|url\(", page)
    assert [given.get("class") for tag, given in read.tags if tag == "div"] == ["box"]


@pytest.mark.parametrize("title", ["(b) Loss", "(d) Image, labels and prediction", "Run 78fa4e4c", "This page"])
def test_a_heading_s_anchor_is_the_one_that_the_renderer_gives_it(title: str) -> None:
    theirs = Markdown(extensions=["toc"]).convert(f"## {title}")
    assert f'id="{slug(title)}"' in theirs


def test_unknown_metrics_are_dashes() -> None:
    assert number(0.12345, [0.1, 0.2]).replace("\u00a0", " ") == "0.1235 [0.1000, 0.2000]"
    assert number(0.5, [None, None]) == "0.5000"
    assert number(None) == number(float("nan")) == "–"
    assert number(0.5, sign="+") == "+0.5000"
