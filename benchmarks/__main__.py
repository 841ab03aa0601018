"""Runs stages one after the other, keeps what each found, and shows all that is kept."""

import argparse
import importlib
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.results import GROWTH, Record, case_record, measured, ordered, read, write
from benchmarks.rounds import in_turns

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit code, which is 1 if anything has failed."""
    parser = _parser()
    given = parser.parse_args(arguments)
    unknown = [name for name in given.stages if name not in _names()]
    if unknown:
        parser.error(f"there is no stage {', '.join(unknown)}; there are {', '.join(_names())}")
    folder = given.output or (RESULTS / "quick" if given.quick else RESULTS)
    if given.docs:
        return _write_page(folder)
    failures = []
    for name in given.stages or _names():
        record, reasons = _growth(given.quick, given.only, folder) if name == GROWTH else _stage(name, given.quick)
        if record is not None:
            write(record, folder / f"{name}.json")
        for reason in reasons:
            _tell(f"{name} has failed: {reason}")
        failures += [name] * bool(reasons)
    _show(folder)
    if failures:
        _tell(f"Failed, for the reasons above: {', '.join(failures)}")
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="How fast this project is, beside the limit of the machine and beside its peers, and how its cost "
        "grows. What a stage finds is kept as JSON; the table and the pictures show all that is kept.",
    )
    parser.add_argument("stages", metavar="STAGE", nargs="*", help=f"{', '.join(_names())} (all)")
    parser.add_argument("--quick", action="store_true", help="a little work, once: shows in minutes that all runs")
    parser.add_argument(
        "--only", default="", metavar="WORDS", help="of growth, the series with these words in its name"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to keep it (benchmarks/results)")
    parser.add_argument("--docs", action="store_true", help="write what is kept into docs/benchmarks.md; runs nothing")
    return parser


def _names() -> list[str]:
    """All that can be run, in that order."""
    files = (FOLDER / "stages").glob("[!_]*.py")
    return [*ordered([file.stem for file in files]), GROWTH]


def _stage(name: str, quick: bool) -> tuple[Record | None, list[str]]:
    """What a stage has found, or why it has failed."""
    try:
        stage = importlib.import_module(f"benchmarks.stages.{name}")
        record = measured(stage.TITLE, _command(name, quick), quick) | {"cases": []}
        cases = stage.cases(quick)
        for number, case in enumerate(cases, 1):
            about = f"{name}, {number} of {len(cases)}: {case.name}"
            rounds, warmups = (1, 0) if quick else (case.rounds, case.warmups)
            tell = _rounds(about, rounds, len(case.contestants))
            times = in_turns(case.contestants, rounds, warmups, tell, quick)
            record["cases"].append(case_record(case, times, case.same({each.name: each.value for each in times})))
    except (Exception, SystemExit) as error:
        return None, [_reason(error)]
    return record, []


def _growth(quick: bool, only: str, folder: Path) -> tuple[Record | None, list[str]]:
    """How cost grows, as far as it could be measured, and why some of it could not.

    With `only`, the series with these words in their names are measured, and all others stay as they were.
    """
    from benchmarks import growth

    command = _command(GROWTH, quick) + (f" --only '{only}'" if only else "")
    about, found, reasons = measured("How cost grows", command, quick), [], []
    with growth.place() as place:
        chosen = [each for each in growth.series(quick) if only in each.name]
        for number, series in enumerate(chosen, 1):
            told = f"{GROWTH}, {number} of {len(chosen)}: {series.name} against {series.against}"
            try:
                found.append(growth.measured(series, place, quick, partial(_rounds, told)))
            except (Exception, SystemExit) as error:
                reasons.append(f"{series.name}: {_reason(error)}")
    if not found:
        return None, reasons or [f"no series has {only!r} in its name"]
    if only and (before := read(folder).get(GROWTH)):
        return growth.merged(before, found, about), reasons
    return about | {"series": found}, reasons


def _command(name: str, quick: bool) -> str:
    return f"python -m benchmarks {name}{' --quick' if quick else ''}"


def _reason(error: BaseException) -> str:
    """A message; of what nobody has foreseen, with its type."""
    return str(error) if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"


def _rounds(about: str, rounds: int, contestants: int) -> Callable[[str], None]:
    """What tells how far the rounds have come, and, when one has passed, how long the others will take."""
    ends: list[float] = []
    _tell(f"{about} …")

    def tell(text: str) -> None:
        ends.append(time.monotonic())
        left = ""
        if contestants < len(ends) < rounds * contestants:
            seconds = (ends[-1] - ends[-1 - contestants]) * (rounds - len(ends) / contestants)
            left = f", about {seconds:.0f} s left of this"
        _tell(f"{about}: {text}{left}")

    return tell


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _show(folder: Path) -> None:
    """Write and print the table, and draw the pictures, of all that a folder holds."""
    from benchmarks import pictures, tables

    records = read(folder)
    if not records:
        print(f"{folder} holds no results.")
        return
    texts, files = [], [folder / "table.md"]
    if records.keys() - {GROWTH}:
        texts.append(tables.stages(records))
        files.append(folder / "speed.png")
        pictures.speed(records).savefig(files[-1])
    if GROWTH in records:
        texts.append(f"### {records[GROWTH]['title']}\n\n{tables.growth(records)}")
        files.append(folder / "growth.png")
        pictures.growth(records[GROWTH]).savefig(files[-1])
    table = "\n\n".join(texts)
    files[0].write_text(f"{table}\n")
    print(f"{table}\n\nLook at {', '.join(map(str, files))}, made from the JSON files beside them.")


def _write_page(folder: Path) -> int:
    """Write what is kept into the documentation, tables and pictures."""
    from benchmarks import page

    records = read(folder)
    _show(folder)
    page.PAGE.write_text(page.with_results(page.PAGE.read_text(), records))
    for picture in ("speed.png", "growth.png"):
        if (folder / picture).is_file():
            shutil.copy(folder / picture, page.PICTURES / picture)
    print(f"Written to {page.PAGE} and {page.PICTURES}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
