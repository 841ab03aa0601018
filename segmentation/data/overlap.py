"""Finds validation images that are also training images."""

from segmentation.data.split import Split
from segmentation.errors import listed


def equal_images(train: Split, val: Split) -> list[tuple[str, str]]:
    """Return the names of the validation images whose files equal a training image's, each with the training image's.

    Compares the hashes of the image files; masks may differ.
    """
    trained = dict(zip(train.image_digests, train.names, strict=True)) if train.image_digests else {}
    trained.pop("", None)
    return [
        (name, trained[digest])
        for name, digest in zip(val.names, val.image_digests or [""] * len(val), strict=True)
        if digest in trained
    ]


def overlap_warning(train: Split, val: Split) -> str | None:
    """Return a warning that names validation images which are training images too, or None if there are none."""
    equal = equal_images(train, val)
    if not equal:
        return None
    names = listed(name if name == other else f"{name} (in {train.name}: {other})" for name, other in equal)
    return (
        f"{len(equal)} of {len(val)} images of {val.title} are also in {train.title}, byte "
        f"for byte: {names}. Metrics on them say nothing about new images; remove them from one of the splits"
    )
