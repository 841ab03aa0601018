"""What is wrong with a data set, or may be: everything that training refuses, and what it would not notice."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from segmentation.classes import VOID
from segmentation.config import DataConfig
from segmentation.data.coverage import MAX_VOID_FRACTION
from segmentation.errors import counted, listed
from segmentation.inspection.hashes import Prints, nearest
from segmentation.inspection.image import InspectedImage, files_of, without_names
from segmentation.inspection.split import InspectedSplit

Level = Literal["error", "warning", "note"]
BLANK = 2 / 255
"""Standard deviation of the grey values below which an image shows nothing."""
RARE_IMAGES = 10
"""A class in fewer training images is hardly learned, and its metrics are hardly known."""
MIN_KEPT = 0.8
"""Fraction of a class's images that should still show it after preparation."""
MIN_KEPT_AREA = 0.5
"""Fraction of a class's area that should lie inside the crop."""
GROUPS = {
    "both must have the same size": "image and mask have different sizes",
    "; expected ": "other channels or bits than expected",
}
"""What groups of faults are called, by a part of their messages."""
FEW = 0.1
"""A kind of file is an exception if at most this fraction of a split's images has it."""


@dataclass(frozen=True)
class Case:
    """One image, file or class that a problem is about."""

    split: str
    name: str
    detail: str = ""
    image: int | None = None
    """Index of the image in its split, if it is one."""
    other: tuple[str, int] | None = None
    """Split and index of the image it is compared with."""


@dataclass(frozen=True)
class Problem:
    """One kind of problem with all its cases."""

    level: Level
    """error: training refuses the data; warning: something is probably wrong; note: something to know."""
    kind: str
    """Short name, for tables that programs read."""
    what: str
    """One sentence: how many, and what."""
    do: str
    """What to do."""
    cases: tuple[Case, ...] = ()


def find_problems(splits: Sequence[InspectedSplit], config: DataConfig) -> list[Problem]:
    """Return all problems, errors first."""
    checks: tuple[Callable[[Sequence[InspectedSplit], DataConfig], Iterable[Problem]], ...] = (
        _refused_splits, _refused_images, _unequal_sizes, _equal_images, _similar_images, _repeated_masks,
        _absent_classes, _void, _turned_masks, _blank_images, _lost_classes, _single_values, _rare_classes, _odd_kinds,
        _unequal_bits,
        _enlarged,
    )  # fmt: skip
    found = [problem for check in checks for problem in check(splits, config)]
    return sorted(found, key=lambda problem: ("error", "warning", "note").index(problem.level))


def is_wrong(problems: Iterable[Problem]) -> bool:
    """Return whether any problem is more than a note."""
    return any(problem.level != "note" for problem in problems)


def _cases(
    splits: Sequence[InspectedSplit], is_one: Callable[[InspectedImage], bool | str]
) -> dict[str, tuple[Case, ...]]:
    """Return the images of each split for which `is_one` returns true or a text; the text becomes the detail."""
    found = {}
    for split in splits:
        chosen = [(index, image, is_one(image)) for index, image in enumerate(split.images)]
        found[split.name] = tuple(
            Case(split.name, image.name, detail if isinstance(detail, str) else "", index)
            for index, image, detail in chosen
            if detail
        )
    return found


def _refused_splits(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Problem]:
    for split in splits:
        for fault in split.faults:
            kind = "no_validation" if split.is_absent else "split" if split.source is None else "files"
            yield Problem("error", kind, fault if split.is_absent else f"{split.name}: {fault}", "")
        if split.source is None:
            continue
        if not split.images:
            yield Problem("error", "empty", f"{split.name} has no image", f"Add images to {split.source.location}.")
        elif split.sound and not split.pixels[0, :VOID].any():
            yield Problem(
                "error", "all_void", f"{split.name} is all void: no pixel has a class",
                "Check which mask value each class has.",
            )  # fmt: skip
        elif split.name == config.train_split and config.dataset == "folder":
            yield from _foreground_is_void(split)


def _foreground_is_void(split: InspectedSplit) -> Iterator[Problem]:
    """Masks of two classes that hold 0 and 255, where 255 is void; see `report_coverage`."""
    assert split.labels is not None
    present = split.pixels[0, :VOID].nonzero()[0]
    if len(split.labels) == 2 and len(present) == 1 and split.pixels[0, VOID]:
        absent = 1 - int(present[0])
        values = {name: VOID if index == absent else index for index, name in enumerate(split.labels.names)}
        name = split.labels.names[absent]
        yield Problem(
            "error", "void_class",
            f"{split.name}: no pixel is of class {name}, and {split.void():.1%} are void (value 255)",
            f"If 255 is {name} in these masks, write this to classes.json, which replaces classes.txt: "
            f"{json.dumps(values)}",
        )  # fmt: skip


