"""Runs benchmark stages, stores their results as JSON, and writes tables and plots of all stored results."""

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
    """Run the command line; returns the exit code: 0 done, 1 a stage failed or the page is stale, 2 wrong arguments."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["gpu"]:
        from benchmarks import gpu

        return gpu.main(arguments[1:])
    parser = _parser()
    given = parser.parse_args(arguments)
    unknown = [name for name in given.stages if name not in _names()]
    if unknown:
        parser.error(f"unknown stage {', '.join(unknown)}; stages are {', '.join(_names())}")
    folder = given.output or (RESULTS / "quick" if given.quick else RESULTS)
    if given.check:
        return _check_page(folder)
    if given.docs:
        return _write_page(folder)
    failures = []
    for name in given.stages or _names():
        record, reasons = _growth(given.quick, given.only, folder) if name == GROWTH else _stage(name, given.quick)
        if record is not None:
            write(record, folder / f"{name}.json")
        for reason in reasons:
            _print(f"{name} failed: {reason}")
        failures += [name] * bool(reasons)
    _show(folder)
    if failures:
        _print(f"Failed stages (reasons above): {', '.join(failures)}")
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the speed of this project, relative to the limit of the machine and to other "
        "implementations, and the growth of its cost. Each stage stores its results as JSON; the table and the plots "
        "show all stored results. `gpu` is a script of its own for a machine with CUDA: see `gpu --help`.",
    )
    parser.add_argument("stages", metavar="STAGE", nargs="*", help=f"{', '.join(_names())} (all)")
    parser.add_argument("--quick", action="store_true", help="run little work once, to check that all stages run")
    parser.add_argument(
        "--only", default="", metavar="WORDS", help="for growth: run only series whose name contains this"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the results (benchmarks/results)")
    parser.add_argument("--docs", action="store_true", help="write stored results to docs/benchmarks.md; runs nothing")
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit with 1 if docs/benchmarks.md differs from stored results; runs nothing",
    )
    return parser


def _names() -> list[str]:
    """Names of all stages, in the order in which they run."""
    files = (FOLDER / "stages").glob("[!_]*.py")
    return [*ordered([file.stem for file in files]), GROWTH]


def _stage(name: str, quick: bool) -> tuple[Record | None, list[str]]:
    """Run a stage; returns its record, or None and the reasons why it failed."""
    try:
        stage = importlib.import_module(f"benchmarks.stages.{name}")
        record = measured(stage.TITLE, _command(name, quick), quick) | {"cases": []}
        cases = stage.cases(quick)
        for number, case in enumerate(cases, 1):
            about = f"{name}, {number} of {len(cases)}: {case.name}"
            rounds, warmups = (1, 0) if quick else (case.rounds, case.warmups)
            on_round = _rounds(about, rounds, len(case.contestants))
            times = in_turns(case.contestants, rounds, warmups, on_round, quick)
            record["cases"].append(case_record(case, times, case.same({each.name: each.value for each in times})))
    except (Exception, SystemExit) as error:
        return None, [_reason(error)]
    return record, []


def _growth(quick: bool, only: str, folder: Path) -> tuple[Record | None, list[str]]:
    """Measure the growth of cost; returns a record of all series that could be measured, and reasons for the others.

    With `only`, series whose name contains it are measured, and the stored results of the others are kept.
    """
    from benchmarks import growth

    command = _command(GROWTH, quick) + (f" --only '{only}'" if only else "")
    about, found, reasons = measured("How cost grows", command, quick), [], []
    with growth.place() as place:
        chosen = [each for each in growth.series(quick) if only in each.name]
        for number, series in enumerate(chosen, 1):
            label = f"{GROWTH}, {number} of {len(chosen)}: {series.name} against {series.against}"
            try:
                found.append(growth.measured(series, place, quick, partial(_rounds, label)))
            except (Exception, SystemExit) as error:
                reasons.append(f"{series.name}: {_reason(error)}")
    if not found:
        return None, reasons or [f"--only {only!r}: no series has this in its name"]
    if only and (before := read(folder).get(GROWTH)):
        return growth.merged(before, found, about), reasons
    return about | {"series": found}, reasons


def _command(name: str, quick: bool) -> str:
    return f"python -m benchmarks {name}{' --quick' if quick else ''}"


def _reason(error: BaseException) -> str:
    """The message of an error, with its type unless a stage raised it on purpose."""
    return str(error) if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"


def _rounds(about: str, rounds: int, contestants: int) -> Callable[[str], None]:
    """A function that prints the progress after each contestant's turn, with the time left after the first round."""
    ends: list[float] = []
    _print(f"{about} …")

    def print_progress(text: str) -> None:
        ends.append(time.monotonic())
        left = ""
        if contestants < len(ends) < rounds * contestants:
            seconds = (ends[-1] - ends[-1 - contestants]) * (rounds - len(ends) / contestants)
            left = f", about {seconds:.0f} s left for this case"
        _print(f"{about}: {text}{left}")

    return print_progress


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _show(folder: Path) -> None:
    """Write and print the table, and draw the plots, of all results in a folder."""
    from benchmarks import plots, tables

    records = read(folder)
    if not records:
        print(f"{folder} holds no results.")
        return
    texts, files = [], [folder / "table.md"]
    if records.keys() - {GROWTH}:
        texts.append(tables.stages(records))
        files.append(folder / "speed.png")
        plots.speed(records).savefig(files[-1])
    if GROWTH in records:
        texts.append(f"### {records[GROWTH]['title']}\n\n{tables.growth(records)}")
        files.append(folder / "growth.png")
        plots.growth(records[GROWTH]).savefig(files[-1])
    table = "\n\n".join(texts)
    files[0].write_text(f"{table}\n")
    print(f"{table}\n\nWritten: {', '.join(map(str, files))}")


def _write_page(folder: Path) -> int:
    """Write the tables and plots of all stored results to the documentation."""
    from benchmarks import page

    records = read(folder)
    _show(folder)
    page.PAGE.write_text(page.with_results(page.PAGE.read_text(), records))
    for plot in ("speed.png", "growth.png"):
        if (folder / plot).is_file():
            shutil.copy(folder / plot, page.IMAGES / plot)
    print(f"Written: {page.PAGE} and plots in {page.IMAGES}")
    return 0


def _check_page(folder: Path) -> int:
    """Compare the documentation with the stored results; returns 1 if it is stale."""
    from benchmarks import page

    text = page.PAGE.read_text(encoding="utf-8")
    if page.with_results(text, read(folder)) == text:
        return 0
    _print(f"{page.PAGE} differs from the results in {folder}: run python -m benchmarks --docs")
    return 1


if __name__ == "__main__":
    sys.exit(main())
