"""Markdown tables of results."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks import machine
from benchmarks.results import GROWTH, Record

NOTHING = "No results yet."
MET, MISSED = "✓", "✗"
STEEP = 1.1
"""Exponents above this are printed in bold."""
UNITS = ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def stages(records: Mapping[str, Record]) -> str:
    """One table per stage, and the machines on which they were measured."""
    shown = {name: record for name, record in records.items() if name != GROWTH}
    if not shown:
        return NOTHING
    lines = [
        "In bold: speed of this project divided by that of the other in the same round; median over the rounds, with "
        "minimum and maximum. Below it: whether this meets the goal. Memory is the peak of the process minus its "
        "memory when it was ready.",
    ]
    for name, record in shown.items():
        lines += ["", f"### {record['title']}", "", *_stage(record), "", _small_print(name, record)]
    return "\n".join([*lines, "", *_machines(shown)])


def growth(records: Mapping[str, Record]) -> str:
    """The table of the growth of cost, and the machine on which it was measured."""
    if GROWTH not in records:
        return NOTHING
    record = records[GROWTH]
    lines = ["| | grows with | sizes | time | time per unit | memory, MB | exponent |", f"|{' --- |' * 7}"]
    for series in record["series"]:
        sizes = [point["x"] for point in series["points"]]
        seconds = [statistics.median(point["seconds"]) for point in series["points"]]
        per_unit = [second / size for second, size in zip(seconds, sizes, strict=True)]
        exponent = f"{series['exponent']:.2f}"
        cells = [
            series["name"], series["against"], _in_turn(f"{size:,}" for size in sizes), _in_turn(map(time, seconds)),
            f"{_in_turn(map(time, per_unit))} per {series['unit']}" if series["unit"] else "",
            _in_turn(f"{point['memory_mb']:,}" for point in series["points"]),
            f"**{exponent}**" if series["exponent"] > STEEP else exponent,
        ]  # fmt: skip
        lines.append(_row(cells))
    lines += [
        "",
        f"The exponent is the slope between the first and the last point on logarithmic axes: 1 is linear, 0 is "
        f"constant. It is bold above {STEEP:g}.",
        "",
        _small_print(GROWTH, record),
    ]
    apart: dict[str, list[str]] = {}
    for series in record["series"]:
        if "measured" in series:
            about = series["measured"]
            label = f"`{about['command']}` · {about['date']} · {_machine(about)}"
            apart.setdefault(label, []).append(series["name"])
    lines += ["", *_machines({GROWTH: record})]
    lines += [
        f"<sub>Measured separately: {', '.join(dict.fromkeys(names))}: {label}</sub>" for label, names in apart.items()
    ]
    return "\n".join(lines)


def number(value: float) -> str:
    """A number with three significant digits and thousands separators."""
    if abs(value) >= 1e6:
        return f"{number(value / 1e6)} million"
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{round(value, digits):,.{max(0, digits)}f}"


def time(seconds: float) -> str:
    """A time with its unit."""
    value, unit = in_unit(seconds)
    return f"{number(value)} {unit}"


def in_unit(seconds: float) -> tuple[float, str]:
    """A time in the largest unit in which it is at least 1."""
    scale, unit = next(((scale, unit) for scale, unit in UNITS if seconds > 0.9999 * scale), UNITS[-1])
    return seconds / scale, unit


def _stage(record: Record) -> Iterator[str]:
    """A table with a row per case and a column per contestant, then the comparison of their results."""
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
    yield from ("", "Comparison of the results:")
    for sentence, names in compared.items():
        yield f"- {f'{names[0]}: ' if len(compared) > 1 else ''}{sentence}"


def _cell(case: Record, contestant: Record) -> Iterator[str]:
    """Relative speed, whether it meets the goal, and the contestant's own speed and memory."""
    if contestant["role"] != "ours":
        ratio = case["ratios"][contestant["name"]]
        yield f"**{number(ratio['median'])}** [{number(ratio['low'])}–{number(ratio['high'])}]"
    for goal in case["goals"]:
        if goal["other"] == contestant["name"]:
            goal_text = number(goal["at_least"])
            lacking = goal["at_least"] - goal["value"]
            yield f"{MET} at least {goal_text}" if goal["met"] else f"{MISSED} {lacking:.2g} short of {goal_text}"
    memory = contestant["memory_mb"]
    yield f"{rate(case, contestant)}{f', {memory:,} MB' if memory else ''}"


def rate(case: Record, contestant: Record) -> str:
    """Work per second, or the time if there is one piece of work."""
    if case["work"] == 1:
        return time(statistics.median(contestant["seconds"]))
    return f"{number(contestant['rate'])} {case['unit']}/s"


def _small_print(name: str, record: Record) -> str:
    rounds = {len(each["seconds"]) for case in record.get("cases", ()) for each in case["contestants"]}
    parts = [f"`{record['command']}`", record["date"]]
    if rounds:
        parts.append(f"{_from_to(rounds)} rounds")
    if record["quick"]:
        parts.append("quick mode: not reliable")
    return f"<sub>{' · '.join(parts)}</sub>"


def _machines(records: Mapping[str, Record]) -> Iterator[str]:
    """The machines on which stages were measured, with the names of the stages if there are several."""
    found: dict[str, list[str]] = {}
    for name, record in records.items():
        found.setdefault(_machine(record), []).append(name)
    for label, names in found.items():
        which = f"{', '.join(names)}: " if len(found) > 1 else ""
        yield f"<sub>{which}{label}</sub>"


def _machine(record: Record) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    return f"{machine.described(record['machine'])} · {versions}"


def _row(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _in_turn(texts: Any) -> str:
    return " · ".join(texts)


def _from_to(values: set[int]) -> str:
    return f"{min(values)} to {max(values)}" if len(values) > 1 else f"{min(values)}"
