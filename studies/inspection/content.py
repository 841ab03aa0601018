"""Plain data of an inspection, and what is derived from it for the page, the tables and MLflow."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from segmentation.classes import VOID, Classes
from segmentation.errors import counted
from segmentation.inspection.advice import Advice
from segmentation.inspection.problems import Problem
from segmentation.inspection.split import InspectedSplit
from studies.base.rerun import command, for_this_folder
from studies.base.tables import csv_text
from studies.config import InspectConfig


@dataclass(frozen=True)
class Inspection:
    """An inspected data set."""

    name: str
    """Of the data set."""
    config: InspectConfig
    splits: Sequence[InspectedSplit]
    problems: Sequence[Problem]
    advice: Sequence[Advice]

    @cached_property
    def opened(self) -> list[InspectedSplit]:
        """The splits that can be opened."""
        return [split for split in self.splits if split.source is not None]

    @cached_property
    def labels(self) -> Classes:
        """The classes; every split has the same."""
        labels = self.opened[0].labels
        assert labels is not None
        return labels

    def training_command(self) -> str:
        """Return the command that trains on this data set with the recommended fields, for the current folder."""
        values = {name: value for name, value in asdict(self.config).items() if name in self._given()}
        recommended = {each.field: each.value for each in self.advice}
        text = command("train", values | recommended, always=("dataset", "data_dir", *recommended))
        return for_this_folder(text)

    @property
    def can_train(self) -> bool:
        """Whether training with the recommended fields refuses nothing: they make a missing validation split."""
        return not any(problem.level == "error" and problem.kind != "no_validation" for problem in self.problems)

    def _given(self) -> set[str]:
        """Names of the data fields that training needs to find the same images."""
        other = {"splits", "strict", "output", "examples", "experiment", "records", "run_name"}
        return asdict(self.config).keys() - other

    def summary(self) -> str:
        """Return images, splits and classes in one line."""
        parts = ", ".join(f"{split.name} {len(split.images):,}" for split in self.opened)
        total = sum(len(split.images) for split in self.opened)
        return f"{counted(total, 'image')} ({parts}), {len(self.labels)} classes"

    def count(self, level: str) -> int:
        """Return the number of problems of a level."""
        return sum(problem.level == level for problem in self.problems)

    def metrics(self) -> dict[str, float]:
        """Return the numbers to log, under names of their own: a run list shows no column for them by default."""
        found: dict[str, float] = {f"inspect/{level}s": self.count(level) for level in ("error", "warning", "note")}
        for split in self.opened:
            prefix = f"inspect/{split.name}"
            found |= {f"{prefix}/images": len(split.images), f"{prefix}/void": split.void()}
            found[f"{prefix}/in_crop"] = split.fraction_kept()
            for index, name in enumerate(self.labels.names):
                found[f"{prefix}/pixels/{name}"] = float(split.pixels[0, index])
        return found

    def problems_table(self) -> str:
        """Return every case of every problem as CSV."""
        rows = []
        for problem in self.problems:
            for case in problem.cases or [None]:
                where = ("", "", "") if case is None else (case.split, case.name, case.detail)
                rows.append([problem.level, problem.kind, problem.what, *where])
        return csv_text(["level", "kind", "problem", "split", "name", "detail"], rows)

    def classes_table(self) -> str:
        """Return pixels and images of each class and of void in each split as CSV."""
        header = ["class", *(f"{split.name} {what}" for split in self.opened for what in CLASS_COLUMNS)]
        rows = [[name, *self._class_row(index)] for index, name in [*enumerate(self.labels.names), (VOID, "void")]]
        return csv_text(header, rows)

    def _class_row(self, index: int) -> Iterator[object]:
        for split in self.opened:
            yield from split.pixels[:, index].tolist()
            yield from split.holding[:, index].tolist()

    def images_table(self) -> str:
        """Return one row for each image as CSV."""
        rows = []
        for split in self.opened:
            for image in split.images:
                size: Sequence[object] = image.size or ("", "")
                names = [self.labels.names[value] for value, *_ in image.counts if value < len(self.labels)]
                void = image.pixels_of(VOID)[0]
                rows.append([
                    split.name, image.name, *size, image.image_kind or "", image.mask_kind or "", void,
                    " ".join(names), f"{image.hash:016x}" if image.copy else "",
                ])  # fmt: skip
        header = ["split", "name", "width", "height", "image", "mask", "void pixels", "classes", "difference hash"]
        return csv_text(header, rows)


CLASS_COLUMNS: Mapping[str, str] = {
    "pixels": "at the masks' own size", "pixels resized": "after resize", "pixels cropped": "after resize and crop",
    "images": "that hold the class", "images resized": "that still hold it", "images cropped": "that still hold it",
}  # fmt: skip
"""Columns of each split in the table of classes."""