def _refused_images(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Problem]:
    """Group the faults of single images by what they say without names and numbers."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for split in splits:
        for index, image in enumerate(split.images):
            assert split.source is not None
            for fault in image.faults:
                text = without_names(fault, files_of(split.source, index), image.name)
                key = next((key for part, key in GROUPS.items() if part in text), re.split(r"[:;(\d]", text)[0])
                groups[key.strip()].append(Case(split.name, image.name, text, index))
    for text, cases in groups.items():
        yield Problem("error", "file", f"{counted(len(cases), 'image')} refused: {text}", "", tuple(cases))


def _unequal_sizes(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Problem]:
    for split in splits:
        sizes = {image.prepared for image in split.images if image.prepared is not None}
        if len(sizes) > 1 and config.crop is None:
            yield Problem(
                "error", "sizes", f"{split.name}: the images have {len(sizes)} sizes after preparation",
                "Set crop, so that all have the same size and fit into batches.",
            )  # fmt: skip


def _equal_images(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Problem]:
    """Files with equal content: in two splits, with different masks, or twice in one split."""
    by_digest: dict[bytes, list[tuple[int, int]]] = defaultdict(list)
    for number, split in enumerate(splits):
        for index, image in enumerate(split.images):
            if image.image_digest:
                by_digest[image.image_digest].append((number, index))
    across: list[Case] = []
    conflicts: list[Case] = []
    within: list[Case] = []
    for members in by_digest.values():
        (first_split, first), *others = members
        original = splits[first_split].images[first]
        for number, index in others:
            image = splits[number].images[index]
            other = (splits[first_split].name, first)
            case = Case(splits[number].name, image.name, f"equals {other[0]}/{original.name}", index, other)
            if number != first_split:
                across.append(case)
            if image.mask_digest and original.mask_digest and image.mask_digest != original.mask_digest:
                conflicts.append(case)
            elif number == first_split:
                within.append(case)
    if across:
        yield Problem(
            "warning", "equal_across",
            f"{counted(len(across), 'image')} {_is_or_are(across)} in two splits",
            "The scores are too good: the model has seen the images that it is scored on. Keep each in one split.",
            tuple(across),
        )  # fmt: skip
    if conflicts:
        yield Problem(
            "warning", "equal_conflict", f"{counted(len(conflicts), 'image')} equal to another, with a different mask",
            "Only one of the masks can be right.", tuple(conflicts),
        )  # fmt: skip
    if within:
        yield Problem(
            "note", "equal_within", f"{counted(len(within), 'image')} {_is_or_are(within)} twice in a split",
            "They count twice in training and in every metric.", tuple(within),
        )  # fmt: skip


def _is_or_are(cases: Sequence[Case]) -> str:
    return "is" if len(cases) == 1 else "are"


def _similar_images(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Problem]:
    """Images that look alike but are different files: resized, compressed or brightened copies, frames of a video."""
    readable = [[index for index, image in enumerate(split.images) if image.copy] for split in splits]
    prints = [
        Prints.of([split.images[index].hash for index in indices], [split.images[index].copy for index in indices])
        for split, indices in zip(splits, readable, strict=True)
    ]
    across: list[Case] = []
    within: list[Case] = []
    for number, split in enumerate(splits):
        for earlier in range(number + 1):
            same = earlier == number
            places, alike = nearest(prints[number], None if same else prints[earlier])
            for position in (places >= 0).nonzero()[0]:
                index, other = readable[number][position], readable[earlier][places[position]]
                image, original = split.images[index], splits[earlier].images[other]
                if image.image_digest == original.image_digest:
                    continue
                detail = f"like {splits[earlier].name}/{original.name}, correlation {alike[position]:.3f}"
                case = Case(split.name, image.name, detail, index, (splits[earlier].name, other))
                (within if same else across).append(case)
    if across:
        yield Problem(
            "warning", "similar_across",
            f"{counted(len(across), 'image')} of one split {_is_or_are(across)} nearly equal to an image of another",
            "The scores are too good if these are copies or frames of one scene. Look at them, and keep all images of "
            "a scene in one split.",
            tuple(across),
        )  # fmt: skip
    if within:
        yield Problem(
            "note", "similar_within",
            f"{counted(len(within), 'image')} {_is_or_are(within)} nearly equal to another one of the same split",
            "The split holds fewer independent images than it seems, so intervals are too narrow.", tuple(within),
        )  # fmt: skip


def _repeated_masks(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Problem]:
    """Masks with several classes that are equal although their images differ."""
    by_digest: dict[bytes, list[tuple[str, int, InspectedImage]]] = defaultdict(list)
    for split in splits:
        for index, image in enumerate(split.images):
            if len(image.counts) > 1:
                by_digest[image.mask_digest].append((split.name, index, image))
    cases = []
    for (split_name, first, original), *others in by_digest.values():
        for name, index, image in others:
            if image.copy and original.copy and image.hash != original.hash:
                detail = f"the mask of {split_name}/{original.name}"
                cases.append(Case(name, image.name, detail, index, (split_name, first)))
    if cases:
        yield Problem(
            "warning", "repeated_mask",
            f"{counted(len(cases), 'mask')} {_is_or_are(cases)} equal to the mask of a different image",
            "Check whether files were copied or named wrongly.", tuple(cases),
        )  # fmt: skip


def _absent_classes(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Problem]:
    filled = [split for split in splits if split.sound]
    if not filled or filled[0].labels is None:
        return
    names = filled[0].labels.names
    absent = {split.name: {name for index, name in enumerate(names) if not split.pixels[0, index]} for split in filled}
    nowhere = [name for name in names if all(name in each for each in absent.values())]
    if nowhere:
        where = "any split" if len(filled) > 1 else filled[0].name
        yield Problem(
            "warning", "absent", f"{_classes(nowhere)} no pixel in {where}",
            "Their IoU is undefined and left out of the mean. That is fine if the images do not show them; otherwise "
            "check their mask values.",
            tuple(Case("all", name) for name in nowhere),
        )  # fmt: skip
    for split in filled:
        only_here = [name for name in names if name in absent[split.name] and name not in nowhere]
        if not only_here:
            continue
        consequence = {
            config.train_split: "The model cannot learn them, and all their pixels elsewhere count as wrong.",
            config.val_split: "Validation does not measure them.",
        }  # fmt: skip
        yield Problem(
            "warning", "absent", f"{_classes(only_here)} no pixel in {split.name}",
            f"{consequence.get(split.name, 'Their metrics are undefined there.')} Divide the images anew.",
            tuple(Case(split.name, name) for name in only_here),
        )  # fmt: skip


def _classes(names: Sequence[str]) -> str:
    return f"{'class' if len(names) == 1 else 'classes'} {listed(names, 20)} {'has' if len(names) == 1 else 'have'}"


def _void(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Problem]:
    for split in splits:
        if MAX_VOID_FRACTION < split.void() < 1:
            yield Problem(
                "warning", "void", f"{split.void():.1%} of the pixels of {split.name} are void",
                "Void pixels are neither trained on nor scored. Check which mask values the classes have.",
            )  # fmt: skip
    found = _cases(splits, lambda image: [value for value, *_ in image.counts] == [VOID])
    cases = [case for split in splits if split.void() < 1 for case in found[split.name]]
    if cases:
        yield Problem(
            "warning", "void_mask", f"{counted(len(cases), 'mask')} {_is_or_are(cases)} all void",
            "Nothing is learned from these images. Leave them out, or annotate them.", tuple(cases),
        )  # fmt: skip


def _turned_masks(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Problem]:
    """Images with an EXIF orientation whose mask has another one, though the sizes agree.

    A mask that was drawn on the upright image needs no orientation of its own: where the orientation swaps width and
    height, equal sizes show that it was. Where it does not, the mask may be upside down or mirrored.
    """

    def is_one(image: InspectedImage) -> bool | str:
        if image.image_kind is None or image.mask_kind is None or image.size is None or not image.total:
            return False
        one, other = image.image_kind.orientation, image.mask_kind.orientation
        swapped = (one >= 5) != (other >= 5)
        if one == other or (swapped and image.size[0] != image.size[1]):
            return False
        return f"orientation {one} of the image, {other} of the mask (1 is upright)"

    cases = tuple(case for found in _cases(splits, is_one).values() for case in found)
    if cases:
        yield Problem(
            "warning", "turned_mask", f"{counted(len(cases), 'image')} with an EXIF orientation that the mask lacks",
            "The mask may be turned or mirrored. Compare them in the gallery, and save both upright and without EXIF.",
            cases,
        )  # fmt: skip


def _blank_images(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Problem]:
    found = _cases(splits, lambda image: image.colours is not None and image.colours.contrast < BLANK)
    cases = tuple(case for each in found.values() for case in each)
    if cases:
        yield Problem(
            "warning", "blank", f"{counted(len(cases), 'image')} of one colour", "Check the files; they show nothing.",
            cases,
        )  # fmt: skip


def _lost_classes(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Problem]:
    cases = []
    for split in splits:
        if split.labels is None:
            continue
        for index, name in enumerate(split.labels.names):
            before, _, after = split.holding[:, index]
            if before >= RARE_IMAGES and (after < MIN_KEPT * before or split.kept[index] < MIN_KEPT_AREA):
                detail = f"{after} of {before} images still show it, with {split.kept[index]:.0%} of its area"
                cases.append(Case(split.name, name, detail))
    if cases:
        names = list(dict.fromkeys(case.name for case in cases))
        verb = "is" if len(names) == 1 else "are"
        yield Problem(
            "warning", "lost", f"{listed(names, 20)} {verb} largely lost by resize={config.resize} crop={config.crop}",
            "Use a larger resize, a crop that covers more of the image, or crop_at=class score_crop=whole; see what to "
            "set.", tuple(cases),
        )  # fmt: skip


def _single_values(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Problem]:
    found = _cases(splits, lambda image: len(image.counts) == 1 and image.counts[0][0] != VOID)
    cases = []
    for split in splits:
        for case in found[split.name]:
            assert split.labels is not None
            assert case.image is not None
            name = split.labels.names[split.images[case.image].counts[0][0]]
            cases.append(Case(split.name, case.name, f"only {name}", case.image))
    if cases:
        yield Problem(
            "note", "single_value", f"{counted(len(cases), 'mask')} with one class only",
            "Right for images that show nothing else; wrong if the annotation is missing.", tuple(cases),
        )  # fmt: skip


def _rare_classes(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Problem]:
    for split in splits:
        if split.name != config.train_split or split.labels is None or len(split.sound) <= RARE_IMAGES:
            continue
        cases = tuple(
            Case(split.name, name, counted(int(split.holding[0, index]), "image"))
            for index, name in enumerate(split.labels.names)
            if 0 < split.holding[0, index] < RARE_IMAGES
        )
        if cases:
            yield Problem(
                "note", "rare",
                f"{counted(len(cases), 'class', 'classes')} in fewer than {RARE_IMAGES} images of {split.name}: "
                f"{listed((case.name for case in cases), 20)}",
                "They are hardly learned. Add images that show them.", cases,
            )  # fmt: skip


def _unequal_bits(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Problem]:
    """Images of 8 bits among images of 16."""

    def is_deep(image: InspectedImage) -> bool:
        return image.image_kind is not None and image.image_kind.bits > 8

    depths = Counter(is_deep(image) for split in splits for image in split.sound if image.image_kind is not None)
    if len(depths) > 1:
        rarer = min(depths, key=lambda deep: depths[deep])
        found = _cases(splits, lambda image: image.image_kind is not None and is_deep(image) == rarer)
        cases = tuple(case for each in found.values() for case in each)
        yield Problem(
            "error", "bits",
            f"{counted(len(cases), 'image')} of {16 if rarer else 8} bits per channel, where the others have "
            f"{8 if rarer else 16}", "Convert all images to the same bits.", cases,
        )  # fmt: skip


def _odd_kinds(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Problem]:
    """Files that are stored differently from nearly all others, such as grey images among colour images."""
    images = [image for split in splits for image in split.images if image.colours is not None]
    grey = sum(image.colours.is_grey for image in images if image.colours is not None)
    if 0 < grey <= FEW * len(images):
        found = _cases(splits, lambda image: image.colours is not None and image.colours.is_grey)
        cases = tuple(case for each in found.values() for case in each)
        yield Problem(
            "note", "grey", f"{counted(len(cases), 'grey image')} among colour images",
            "They are read as colour images with equal channels.", cases,
        )  # fmt: skip
    kinds = Counter(image.mask_kind.mode for image in images if image.mask_kind is not None)
    rare = {mode for mode, count in kinds.items() if count <= FEW * kinds.total()}
    if rare:

        def is_one(image: InspectedImage) -> bool | str:
            return f"mode {image.mask_kind.mode}" if image.mask_kind and image.mask_kind.mode in rare else False

        cases = tuple(case for each in _cases(splits, is_one).values() for case in each)
        yield Problem(
            "note", "mask_mode", f"{counted(len(cases), 'mask')} stored differently from the others",
            "Compare their overlays: another program may have written other values.", cases,
        )  # fmt: skip


def _enlarged(splits: Sequence[InspectedSplit], config: DataConfig) -> Iterator[Problem]:
    target = config.resize
    if target is None:
        return
    found = _cases(
        splits,
        lambda image: f"{image.size[0]} x {image.size[1]}" if image.size and min(image.size) < target / 2 else False,
    )
    cases = tuple(case for each in found.values() for case in each)
    if cases:
        yield Problem(
            "note", "enlarged", f"{counted(len(cases), 'image')} enlarged more than twice by resize={target}",
            "They are blurred and show no detail. Leave out thumbnails.", cases,
        )  # fmt: skip
