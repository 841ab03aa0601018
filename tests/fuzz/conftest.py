"""Fixture of the entries that the fuzz tests try, and a table of the results at the end."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import CAMVID
from tests.faults.results import keep
from tests.fuzz.door import Door
from tests.fuzz.inputs import ENTRIES, SEED, TOTAL

DOORS = pytest.StashKey[list[Door]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Report the input of a failure."""
    report = yield
    if report.failed:
        for each in item.stash.get(DOORS, []):
            report.sections.append(("input", f"entry {each.name}, input {each.tried + 1}, Random({each.now!r})"))
    return report


@pytest.fixture
def door(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Door]]:
    """Return a function that opens an entry by its name, with a folder for its files."""
    doors: list[Door] = []

    def opened(name: str) -> Door:
        assert name in ENTRIES
        folder = tmp_path / "inside"
        folder.mkdir(exist_ok=True)
        doors.append(Door(name, folder))
        return doors[-1]

    request.node.stash[DOORS] = doors
    yield opened
    for each in doors:
        request.node.user_properties.append(("door", (each.name, each.refused, each.right)))
        assert each.tried, f"no input of {each.name} was tried"


@pytest.fixture(scope="session")
def real_images() -> tuple[list[bytes], list[bytes]]:
    """Content of a few real photographs and of their masks."""
    images = sorted((CAMVID / "train").iterdir())[::120]
    masks = [CAMVID / "trainannot" / f"{file.stem}.png" for file in images]
    return [file.read_bytes() for file in images], [file.read_bytes() for file in masks]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of refused and of right inputs for each entry."""
    rows: dict[str, list[int]] = {}
    for outcome in ("", "passed", "failed", "error"):  # the teardown of a passed test has an empty outcome
        for report in terminalreporter.getreports(outcome):
            for key, value in getattr(report, "user_properties", ()):
                if key == "door" and report.when == "teardown":
                    counts = rows.setdefault(value[0], [0, 0])
                    counts[0] += value[1]
                    counts[1] += value[2]
    if not rows:
        return
    terminalreporter.section("fuzzed entries")
    terminalreporter.write_line(f"{'entry':30} {'inputs':>9} {'refused':>9} {'right':>9}")
    for name, (refused, right) in rows.items():
        terminalreporter.write_line(f"{name:30} {refused + right:9,} {refused:9,} {right:9,}")
    refused, right = (sum(counts) for counts in zip(*rows.values(), strict=True))
    terminalreporter.write_line(f"{'all':30} {refused + right:9,} {refused:9,} {right:9,}")
    again = f"make fuzz FUZZ_SEED={SEED} FUZZ_INPUTS={TOTAL}" if TOTAL else "make test"
    terminalreporter.write_line(f"The same inputs again: {again}")
    if TOTAL:
        failed = ", ".join(report.nodeid for report in terminalreporter.getreports("failed"))
        results = [
            {
                "what": f"mangled input: {name} ({refused:,} refused, {right:,} right)", "times": refused + right,
                "wrong": failed,
            }
            for name, (refused, right) in rows.items()
        ]  # fmt: skip
        keep("fuzz", again, {"rows": results, "wrong": failed})
