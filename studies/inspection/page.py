"""Write an inspection as one page of Markdown with its images."""

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

import numpy as np
from PIL import Image

from segmentation import plots
from segmentation.classes import VOID
from segmentation.config import RGB
from segmentation.errors import InputError, counted
from segmentation.inspection.advice import channel_statistics
from segmentation.inspection.overlays import typical, with_class, with_mask
from segmentation.inspection.problems import Case, Problem
from segmentation.inspection.split import InspectedSplit
from studies.base.markdown import escaped
from studies.base.rerun import here
from studies.inspection.content import Inspection
from studies.report.markup import Page, on_one_line, shortened, slug

LISTED = {"error": 20, "warning": 20, "note": 6}
"""Most cases of a problem in its table, by level; `problems.csv` has all."""
IN_HEADING = 20
"""Most names that the heading of a problem lists."""
SHOWN = 6
"""Most images of a problem in the gallery of odd images."""
MAX_GALLERY = 100
"""Most images in the gallery of classes."""
MOST_SIZES = 8
"""Most image sizes in the table."""
FEW_FOR_RANDOM_WEIGHTS = 2_000
"""Training images below which the page suggests pretrained weights."""
MARKS = {"error": "Error", "warning": "Warning", "note": "Note"}


def write(inspection: Inspection) -> Page:
    """Return the page."""
    page = Page()
    _problems(page, inspection)
    _advice(page, inspection)
    _splits(page, inspection)
    _classes(page, inspection)
    _preparation(page, inspection)
    _files(page, inspection)
    _gallery(page, inspection)
    _odd_images(page, inspection)
    page.heading("This page")
    page.text(
        "Tables beside it: `problems.csv` with every case, `classes.csv`, and `images.csv` with a row for each image. "
        "Written by the command"
    )
    page.code(here("inspect", asdict(inspection.config)))
    front = Page()
    front.lines += [f"# {escaped(inspection.name)} before training", ""]
    front.text(f"{escaped(inspection.summary())}.")
    front.items(_summary(inspection))
    front.text(" · ".join(f"[{title}](#{slug(title)})" for title in page.headings))
    page.lines = front.lines + page.lines
    return page


def _summary(inspection: Inspection) -> Iterator[str]:
    """Yield the errors and warnings, then the number of notes."""
    wrong = [problem for problem in inspection.problems if problem.level != "note"]
    for problem in wrong:
        yield f"**{MARKS[problem.level]}:** {escaped(shortened(problem.what, 200))}."
    if not wrong:
        yield "No error and no warning."
    if inspection.count("note"):
        yield f"{counted(inspection.count('note'), 'note')} below."


def _problems(page: Page, inspection: Inspection) -> None:
    page.heading("Problems")
    page.text(
        "An error makes training refuse the data. A warning is probably a fault. A note is good to know."
        if inspection.problems
        else "None found."
    )
    for problem in inspection.problems:
        page.lines += [f"### {MARKS[problem.level]}: {escaped(problem.what.rstrip('.'))}", ""]
        page.text(escaped(problem.do))
        _cases(page, problem)


def _cases(page: Page, problem: Problem) -> None:
    """Add the cases of a problem; names alone are a sentence, and left out where the heading has them all."""
    cases, listed = problem.cases, LISTED[problem.level]
    if all(case.image is None and not case.detail for case in cases):
        if len(cases) > IN_HEADING:
            page.text(f"All of them: {escaped(', '.join(case.name for case in cases))}.")
        return
    has_detail = any(case.detail for case in cases)
    header = ["split", "class" if cases[0].image is None else "image", *(["detail"] if has_detail else [])]
    rows = ([case.split, case.name, shortened(case.detail, 300)][: len(header)] for case in cases[:listed])
    page.table(header, ([escaped(cell) for cell in row] for row in rows))
    if len(cases) > listed:
        page.text(f"and {len(cases) - listed:,} more, in `problems.csv`.")


def _advice(page: Page, inspection: Inspection) -> None:
    page.heading("What to set")
    if inspection.advice:
        page.table(
            ["field", "reason"],
            ([on_one_line(f"`{each.field}={each.value}`"), f"{escaped(each.reason)}."] for each in inspection.advice),
        )
    else:
        page.text("The given settings fit these data.")
    images = next((len(each.sound) for each in inspection.opened if each.name == inspection.config.train_split), 0)
    if 0 < images < FEW_FOR_RANDOM_WEIGHTS and inspection.config.channels == RGB:
        page.text(
            "Models learn more from few images if they start from pretrained weights. Add `weights=imagenet` (the "
            "backbone) or `weights=coco` (the whole model), with `normalization=imagenet`. Both are downloaded once."
        )
    page.text("A first run:" if inspection.can_train else "A first run, once the errors above are corrected:")
    page.code(inspection.training_command())


