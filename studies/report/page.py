"""Write the report as one page of Markdown."""

from collections.abc import Iterator, Mapping
from typing import Any

from studies.base.markdown import escaped
from studies.report import comparison, one_model, search
from studies.report.content import ReportContent, ReportedRun
from studies.report.markup import Page, measured, slug
from studies.report.predictions import warnings_of


def write(content: ReportContent, command: str, versions: Mapping[str, str]) -> Page:
    """Return the page.

    Args:
        content: from `collect`.
        command: the command that creates this page.
        versions: of the packages that write it, by name.
    """
    page = Page(content.is_like_original)
    one_model.metrics(page, content)
    one_model.protocol(page, content)
    one_model.loss(page, content)
    one_model.accuracy(page, content)
    one_model.example(page, content)
    one_model.reliability(page, content)
    one_model.calibration_error(page, content)
    one_model.calibrations(page, content)
    comparison.models(page, content)
    search.hyperparameters(page, content)
    one_model.every_epoch(page, content)
    _runs(page, content)
    page.heading("This page")
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    page.text(f"Written with {escaped(packages)} by the command")
    page.code(command)
    front = Page()
    front.lines += [f"# {escaped(content.title)}", ""]
    letters = " Letters in headings, such as (b), are the points of the original report." if page.lettered else ""
    front.text(f"This page shows runs that are recorded in MLflow.{letters}")
    front.items(summary(content, page, links=True))
    front.text(" · ".join(f"[{title}](#{slug(title)})" for title in page.headings))
    page.lines = front.lines + page.lines
    return page


def summary(content: ReportContent, page: Page, links: bool = False) -> Iterator[str]:
    """Yield the most important results as Markdown items."""
    main, scores = content.main, content.scores
    if main:
        epoch = one_model.kept_epoch(content)
        name = f"[{escaped(main.name)}](#{main.anchor})" if links else escaped(main.name)
        kept = f", epoch {epoch} of {escaped(main.config.get('epochs', '?'))}" if epoch else ""
        yield f"**Main run:** {name}{kept} ({escaped(content.why_main)})."
        yield from (f"**Warning:** {escaped(text)}." for text in warnings_of(content.scored or main, content.split))
    if scores:
        rules = scores["protocol"]
        yield (
            f"**{escaped(one_model.scored_data(content))}, {rules['images']} images:** loss "
            f"{measured(scores, 'loss')}, pixel accuracy {measured(scores, 'pixel_accuracy')}, mean IoU "
            f"{measured(scores, 'mean_iou')}, ECE {measured(scores, 'ece')}. Brackets are 95 % intervals over images."
        )
        if one_model.verdict(scores):
            yield one_model.verdict(scores)
    if page.missing:
        yield f"**Not here:** {'; '.join(part.what for part in page.missing)}. The sections below give the commands."


def _runs(page: Page, content: ReportContent) -> None:
    """Add the list of all runs on the page."""
    page.heading("Runs")
    of_studies = [run for study in content.studies for run in (study.run, study.best) if run]
    first = [run for run in (content.main, content.scored, content.comparison and content.comparison.run) if run]
    runs = {run.run_id: run for run in [*first, *content.training_runs, *content.calibrations, *of_studies]}
    for run in runs.values():
        page.lines += [f"### {run.anchor.replace('-', ' ').capitalize()}", ""]
        page.text(f"**{escaped(run.name)}**")
        page.items(_details(run, content.split))
        page.items(f"**Warning:** {escaped(text)}." for text in warnings_of(run, content.split))
        page.code(run.command)


def _details(run: ReportedRun, split: str) -> Iterator[str]:
    """Yield when, where, with which versions and on which data a run was made."""
    tags = run.tags
    yield f"{run.kind}, run `{run.run_id}` in experiment {escaped(run.experiment)}"
    yield f"{run.started:%Y-%m-%d %H:%M} UTC, {_duration(run.seconds)}, {escaped(run.status)}" + (
        f", seed {escaped(run.config['seed'])}" if "seed" in run.config else ""
    )
    versions = ", ".join(
        f"{escaped(name.removeprefix('version.'))} {escaped(value)}"
        for name, value in sorted(tags.items())
        if name.startswith("version.")
    )
    device = f"{escaped(tags['device'])}; " if "device" in tags else ""
    yield f"{device}{versions}; commit {escaped(tags.get('git_commit', 'unknown'))}"
    fingerprints = {
        "training data": tags.get("dataset_fingerprint"), "validation data": tags.get("val_fingerprint"),
    }  # fmt: skip
    for path in (f"reliability/{split}.json", "comparison/table.json", "calibration/changes.json"):
        rules: Mapping[str, Any] = (run.json(path) or {}).get("protocol", {})
        fingerprints |= {f"scored {rules['split']}": rules["fingerprint"]} if rules else {}
    yield from (f"fingerprint of {escaped(name)}: {escaped(value)}" for name, value in fingerprints.items() if value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"
