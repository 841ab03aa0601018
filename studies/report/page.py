"""The page that is handed in, written once, as Markdown."""

from collections.abc import Iterator, Mapping
from typing import Any

from studies.base.markdown import escaped
from studies.report import one_model, searched, side_by_side
from studies.report.collected import Collected, Held
from studies.report.markup import Page, measured, slug


def write(reported: Collected, made_by: str, versions: Mapping[str, str]) -> Page:
    """Write the page.

    Args:
        reported: what MLflow holds.
        made_by: the command that makes this page.
        versions: what wrote it, by name.
    """
    page = Page()
    one_model.protocol(page, reported)
    one_model.loss(page, reported)
    one_model.accuracy(page, reported)
    one_model.example(page, reported)
    one_model.reliability(page, reported)
    one_model.calibration_error(page, reported)
    one_model.mended(page, reported)
    side_by_side.models(page, reported)
    searched.settings(page, reported)
    one_model.every_epoch(page, reported)
    _runs(page, reported)
    page.heading("This page")
    page.text(f"Written by {escaped(', '.join(f'{name} {version}' for name, version in versions.items()))}, with")
    page.code(made_by)
    front = Page()
    front.lines += [f"# {escaped(reported.title)}", ""]
    front.text(
        "Written from what MLflow holds; nothing was trained for it. The letters are the points of the original report."
    )
    front.items(summary(reported, page, links=True))
    front.text(" · ".join(f"[{title}](#{slug(title)})" for title in page.headings))
    page.lines = front.lines + page.lines
    return page


def summary(reported: Collected, page: Page, links: bool = False) -> Iterator[str]:
    """What matters most, as items of Markdown."""
    main, record = reported.main, reported.scores
    if main:
        epoch = one_model.kept_epoch(reported)
        name = f"[{escaped(main.name)}](#{main.anchor})" if links else escaped(main.name)
        kept = f", epoch {epoch} of {escaped(main.config.get('epochs', '?'))}" if epoch else ""
        yield f"**Shown by itself:** {name}{kept}; {escaped(reported.why)}."
    if record:
        rules = record["protocol"]
        yield (
            f"**{escaped(rules['dataset'])}/{escaped(rules['split'])}, {rules['images']} images** (in brackets, 95 % "
            f"intervals): pixel accuracy {measured(record, 'pixel_accuracy')}, mean IoU "
            f"{measured(record, 'mean_iou')}, loss {measured(record, 'loss')}, ECE {measured(record, 'ece')}."
        )
        if one_model.verdict(record):
            yield one_model.verdict(record)
    if page.missing:
        yield f"**Missing** (its section tells the command): {'; '.join(part.what for part in page.missing)}."
    else:
        yield "Nothing is missing."


def _runs(page: Page, reported: Collected) -> None:
    """Where everything comes from, once for each run."""
    page.heading("Runs")
    of_studies = [run for study in reported.studies for run in (study.run, study.best) if run]
    alone = [run for run in (reported.main, reported.scored, reported.comparison) if run]
    for run in {run.run_id: run for run in [*alone, *reported.trainings, *reported.calibrations, *of_studies]}.values():
        page.lines += [f"### {run.anchor.replace('-', ' ').capitalize()}", ""]
        page.text(f"**{escaped(run.name)}**")
        page.items(_record(run, reported.split))
        page.code(run.command)


def _record(run: Held, split: str) -> Iterator[str]:
    """Everything that is known about how a run was made."""
    tags = run.tags
    yield f"{run.kind}, run `{run.run_id}` in experiment {escaped(run.experiment)}"
    yield f"{run.started:%Y-%m-%d %H:%M} UTC, took {_duration(run.seconds)}, {escaped(run.status)}" + (
        f", seed {escaped(run.config['seed'])}" if "seed" in run.config else ""
    )
    versions = ", ".join(
        f"{escaped(name.removeprefix('version.'))} {escaped(value)}"
        for name, value in sorted(tags.items())
        if name.startswith("version.")
    )
    device = f"{escaped(tags['device'])}; " if "device" in tags else ""
    yield f"{device}{versions}; commit {escaped(tags.get('git_commit', 'unknown'))}"
    prints = {"data": tags.get("dataset_fingerprint"), "validation data": tags.get("val_fingerprint")}
    for name in (f"reliability/{split}.json", "comparison/table.json", "calibration/changes.json"):
        rules: Mapping[str, Any] = (run.record(name) or {}).get("protocol", {})
        prints |= {f"scored {rules['dataset']}/{rules['split']}": rules["fingerprint"]} if rules else {}
    yield from (f"{escaped(name)} {escaped(value)}" for name, value in prints.items() if value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"