def _splits(page: Page, inspection: Inspection) -> None:
    page.heading("Splits")
    rows = []
    for split in inspection.splits:
        if split.source is None:
            rows.append([escaped(split.name), "cannot be opened", *[""] * 4])
            continue
        rows.append([
            escaped(split.name), f"{len(split.images):,}", f"{split.pixels[0].sum() / 1e6:,.1f}",
            _sides(split), _percent(split.void()), _percent(split.fraction_kept()),
        ])  # fmt: skip
    page.table(["split", "images", "million pixels", "width x height", "void", "pixels inside the crop"], rows)


def _sides(split: InspectedSplit) -> str:
    """Return the range of widths and heights."""
    if not split.sizes():
        return "–"
    low, high = (tuple(f(side) for side in zip(*split.sizes(), strict=True)) for f in (min, max))
    ranges = (f"{a}" if a == b else f"{a}\u2011{b}" for a, b in zip(low, high, strict=True))
    return on_one_line(" x ".join(ranges))


def _percent(fraction: float) -> str:
    """Format a fraction with one decimal, or two below 1 %."""
    if fraction != fraction:
        return "–"
    percent = 100 * fraction
    if 0 < percent < 0.01:
        return on_one_line("< 0.01 %")
    return on_one_line(f"{percent:.1f} %" if percent >= 1 else f"{percent:.2f} %" if percent else "0 %")


def _classes(page: Page, inspection: Inspection) -> None:
    """Add pixels and images of each class in each split."""
    page.heading("Classes")
    names, opened = inspection.labels.names, inspection.opened
    fractions = {split.name: _class_fractions(split, len(names)) for split in opened}
    if any(np.nan_to_num(each).any() for each in fractions.values()):
        figure = plots.class_frequency(names, fractions)
        page.image("classes.png", _png(plots.pixels(figure)), "Fraction of the pixels of each class in each split")
    page.text(
        "Pixels are counted at the masks' own size. Classes are fractions of the non-void pixels, void of all pixels."
    )
    rows = []
    for index, name in enumerate(names):
        cells = [[f"{split.holding[0, index]:,}", _percent(fractions[split.name][index])] for split in opened]
        rows.append([escaped(name), *(cell for pair in cells for cell in pair)])
    void = [[f"{split.holding[0, VOID]:,}", _percent(split.void())] for split in opened]
    rows.append(["*void*", *(on_one_line(cell) for pair in void for cell in pair)])
    header = [f"{escaped(split.name)} {what}" for split in opened for what in ("images", "pixels")]
    page.table(["class", *header], rows)


def _class_fractions(split: InspectedSplit, classes: int) -> np.ndarray:
    pixels = split.pixels[0, :classes].astype(np.float64)
    return pixels / pixels.sum() if pixels.any() else np.full(classes, np.nan)


def _preparation(page: Page, inspection: Inspection) -> None:
    """Add how much of each class is left after `resize` and `crop`."""
    config = inspection.config
    page.heading("What resize and crop leave")
    split = next((each for each in inspection.opened if each.sound), None)
    if split is None:
        page.text("No image can be read.")
        return
    page.text(
        f"With resize={config.resize}, crop={config.crop}, crop_at={config.crop_at} and "
        f"score_crop={config.score_crop}, on {escaped(split.name)}. Columns: images that show the class; those that "
        f"still show it after resize; after the crop; the part of its area inside the crop; the median number of its "
        f"pixels in an image after both."
    )
    rows = []
    for index, name in enumerate(inspection.labels.names):
        images, resized, cropped = split.holding[:, index].tolist()
        if images:
            here = [cropped for own, _, cropped in (image.pixels_of(index) for image in split.sound) if own]
            median = f"{np.median(here):,.0f}"
            rows.append([
                escaped(name), f"{images:,}", f"{resized:,}", f"{cropped:,}", _percent(split.kept[index]), median
            ])  # fmt: skip
    page.table(["class", "images", "resized", "cropped", "area", "median"], rows)


