"""Records as Markdown tables that GitHub shows."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks import machine
from benchmarks.results import GROWTH, Record

NOTHING = "Nothing has been measured yet."
MET, MISSED = "✓", "✗"
STEEP = 1.1
"""Exponents from here on are marked."""
UNITS = ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def stages(records: Mapping[str, Record]) -> str:
    """A table of each stage, and on what all were measured."""
    shown = {name: record for name, record in records.items() if name != GROWTH}
    if not shown:
        return NOTHING
    lines = [
        "In bold: our speed divided by the contestant's in the same round, the median over the rounds, with the lowest "
        "and the highest; then whether that is our goal. Memory is the peak of the process beyond what it held when it "
        "was ready.",
    ]
    for name, record in shown.items():
        lines += ["", f"### {record['title']}", "", *_stage(record), "", _small_print(name, record)]
    return "\n".join([*lines, "", *_machines(shown)])


def growth(records: Mapping[str, Record]) -> str:
    """The table of how cost grows, and on what it was measured."""
    if GROWTH not in records:
        return NOTHING
    record = records[GROWTH]
    lines = ["| | grows with | at | time | shared out | memory, MB | exponent |", f"|{' --- |' * 7}"]
    for series in record["series"]:
        sizes = [point["x"] for point in series["points"]]
        seconds = [statistics.median(point["seconds"]) for point in series["points"]]
        shared = [second / size for second, size in zip(seconds, sizes, strict=True)]
        exponent = f"{series['exponent']:.2f}"
        cells = [
            series["name"], series["against"], _in_turn(f"{size:,}" for size in sizes), _in_turn(map(time, seconds)),
            f"{_in_turn(map(time, shared))} per {series['unit']}" if series["unit"] else "",
            _in_turn(f"{point['memory_mb']:,}" for point in series["points"]),
            f"**{exponent}**" if series["exponent"] > STEEP else exponent,
        ]  # fmt: skip
        lines.append(_row(cells))
    lines += [
        "",
        f"The exponent is the slope from the first point to the last, both axes logarithmic: 1 is linear, 0 is flat; "
        f"above {STEEP:g} it is bold.",
        "",
        _small_print(GROWTH, record),
    ]
    apart: dict[str, list[str]] = {}
    for series in record["series"]:
        if "measured" in series:
            about = series["measured"]
            told = f"`{about['command']}` · {about['date']} · {_machine(about)}"
            apart.setdefault(told, []).append(series["name"])
    lines += ["", *_machines({GROWTH: record})]
    lines += [f"<sub>Measured apart: {', '.join(dict.fromkeys(names))}: {told}</sub>" for told, names in apart.items()]
    return "\n".join(lines)


def number(value: float) -> str:
    """With three significant digits, and commas at the thousands."""
    if abs(value) >= 1e6:
        return f"{number(value / 1e6)} million"
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{round(value, digits):,.{max(0, digits)}f}"


def time(seconds: float) -> str:
    """With its unit."""
    value, unit = in_unit(seconds)
    return f"{number(value)} {unit}"


def in_unit(seconds: float) -> tuple[float, str]:
    """A time in a unit of which it is at least 1."""
    scale, unit = next(((scale, unit) for scale, unit in UNITS if seconds > 0.9999 * scale), UNITS[-1])
    return seconds / scale, unit


def _stage(record: Record) -> Iterator[str]:
    """A row a case, a column a contestant; below it what of their results was compared."""
    columns: dict[str, str] = {}
    for role in ("ours", "limit", "peer"):
        for case in record["cases"]:
            columns |= {each["name"]: role for each in case["contestants"] if each["role"] == role}
    yield _row(["", *(f"limit: {name}" if role == "limit" else name for name, role in columns.items())])
    yield f"|{' --- |' * (len(columns) + 1)}"
    compared: dict[str, list[str]] = {}
    for case in record["cases"]:
        cells = {each["name"]: "<br>".join(_cell(case, each)) for each in case["contestants"]}
        yield _row([f"**{case['name']}**", *(cells.get(name, "") for name in columns)])
        compared.setdefault(case["compared"], []).append(case["name"])
    yield from ("", "The same work:")
    for sentence, names in compared.items():
        yield f"- {f'{names[0]}: ' if len(compared) > 1 else ''}{sentence}"


def _cell(case: Record, contestant: Record) -> Iterator[str]:
    """How we stand beside a contestant, whether that is as good as it should be, and what it did."""
    if contestant["role"] != "ours":
        ratio = case["ratios"][contestant["name"]]
        yield f"**{number(ratio['median'])}** [{number(ratio['low'])}–{number(ratio['high'])}]"
    for goal in case["goals"]:
        if goal["other"] == contestant["name"]:
            wanted = number(goal["at_least"])
            lacking = goal["at_least"] - goal["value"]
            yield f"{MET} at least {wanted}" if goal["met"] else f"{MISSED} {lacking:.2g} short of {wanted}"
    memory = contestant["memory_mb"]
    yield f"{_rate(case, contestant)}{f', {memory:,} MB' if memory else ''}"


def _rate(case: Record, contestant: Record) -> str:
    """Work a second; of a single piece of work the time."""
    if case["work"] == 1:
        return time(statistics.median(contestant["seconds"]))
    return f"{number(contestant['rate'])} {case['unit']}/s"


def _small_print(name: str, record: Record) -> str:
    rounds = {len(each["seconds"]) for case in record.get("cases", ()) for each in case["contestants"]}
    told = [f"`{record['command']}`", record["date"]]
    if rounds:
        told.append(f"{_from_to(rounds)} rounds")
    if record["quick"]:
        told.append("quick mode: too little work to rely on")
    return f"<sub>{' · '.join(told)}</sub>"


def _machines(records: Mapping[str, Record]) -> Iterator[str]:
    """On what the stages were measured; which stages, if not all on the same."""
    found: dict[str, list[str]] = {}
    for name, record in records.items():
        found.setdefault(_machine(record), []).append(name)
    for told, names in found.items():
        which = f"{', '.join(names)}: " if len(found) > 1 else ""
        yield f"<sub>{which}{told}</sub>"


def _machine(record: Record) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    return f"{machine.described(record['machine'])} · {versions}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _in_turn(texts: Any) -> str:
    return " · ".join(texts)


def _from_to(values: set[int]) -> str:
    return f"{min(values)} to {max(values)}" if len(values) > 1 else f"{min(values)}"
