"""How cost grows with what there is more of: the same work at several sizes, each in a process of its own."""

from benchmarks.growth import comparing, preparing, recording, scoring, searching, training
from benchmarks.growth.series import Series, measured, place
from benchmarks.results import Record

ALL = (*preparing.SERIES, *training.SERIES, *scoring.SERIES, *recording.SERIES, *comparing.SERIES, *searching.SERIES)

__all__ = ["ALL", "Series", "measured", "merged", "place", "series"]


def series(quick: bool) -> list[Series]:
    """All that is measured."""
    return [each for each in ALL if each.quick] if quick else list(ALL)


def merged(before: Record, found: list[Record], about: Record) -> Record:
    """A record with some series measured anew, or for the first time.

    Args:
        before: the record.
        found: those series.
        about: when, where and how they were measured, which each of them keeps.
    """
    of_each = {name: about[name] for name in ("command", "date", "machine", "versions")}
    series = {(each["name"], each["against"]): each for each in before["series"]}
    series |= {(each["name"], each["against"]): each | {"measured": of_each} for each in found}
    order = [(each.name, each.against) for each in ALL]
    return before | {"series": sorted(series.values(), key=lambda each: order.index((each["name"], each["against"])))}
