"""How cost grows with what there is more of: the same work at several sizes, each in a process of its own."""

from benchmarks.growth import comparing, preparing, recording, scoring, searching, training
from benchmarks.growth.series import Series, measured, place

ALL = (*preparing.SERIES, *training.SERIES, *scoring.SERIES, *recording.SERIES, *comparing.SERIES, *searching.SERIES)

__all__ = ["ALL", "Series", "measured", "place", "series"]


def series(quick: bool) -> list[Series]:
    """All that is measured."""
    return [each for each in ALL if each.quick] if quick else list(ALL)
