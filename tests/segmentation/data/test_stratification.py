"""Dividing images into parts, against brute force and scikit-learn's folds of single-label data."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from segmentation.data.stratification import stratify


def alone(images: int) -> list[str]:
    return [f"image {index}" for index in range(images)]


def equal_sizes(images: int, parts: int) -> list[int]:
    return [images // parts + (part < images % parts) for part in range(parts)]


def badness(groups: Sequence[str], classes: np.ndarray, sizes: Sequence[int], parts: np.ndarray) -> tuple[int, ...]:
    """Empty parts, parts that could show a class and do not, and wrong sizes, counted from the definition."""
    missing = 0
    for shown in classes.T:
        in_groups = {group for group, has in zip(groups, shown, strict=True) if has}
        missing += min(len(in_groups), len(sizes)) - len(set(parts[shown].tolist()))
    actual = [int((parts == part).sum()) for part in range(len(sizes))]
    return actual.count(0), missing, sum(abs(found - size) for found, size in zip(actual, sizes, strict=True))


def best_badness(groups: Sequence[str], classes: np.ndarray, sizes: Sequence[int]) -> tuple[int, ...]:
    known = sorted(set(groups))
    number = np.array([known.index(group) for group in groups])
    every = itertools.product(range(len(sizes)), repeat=len(known))
    return min(badness(groups, classes, sizes, np.array(of_group)[number]) for of_group in every)


@pytest.mark.parametrize("seed", range(24))
def test_small_sets_are_divided_as_well_as_by_brute_force(seed: int) -> None:
    random = np.random.default_rng(seed)
    images, parts = int(random.integers(4, 8)), int(random.integers(2, 4))
    groups = alone(images) if seed % 2 else [f"group {random.integers(parts + 2)}" for _ in range(images)]
    classes = random.random((images, random.integers(1, 7))) < random.uniform(0.1, 0.6)
    first = int(random.integers(1, images))
    sizes = [first, images - first] if parts == 2 else equal_sizes(images, parts)
    if len(set(groups)) < parts:
        pytest.skip("too few groups")
    found = stratify(groups, classes, sizes)
    assert badness(groups, classes, sizes, found) == best_badness(groups, classes, sizes)
    assert len(set(zip(groups, found.tolist(), strict=True))) == len(set(groups)), "a group was divided"
    order = random.permutation(images)
    assert (stratify([groups[index] for index in order], classes[order], sizes) == found[order]).all()


def test_classes_are_divided_more_evenly_than_at_random() -> None:
    random = np.random.default_rng(0)
    classes = random.random((500, 21)) < np.linspace(0.01, 0.6, 21)
    sizes = equal_sizes(500, 5)

    def error(parts: np.ndarray) -> float:
        counts = np.array([classes[parts == part].sum(0) for part in range(5)])
        return float(abs(counts - classes.sum(0) / 5).mean())

    found = stratify(alone(500), classes, sizes)
    assert np.bincount(found).tolist() == sizes
    assert error(found) < 0.5 * min(error(random.permutation(found)) for _ in range(20))


def test_single_labels_are_divided_as_by_scikit_learn() -> None:
    """StratifiedKFold puts `floor` or `ceil` of a class's fifth into each fold, and so must we."""
    model_selection = pytest.importorskip("sklearn.model_selection")
    random = np.random.default_rng(1)
    label = random.integers(0, 4, 103)
    classes = label[:, None] == np.arange(4)
    ours = stratify(alone(103), classes, equal_sizes(103, 5))
    theirs = np.empty(103, int)
    for fold, (_, indices) in enumerate(model_selection.StratifiedKFold(5).split(label, label)):
        theirs[indices] = fold
    for each in range(4):
        counts = [sorted(np.bincount(parts[label == each], minlength=5)) for parts in (ours, theirs)]
        assert np.array_equal(*counts)


def test_groups_are_divided_no_worse_than_by_scikit_learn() -> None:
    """StratifiedGroupKFold minimises the spread of the class proportions; sizes are secondary there."""
    model_selection = pytest.importorskip("sklearn.model_selection")
    random = np.random.default_rng(2)
    group = np.repeat(np.arange(40), random.integers(1, 9, 40))
    label = (random.random(40) < 0.3).astype(int)[group] ^ (random.random(len(group)) < 0.1)
    names = [f"video {each}" for each in group]
    ours = stratify(names, label[:, None] == np.arange(2), equal_sizes(len(group), 5))
    theirs = np.empty(len(group), int)
    for fold, (_, indices) in enumerate(model_selection.StratifiedGroupKFold(5).split(label, label, group)):
        theirs[indices] = fold

    def spread(parts: np.ndarray) -> float:
        return float(np.std([label[parts == part].mean() for part in range(5)]))

    assert np.ptp(np.bincount(ours)) <= np.ptp(np.bincount(theirs))
    assert spread(ours) <= 1.5 * spread(theirs)


@pytest.mark.parametrize("seed", range(8))
def test_the_only_image_of_a_class_is_in_the_largest_part(seed: int) -> None:
    random = np.random.default_rng(seed)
    classes = random.random((60, 6)) < 0.3
    classes[:, 5] = False
    classes[random.integers(60), 5] = True
    parts = stratify([str(each) for each in range(60)], classes, (9, 51))
    assert parts[classes[:, 5]].tolist() == [1]