def _files(page: Page, inspection: Inspection) -> None:
    """Add sizes, formats, modes and bits of the files, and the mean colour."""
    page.heading("Image files")
    sizes: Counter[tuple[int, int]] = Counter()
    for split in inspection.opened:
        sizes.update(split.sizes())
    common = sizes.most_common(MOST_SIZES)
    rows = [[on_one_line(f"{width} x {height}"), f"{count:,}"] for (width, height), count in common]
    if len(sizes) > len(common):
        others = sizes.total() - sum(count for _, count in common)
        rows.append([f"{len(sizes) - len(common):,} other sizes", f"{others:,}"])
    page.table(["width x height", "images"], rows)
    images = [image for split in inspection.opened for image in split.images]
    kinds = Counter(("image", str(image.image_kind)) for image in images if image.image_kind)
    kinds.update(("mask", str(image.mask_kind)) for image in images if image.mask_kind)
    if kinds:
        most_first = sorted(kinds.items(), key=lambda item: (item[0][0], -item[1]))
        rows = [[what, kind, f"{count:,}"] for (what, kind), count in most_first]
        page.table(["file", "format, mode and bits", "files"], rows)
    statistics = channel_statistics(inspection.opened)
    if statistics is not None:
        mean, std = (" ".join(f"{value:.3f}" for value in values) for values in statistics)
        which = "red, green and blue" if inspection.config.channels == RGB else "each channel"
        page.text(
            f"Mean of {which}: {mean}; standard deviation: {std}. They are in [0, 1] and measured on "
            f"images reduced to 64 pixels."
        )


def _gallery(page: Page, inspection: Inspection) -> None:
    """Add images of each class, with much, less and little of it."""
    config = inspection.config
    names = inspection.labels.names
    split = next((each for each in inspection.opened if each.sound), None)
    count = min(config.examples, max(1, MAX_GALLERY // len(names)))
    if split is None or split.source is None or not config.examples:
        return
    page.heading("Gallery")
    page.text(
        f"The class keeps its colours and has a red outline; all else is pale. Images of {escaped(split.name)}, from "
        f"much of the class to little."
    )
    for index, name in enumerate(names):
        shown = []
        for position in typical(split, index, count):
            image = split.images[position]
            fraction = image.pixels_of(index)[0] / image.total
            try:
                content = with_class(split.source, position, index)
            except InputError:  # changed meanwhile
                continue
            shown.append((content, f"{image.name}, {_percent(fraction)}"))
        if shown:
            page.lines += [f"### {escaped(name)}", ""]
            page.gallery(shown)


def _odd_images(page: Page, inspection: Inspection) -> None:
    """Add the images of problems, each beside its mask."""
    by_name = {split.name: split for split in inspection.opened}
    sections = [(problem, list(_shown(problem, by_name, inspection))) for problem in inspection.problems]
    if not any(shown for _, shown in sections) or not inspection.config.examples:
        return
    page.heading("Odd images")
    page.text("Each image beside its mask, where the mask can be read. The images are those of the problems above.")
    for problem, shown in sections:
        if shown:
            page.lines += [f"### {escaped(shortened(problem.what, 120))}", ""]
            page.gallery(shown, wide=True)


def _shown(problem: Problem, by_name: dict[str, InspectedSplit], inspection: Inspection) -> Iterator[tuple[bytes, str]]:
    members = 2 if problem.cases and problem.cases[0].other else 1
    for case in problem.cases[: SHOWN // members]:
        for number, (split_name, index) in enumerate(_members(case)):
            split = by_name[split_name]
            assert split.source is not None
            content = with_mask(split.source, index, inspection.labels)
            if content is not None:
                detail = f": {shortened(case.detail, 80)}" if case.detail and not number else ""
                yield content, f"{split_name}/{split.images[index].name}{detail}"


def _members(case: Case) -> Sequence[tuple[str, int]]:
    """Return split and index of the image of a case, and of the one that it is compared with."""
    if case.image is None:
        return ()
    own = (case.split, case.image)
    return (own,) if case.other is None else (own, case.other)


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).quantize(64).save(file, "PNG", optimize=True)
    return file.getvalue()


def lines(problems: Iterable[Problem]) -> Iterator[str]:
    """Yield the errors and warnings as lines for a terminal, the most important first."""
    for problem in problems:
        if problem.level != "note":
            case = problem.cases[0] if problem.kind == "file" and problem.cases else None
            example = f", such as {case.split}/{case.name} ({case.detail})" if case else ""
            yield f"{problem.level.upper()}: {problem.what.rstrip('.')}{example}."
