"""Converts the pixels of mask files to class indices, by value or by colour."""

from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np

from segmentation.classes import VOID, Classes
from segmentation.data.class_files import hexadecimal, ranges
from segmentation.errors import InputError, counted, listed
from segmentation.io.decoding import read_color_mask, read_mask

NEAR = 32
"""Levels per band by which JPEG changes a colour at most, apart from pixels at edges."""
MOSTLY = 0.5
"""Fraction of the pixels of no class that is near a class's colour in a mask that was once a JPEG."""


def read_indices(
    content: bytes, file: Path, class_of_value: Mapping[int, int], class_of_color: Mapping[int, int], labels: Classes
) -> np.ndarray:
    """Return the class indices `(H, W)` uint8 of a mask file.

    RGB and RGBA masks are read by colour. Greyscale and palette masks are read by value; a value of no class is read
    by the colour that it is shown in.

    Args:
        content: of the file.
        file: what error messages call the file.
        class_of_value: class index for each mask value.
        class_of_color: class index for each colour `0xRRGGBB`; empty refuses RGB and RGBA masks.
        labels: the classes, for error messages.

    Raises:
        InputError: the file cannot be read, or has values or colours of no class.
    """
    name = f"mask {file}"
    if not class_of_color:
        return _of_values(read_mask(BytesIO(content), name), class_of_value, file)
    values, colors = read_color_mask(BytesIO(content), name)
    if values is None:
        return _of_colors(colors, class_of_color, file, labels)
    if class_of_value:
        shown = {value: class_of_color[color] for value, color in enumerate(colors.tolist()) if color in class_of_color}
        return _of_values(values, shown | dict(class_of_value), file)
    if values.size and not 0 <= int(values.min()) <= int(values.max()) < len(colors):
        raise InputError(
            f"mask {file} holds values up to {values.max()}, which have no colour; state values for the classes, or "
            f"save the mask with its colours"
        )
    return _of_colors(colors[values], class_of_color, file, labels)


def _of_values(values: np.ndarray, class_of_value: Mapping[int, int], file: Path) -> np.ndarray:
    """Convert mask values `(H, W)` to class indices `(H, W)` uint8. Raises an `InputError` for unknown values."""
    highest = max(max(class_of_value), VOID)
    unused = next((index for index in range(256) if index not in class_of_value.values()), None)
    is_known, table = np.zeros(highest + 1, bool), np.full(highest + 1, unused or 0, np.uint8)
    is_known[list(class_of_value)] = True
    table[list(class_of_value)] = list(class_of_value.values())
    if values.dtype == np.uint8 and unused is not None:
        indices = _translated(values, table[:256])
        if not (indices == unused).any():
            return indices
    is_right = (values >= 0) & (values <= highest)
    is_right &= is_known[np.where(is_right, values, 0)]
    if not is_right.all():
        unknown, counts = np.unique(values[~is_right], return_counts=True)
        found = listed(f"{value} ({count} pixels)" for value, count in zip(unknown, counts, strict=True))
        raise InputError(f"mask {file} has values of no class: {found}; known values: {ranges(class_of_value)}")
    return table[values]


def _of_colors(colors: np.ndarray, class_of_color: Mapping[int, int], file: Path, labels: Classes) -> np.ndarray:
    """Convert colours `(H, W)` uint32 to class indices `(H, W)` uint8. Raises an `InputError` for unknown colours.

    Looks up one colour for each run of equal pixels, because masks have few of them.
    """
    flat = colors.reshape(-1)
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = np.diff(starts, append=len(flat))
    known = np.array(sorted(class_of_color), np.uint32)
    found = np.minimum(np.searchsorted(known, flat[starts]), len(known) - 1)
    is_right = known[found] == flat[starts]
    if not is_right.all():
        unknown, inverse = np.unique(flat[starts][~is_right], return_inverse=True)
        counts = np.bincount(inverse, weights=lengths[~is_right]).astype(np.int64)
        raise InputError(f"mask {file} has {_unknown(unknown, counts, class_of_color, labels)}")
    indices = np.array([class_of_color[color] for color in known.tolist()], np.uint8)
    return np.repeat(indices[found], lengths).reshape(colors.shape)


def _unknown(colors: np.ndarray, counts: np.ndarray, class_of_color: Mapping[int, int], labels: Classes) -> str:
    """Describe colours of no class: how many pixels they have, and the nearest class's colour of the frequent ones."""
    known = _bands(list(class_of_color))
    most = np.argsort(-counts, kind="stable")
    shown, is_near = [], 0
    for color, count in zip(colors[most][:1000], counts[most][:1000], strict=True):
        distances = np.abs(known - _bands([int(color)])).max(axis=1)
        nearest = list(class_of_color)[int(distances.argmin())]
        index = class_of_color[nearest]
        shown.append(
            f"{hexadecimal(int(color))} ({count} pixels; nearest is "
            f"{'void' if index == VOID else labels.names[index]!r} with {hexadecimal(nearest)})"
        )
        is_near += int(count) if distances.min() <= NEAR else 0
    message = f"{counted(len(colors), 'colour')} of no class: {listed(shown, 3)}"
    if is_near > MOSTLY * counts[most][:1000].sum():
        message += (
            ". Most are a few levels off a class's colour. If the mask was saved as a JPEG or resized smoothly, export "
            "it again as PNG; otherwise correct the colour of the class"
        )
    return message


def _bands(colors: Iterable[int]) -> np.ndarray:
    """Colours `0xRRGGBB` as red, green and blue `(N, 3)`."""
    return np.array([(color >> 16, color >> 8 & 255, color & 255) for color in colors], np.int64)


def _translated(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return `table[values]` for arrays of bytes; numpy would convert `values` to 8 bytes per pixel first."""
    return np.frombuffer(values.tobytes().translate(table.tobytes()), table.dtype).reshape(values.shape)
