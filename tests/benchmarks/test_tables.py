"""Records as Markdown and pictures, and the documentation that holds them."""

from typing import Any

import numpy as np
import pytest

from benchmarks import page, pictures, tables
from benchmarks.__main__ import RESULTS
from benchmarks.results import read
from segmentation import plots

ABOUT = {
    "date": "2025-01-02", "quick": False,
    "machine": {"cpu": "X1", "cores": 2, "memory_gb": 24, "os": "Debian", "kernel": "Linux 6.1"},
    "versions": {"python": "3.11.7", "torch": "2.14.1"},
}  # fmt: skip


def contestant(name: str, role: str, rate: float) -> dict[str, Any]:
    return {"name": name, "role": role, "seconds": [10 / rate] * 3, "core_seconds": [], "memory_mb": 1200, "rate": rate}


def stage(title: str, *names: str) -> dict[str, Any]:
    case = {
        "unit": "images", "work": 10, "compared": "losses to 1e-6",
        "contestants": [contestant("this project", "ours", 50), contestant("plain", "peer", 40),
                        contestant("bare", "limit", 52.04)],
        "ratios": {"plain": {"median": 1.25, "low": 1.2, "high": 1.301},
                   "bare": {"median": 0.9608, "low": 0.94, "high": 0.97}},
        "goals": [{"other": "plain", "at_least": 1.2, "value": 1.25, "met": True},
                  {"other": "bare", "at_least": 0.97, "value": 0.9608, "met": False}],
    }  # fmt: skip
    return {"title": title, "command": f"bench {title}", **ABOUT, "cases": [case | {"name": name} for name in names]}


GROWTH = {
    "title": "How cost grows", "command": "bench growth", **ABOUT,
    "series": [
        {"name": "Scoring", "against": "images", "unit": "image", "exponent": 1.301,
         "points": [{"x": 10, "seconds": [0.5, 0.02, 0.02], "memory_mb": 7},
                    {"x": 1000, "seconds": [8.0], "memory_mb": 1500}]},
        {"name": "Opening", "against": "runs", "unit": "", "exponent": 0.02,
         "points": [{"x": 10, "seconds": [0.0004], "memory_mb": 0}, {"x": 1000, "seconds": [0.00044], "memory_mb": 0}]},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.97, "0.970"),
        (1.3, "1.30"),
        (13.04, "13.0"),
        (999.4, "999"),
        (12345, "12,300"),
        (1.34e6, "1.34 million"),
    ],
)
def test_three_digits(value: float, text: str) -> None:
    assert tables.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(90, "90.0 s"), (0.02, "20.0 ms"), (3.14e-6, "3.14 µs"), (1e-3, "1.00 ms")]
)
def test_times_have_units(seconds: float, text: str) -> None:
    assert tables.time(seconds) == text


def test_a_stage_is_a_table_with_a_row_a_case_and_a_column_a_contestant() -> None:
    lines = tables.stages({"training": stage("Training", "LR-ASPP", "FCN|50"), "growth": GROWTH}).splitlines()
    start = lines.index("### Training")
    assert lines[start + 2 : start + 4] == ["|  | this project | limit: bare | plain |", "| --- | --- | --- | --- |"]
    assert lines[start + 4] == (
        "| **LR-ASPP** | 50.0 images/s, 1,200 MB "
        "| **0.961** [0.940–0.970]<br>✗ 0.0092 short of 0.970<br>52.0 images/s, 1,200 MB "
        "| **1.25** [1.20–1.30]<br>✓ at least 1.20<br>40.0 images/s, 1,200 MB |"
    )
    assert lines[start + 5].startswith(r"| **FCN\|50** |")
    assert "- losses to 1e-6" in lines
    assert "<sub>`bench Training` · 2025-01-02 · 3 rounds</sub>" in lines
    assert lines[-1] == "<sub>X1, 2 cores, 24 GB, Debian, Linux 6.1 · python 3.11.7, torch 2.14.1</sub>"
    assert "grows" not in "".join(lines)


def test_stages_of_several_machines_say_which() -> None:
    other = stage("Scoring", "a") | {"machine": ABOUT["machine"] | {"cpu": "Y2"}}
    text = tables.stages({"training": stage("Training", "a"), "scoring": other, "cache": stage("Cache", "a")})
    assert "<sub>training, cache: X1, 2 cores" in text
    assert "<sub>scoring: Y2, 2 cores" in text


def test_one_piece_of_work_is_told_by_its_time() -> None:
    record = stage("Start", "help")
    record["cases"][0]["work"] = 1
    assert "| 200 ms, 1,200 MB |" in tables.stages({"startup": record})


def test_growth_is_a_table_with_a_row_a_series() -> None:
    lines = tables.growth({"growth": GROWTH}).splitlines()
    assert lines[2] == (
        "| Scoring | images | 10 · 1,000 | 20.0 ms · 8.00 s | 2.00 ms · 8.00 ms per image | 7 · 1,500 | **1.30** |"
    )
    assert lines[3] == "| Opening | runs | 10 · 1,000 | 400 µs · 440 µs |  | 0 · 0 | 0.02 |"


def test_pictures_show_what_is_there() -> None:
    """Wide enough for a page, higher with more to show, and with every contestant in it."""
    few, many = ({"training": stage("Training", *names)} for names in (["a"], ["a", "b", "c"]))
    speed = pictures.speed(few)
    words = {text.get_text() for text in speed.axes[0].texts}
    assert {"Training", "a", "plain", "bare"} <= words
    dots = sorted(line.get_xdata()[0] for line in speed.axes[0].lines if line.get_marker() == "o")
    assert dots == pytest.approx([1 / 1.25, 1 / 0.9608])
    drawn = plots.pixels(speed)
    assert drawn.shape[1] == 900
    assert plots.pixels(pictures.speed(many)).shape[0] > drawn.shape[0]
    grown = pictures.growth(GROWTH)
    assert [axes.get_title(loc="left") for axes in grown.axes[:2]] == ["Scoring", "Opening"]
    dotted = grown.axes[0].lines[0]
    np.testing.assert_allclose(dotted.get_ydata(), [0.02, 2.0])
    assert plots.pixels(grown).shape[1] == 900


def test_nothing_measured_is_said() -> None:
    assert tables.stages({"growth": GROWTH}) == tables.growth({"training": stage("a", "b")}) == tables.NOTHING


def test_only_what_stands_between_the_comments_is_written() -> None:
    text = "# Title\n<!-- stages -->\nold\n<!-- end of stages -->\nprose\n<!-- growth --><!-- end of growth -->\nend\n"
    records = {"training": stage("Training", "a"), "growth": GROWTH}
    new = page.with_results(text, records)
    assert new.startswith(
        "# Title\n<!-- stages -->\n\n" + tables.stages(records) + "\n\n<!-- end of stages -->\nprose\n"
    )
    assert new.endswith(tables.growth(records) + "\n\n<!-- end of growth -->\nend\n")
    assert page.with_results(new, records) == new
    with pytest.raises(ValueError, match="lacks <!-- growth -->"):
        page.with_results(text.replace("<!-- growth -->", ""), records)


def test_the_documentation_holds_what_was_measured() -> None:
    """No number in these parts is typed: `python -m benchmarks --docs` writes them."""
    text = page.PAGE.read_text()
    assert page.with_results(text, read(RESULTS)) == text
