"""A short table of what a user waits for, from the results of several stages."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from benchmarks import tables
from benchmarks.results import Record
from studies.base.tables import table


class Expected(NamedTuple):
    """One row of the table."""

    what: str
    stage: str
    case: str
    """Beginning of the case's name."""
    limit: str | None
    """Name of the contestant that is the limit; None shows none."""


ROWS = (
    Expected("train FCN-ResNet-50 at 128 × 128", "training", "fcn_resnet50", "bare steps"),
    Expected("train LR-ASPP at 128 × 128", "training", "lraspp", "bare steps"),
    Expected("predict with FCN-ResNet-50: files of classes and confidence", "prediction", "fcn_resnet50", "bare model"),
    Expected("predict with LR-ASPP: the same", "prediction", "lraspp", "bare model"),
    Expected("prepare images of 480 × 360, once", "cache", "CamVid", "JPEG decode at the reduced scale"),
    Expected("score 11 classes", "scoring", "101 images", "softmax alone"),
    Expected("log 50 epochs with plots", "tracking", "metrics and plots of 50 epochs, sqlite", None),
    Expected("start `train`, until the first step", "startup", "`train` until the first step", "bare imports"),
    Expected("end `train`, with intervals, plots and model", "startup", "from the last epoch to the end", None),
    Expected("run one epoch of a few images with `mlflow run`", "startup", "`mlflow run` of a short run", None),
)


def expectations(records: Mapping[str, Record]) -> str:
    """The table; rows of stages without results are left out."""
    return "\n".join(table(["work", "speed or time", "fraction of the limit", "limit", "measured on"], _rows(records)))


def _rows(records: Mapping[str, Record]) -> Iterator[list[str]]:
    for row in ROWS:
        cases = records.get(row.stage, {}).get("cases", ())
        case = next((each for each in cases if each["name"].startswith(row.case)), None)
        if case is None:
            continue
        ours = next(each for each in case["contestants"] if each["role"] == "ours")
        part = "" if row.limit is None else tables.number(case["ratios"][row.limit]["median"])
        found = records[row.stage]["machine"]
        where = f"{found['cores']} cores, {found['cpu']}"
        yield [row.what, tables.rate(case, ours), part, row.limit or "", where]
