"""The exponent of a growth, and series that are really measured."""

from pathlib import Path

import pytest

from benchmarks import growth, tables
from benchmarks.growth.series import exponent
from tests.benchmarks import contestants


@pytest.mark.parametrize(
    ("times", "slope"),
    [
        ({10: [2.0], 1000: [200.0]}, 1.0),
        ({10: [2.0], 100: [7.0], 1000: [2.0]}, 0.0),
        ({10: [1.0, 2.0, 9.0], 20: [8.0]}, 2.0),
        ({10: [1.0], 40: [2.0]}, 0.5),
    ],
)
def test_the_exponent_is_the_slope_between_the_ends(times: dict[int, list[float]], slope: float) -> None:
    assert exponent([{"x": size, "seconds": seconds} for size, seconds in times.items()]) == pytest.approx(slope)


def test_a_series_is_measured_at_every_size(tmp_path: Path) -> None:
    """Work that sleeps 20 and 100 ms, three times a round, in two rounds after one that does not count."""
    series = growth.Series("Sleep", "milliseconds", "ms", contestants.growing, (20, 100), (1,), calls=3, rounds=2)
    told: list[str] = []
    record = growth.measured(series, tmp_path, quick=False, rounds=lambda *asked: told.append)
    assert [text.rpartition(" ")[0].rpartition(" ")[0] for text in told] == [
        f"round {number} of 2: {size}" for number in (1, 2) for size in (20, 100)
    ]
    assert [point["x"] for point in record["points"]] == [20, 100]
    for point, seconds in zip(record["points"], (0.02, 0.1), strict=True):
        assert len(point["seconds"]) == 2
        assert all(seconds <= each < 2.5 * seconds for each in point["seconds"])
    assert record["exponent"] == pytest.approx(1, abs=0.5)
    written = sorted(file.read_text() for file in tmp_path.glob("*/worked"))
    assert written == ["100\n" * 9, "20\n" * 9]


def test_the_quick_mode_does_less() -> None:
    quick = growth.series(quick=True)
    assert 0 < len(quick) < len(growth.series(quick=False)) == len(growth.ALL)
    assert all(len(each.quick) > 1 and max(each.quick) < max(each.sizes) for each in quick)
    assert all(len(each.sizes) > 1 for each in growth.ALL)


def test_series_that_are_measured_apart_stand_beside_the_others_and_say_so() -> None:
    first, second, *_ = growth.ALL
    points = [{"x": x, "seconds": [0.1], "memory_mb": 0} for x in (1, 2)]

    def found(series: growth.Series, exponent: float) -> dict[str, object]:
        about = {"name": series.name, "against": series.against, "unit": series.unit}
        return about | {"points": points, "exponent": exponent}

    about = {"command": "all", "date": "1999", "quick": False, "machine": {"cores": 2, "os": "o", "kernel": "k"}}
    before = about | {"versions": {"torch": "1"}, "series": [found(second, 1.0)]}
    later = before | {"command": "some", "date": "2000", "versions": {"torch": "2"}}
    record = growth.merged(before, [found(first, 0.25)], later)
    assert [each["name"] for each in record["series"]] == [first.name, second.name]
    assert "measured" not in record["series"][1]
    again = growth.merged(record, [found(first, 0.75)], later)
    assert [each["exponent"] for each in again["series"]] == [0.75, 1.0]
    table = tables.growth({"growth": again})
    assert "`all` · 1999" in table
    assert f"<sub>Measured apart: {first.name}: `some` · 2000 · unknown CPU, 2 cores, o, k · torch 2</sub>" in table
