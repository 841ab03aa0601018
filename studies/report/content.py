"""Plain data of a report: `ReportContent` and the runs in it."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from segmentation.errors import InputError, listed
from studies.base import original_report
from studies.base.rerun import command


@dataclass(frozen=True)
class ReportedRun:
    """One MLflow run with the artifacts that the report shows."""

    run_id: str
    name: str
    kind: str
    """The entry point that made the run."""
    status: str
    experiment: str
    started: datetime
    seconds: float
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    config: Mapping[str, Any]
    files: Mapping[str, bytes]
    """Artifacts by path."""
    parsed: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """Contents of JSON artifacts that were asked for."""

    @property
    def anchor(self) -> str:
        """Anchor of the run's entry in the list of runs."""
        return f"run-{self.run_id[:8]}"

    @property
    def command(self) -> str:
        """Command that repeats the run."""
        return command(self.kind, self.config)

    def json(self, path: str) -> Any:
        """Return the content of a JSON artifact; None if the run does not have it.

        Raises:
            InputError: the file is damaged, or was not written by this program.
        """
        try:
            if path in self.files and path not in self.parsed:
                content = json.loads(self.files[path])
                wanted = ("metrics", "intervals") if path.startswith("reliability/") else ()
                if not isinstance(content, dict) or not all(isinstance(content.get(part), dict) for part in wanted):
                    raise ValueError(f"it lacks {listed(wanted)}" if wanted else "it is not an object")
                self.parsed[path] = content
            return self.parsed.get(path)
        except ValueError as error:
            raise InputError(f"{path} of run {self.run_id} ({self.name}) is damaged: {error}") from error

    def rows(self, path: str) -> list[dict[str, str]]:
        """Return the rows of a CSV artifact; none if the run does not have it."""
        return list(csv.DictReader(io.StringIO(self.files.get(path, b"").decode(), newline="")))

    def images(self, folder: str) -> dict[str, bytes]:
        """Return the PNG artifacts of a folder by name without the extension."""
        found = {Path(path): content for path, content in sorted(self.files.items()) if path.endswith(".png")}
        return {path.stem: content for path, content in found.items() if str(path.parent) == folder}


@dataclass(frozen=True)
class ReportedStudy:
    """The run of a study, and the training run of its best trial."""

    run: ReportedRun
    best: ReportedRun | None


@dataclass(frozen=True)
class Comparison:
    """Several runs compared on the images that all share."""

    table: Mapping[str, Any] | None
    """Content of `comparison/table.json`; None if the runs cannot be compared."""
    images: Mapping[str, bytes]
    """Plots as PNG by name."""
    run: ReportedRun | None
    """The run that has stored it; None if the report has compared the runs itself."""
    why_not: str = ""
    """Why the runs cannot be compared."""


@dataclass(frozen=True)
class ReportContent:
    """Everything that a report shows."""

    title: str
    split: str
    experiment: str
    """The experiment in which the report is recorded."""
    main: ReportedRun | None
    """The training run that sections (b) to (f) show."""
    why_main: str
    """Why it is the main run, such as `lowest val/loss of 3 finished training runs`."""
    scored: ReportedRun | None
    """The run with the scores of the split: the main run, or an evaluation of it."""
    history: Mapping[str, Mapping[int, float]]
    """Metrics of the main run by name and epoch."""
    training_runs: Sequence[ReportedRun]
    comparison: Comparison | None
    calibrations: Sequence[ReportedRun]
    studies: Sequence[ReportedStudy]

    @property
    def scores(self) -> Mapping[str, Any] | None:
        """The stored scores of the split."""
        return self.scored.json(f"reliability/{self.split}.json") if self.scored else None

    @property
    def is_like_original(self) -> bool:
        """Whether the page has the form of the original report: its runs are of the original report's data set."""
        configs = [self.config, *(study.run.config for study in self.studies)]
        return any(config.get("dataset") == original_report.DATASET for config in configs)

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration of the main run or of the scored model; empty if there is neither."""
        if self.main:
            return self.main.config
        config: Mapping[str, Any] = (self.scores or {}).get("origin", {}).get("config", {})
        return config
