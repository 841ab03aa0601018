"""Doors for the tests, and what came through them, told at the end."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import CAMVID
from tests.faults.results import keep
from tests.fuzz.door import Door
from tests.fuzz.inputs import SEED, SHARES, TOTAL

DOORS = pytest.StashKey[list[Door]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Say of a failure which input it was."""
    report = yield
    if report.failed:
        for each in item.stash.get(DOORS, []):
            report.sections.append(("input", f"door {each.name}, input {each.tried + 1}, Random({each.now!r})"))
    return report


@pytest.fixture
def door(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Door]]:
    """Opens a door by its name, with a folder of its own."""
    doors: list[Door] = []

    def opened(name: str) -> Door:
        assert name in SHARES
        folder = tmp_path / "inside"
        folder.mkdir(exist_ok=True)
        doors.append(Door(name, folder))
        return doors[-1]

    request.node.stash[DOORS] = doors
    yield opened
    for each in doors:
        request.node.user_properties.append(("door", (each.name, each.refused, each.right)))
        assert each.tried, f"nothing came through {each.name}"


@pytest.fixture(scope="session")
def real_pictures() -> tuple[list[bytes], list[bytes]]:
    """A few real photographs and their masks."""
    pictures = sorted((CAMVID / "train").iterdir())[::120]
    return [file.read_bytes() for file in pictures], [
        (CAMVID / "trainannot" / f"{file.stem}.png").read_bytes() for file in pictures
    ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each door."""
    rows: dict[str, list[int]] = {}
    for outcome in ("", "passed", "failed", "error"):  # what closes a test that has passed is of no kind
        for report in terminalreporter.getreports(outcome):
            for key, value in getattr(report, "user_properties", ()):
                if key == "door" and report.when == "teardown":
                    counts = rows.setdefault(value[0], [0, 0])
                    counts[0] += value[1]
                    counts[1] += value[2]
    if not rows:
        return
    terminalreporter.section("doors")
    terminalreporter.write_line(f"{'door':30} {'inputs':>9} {'refused':>9} {'right':>9}")
    for name, (refused, right) in rows.items():
        terminalreporter.write_line(f"{name:30} {refused + right:9,} {refused:9,} {right:9,}")
    refused, right = (sum(counts) for counts in zip(*rows.values(), strict=True))
    terminalreporter.write_line(f"{'all':30} {refused + right:9,} {refused:9,} {right:9,}")
    again = f"make fuzz FUZZ_SEED={SEED} FUZZ_INPUTS={TOTAL}" if TOTAL else "make test"
    terminalreporter.write_line(f"The same inputs again: {again}")
    if TOTAL:
        failed = ", ".join(report.nodeid for report in terminalreporter.getreports("failed"))
        told = [
            {
                "what": f"mangled input: {name} ({refused:,} refused, {right:,} right)", "times": refused + right,
                "wrong": failed,
            }
            for name, (refused, right) in rows.items()
        ]  # fmt: skip
        keep("fuzz", again, {"rows": told, "wrong": failed})
