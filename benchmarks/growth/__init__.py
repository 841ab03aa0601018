"""Growth of cost: the same work at several sizes, each in its own process."""

from benchmarks.growth import comparing, preparing, recording, scoring, searching, training
from benchmarks.growth.series import Series, measured, place
from benchmarks.results import Record

ALL = (*preparing.SERIES, *training.SERIES, *scoring.SERIES, *recording.SERIES, *comparing.SERIES, *searching.SERIES)

__all__ = ["ALL", "Series", "measured", "merged", "place", "series"]


def series(quick: bool) -> list[Series]:
    """All series, or those of the quick mode."""
    return [each for each in ALL if each.quick] if quick else list(ALL)


def merged(before: Record, found: list[Record], about: Record) -> Record:
    """A record with some series replaced or added.

    Args:
        before: the record.
        found: the new series.
        about: command, date, machine and versions of the new series; stored in each of them.
    """
    of_each = {name: about[name] for name in ("command", "date", "machine", "versions")}
    series = {(each["name"], each["against"]): each for each in before["series"]}
    series |= {(each["name"], each["against"]): each | {"measured": of_each} for each in found}
    order = [(each.name, each.against) for each in ALL]
    return before | {"series": sorted(series.values(), key=lambda each: order.index((each["name"], each["against"])))}
