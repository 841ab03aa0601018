"""Pictures as people have them: found below a folder, read upright, refused by name."""

from pathlib import Path, PurePosixPath

from PIL import Image

from segmentation.errors import InputError
from segmentation.io.image_files import SUFFIXES, decoded, walk
from segmentation.io.names import is_plain
from segmentation.io.pixels import color_image

TABLE, LEGEND = "predictions.csv", "legend.png"
"""What lies in every folder of predictions."""
PREDICTED = ("masks", "confidence", "overlays", LEGEND)
"""The pictures in a folder of predictions, and the folders of them."""


def find_images(place: Path, output: Path) -> dict[str, Path]:
    """The pictures in a folder and all folders in it, by their path below it; or the one file.

    Links are followed. Hidden files and those of systems and tools are left out as in training, and so is what
    predictions have written: `PREDICTED` beside a `TABLE`, or in `output`.
    A path that cannot be printed has escapes for what cannot.

    Raises:
        InputError: there is no such place, or no picture in it.
    """
    if place.is_file():
        return {_told(place.name): place}
    if not place.is_dir():
        raise InputError(f"images={place} does not exist; name a picture or a folder of pictures")
    found: dict[str, Path] = {}
    for folder, folders, files in walk(place):
        written = TABLE in files or folder.resolve() == output.resolve()
        folders[:], files = (
            [each for each in names if not (written and each in PREDICTED)] for names in (folders, files)
        )
        for each in files:
            if each.lower().endswith(SUFFIXES):
                path = _told((folder / each).relative_to(place).as_posix())
                if path in found:
                    raise InputError(f"{found[path]!r} and {folder / each!r} cannot be told apart; rename one")
                found[path] = folder / each
    if not found:
        raise InputError(
            f"images={place} holds no picture: none of its files ends in {', '.join(SUFFIXES)}, predictions left out"
        )
    return dict(sorted(found.items()))


def read_image(file: Path) -> Image.Image:
    """Return the image in RGB, read as in training: turned as its EXIF orientation says, transparency dropped.

    Raises:
        InputError: why it cannot be read.
    """
    with decoded(file) as image:
        return color_image(image)


def output_names(pictures: list[str]) -> dict[str, str]:
    """What to call the files made from each picture: its path without the ending, unless two would then be the same.

    Those keep their endings: `a.jpg` and `a.png` become `a.jpg` and `a.png`, `b.jpg` becomes `b`.
    """
    names = {picture: PurePosixPath(picture).with_suffix("").as_posix() for picture in pictures}
    while True:
        users: dict[str, list[str]] = {}
        for picture, name in names.items():
            users.setdefault(name.casefold(), []).append(picture)
        shared = [each for group in users.values() if len(group) > 1 for each in group if names[each] != each]
        if not shared:
            return names
        names |= {picture: picture for picture in shared}


def _told(path: str) -> str:
    """A path without control characters, and without bytes that are no UTF-8."""
    return "".join(
        letter if is_plain(letter) else letter.encode("unicode_escape", "surrogatepass").decode() for letter in path
    )
