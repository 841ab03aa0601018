"""Every fault of a data set is found, and a sound data set has none."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentation.config import DataConfig
from segmentation.errors import InputError
from segmentation.inspection.problems import Problem, find_problems, is_wrong
from segmentation.inspection.split import inspect_splits
from tests.conftest import write_own_data


def inspect(root: Path, **values: object) -> list[Problem]:
    config = DataConfig(dataset="folder", data_dir=str(root), **{"resize": 32, "crop": 32} | values)  # type: ignore[arg-type]
    return find_problems(inspect_splits(config), config)


def change(mask: Path, edit: Callable[[np.ndarray], None]) -> None:
    pixels = np.array(Image.open(mask))
    edit(pixels)
    Image.fromarray(pixels).save(mask)


def cut_image(train: Path) -> None:
    file = train / "images/0.jpg"
    file.write_bytes(file.read_bytes()[:-300])


def text_as_mask(train: Path) -> None:
    (train / "masks/0.png").write_text("no image")


def unknown_value(train: Path) -> None:
    change(train / "masks/0.png", lambda pixels: pixels[:2].fill(77))


def other_size(train: Path) -> None:
    mask = train / "masks/0.png"
    Image.open(mask).resize((30, 20), Image.Resampling.NEAREST).save(mask)


def colour_mask(train: Path) -> None:
    mask = train / "masks/0.png"
    Image.open(mask).convert("RGB").save(mask)


def compressed_mask(train: Path) -> None:
    """A mask that was a JPEG once: many values near those of the classes."""
    mask, file = train / "masks/0.png", io.BytesIO()
    pixels = np.array(Image.open(mask)) * 40
    Image.fromarray(pixels).save(file, "JPEG", quality=20)
    Image.open(file).save(mask)


def upside_down(train: Path) -> None:
    image = Image.open(train / "images/0.jpg")
    exif = image.getexif()
    exif[274] = 3
    image.save(train / "images/0.jpg", exif=exif)


def turned(train: Path) -> None:
    """Stored on its side; the mask was drawn on the upright image, so that the sizes agree."""
    image = Image.open(train / "images/0.jpg").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[274] = 6
    image.save(train / "images/0.jpg", exif=exif)


def all_void(train: Path) -> None:
    change(train / "masks/0.png", lambda pixels: pixels.fill(255))


def one_class(train: Path) -> None:
    change(train / "masks/0.png", lambda pixels: pixels.fill(1))


def one_colour(train: Path) -> None:
    Image.new("RGB", (48, 40), (9, 9, 9)).save(train / "images/0.jpg")


def same_mask(train: Path) -> None:
    shutil.copy(train / "masks/1.png", train / "masks/0.png")


def twice(train: Path) -> None:
    shutil.copy(train / "images/1.jpg", train / "images/0.jpg")
    shutil.copy(train / "masks/1.png", train / "masks/0.png")


def twice_with_another_mask(train: Path) -> None:
    shutil.copy(train / "images/1.jpg", train / "images/0.jpg")


def in_both_splits(train: Path) -> None:
    for part, ending in (("images", "jpg"), ("masks", "png")):
        shutil.copy(train / f"{part}/0.{ending}", train.parent / f"val/{part}/0.{ending}")


def nearly_in_both_splits(train: Path) -> None:
    for part, ending in (("images", "jpg"), ("masks", "png")):
        reduced = Image.open(train / f"{part}/0.{ending}").resize((96, 80), Image.Resampling.NEAREST)
        reduced.save(train.parent / f"val/{part}/0.{ending}")


def absent(train: Path) -> None:
    for mask in train.glob("masks/*.png"):
        change(mask, lambda pixels: pixels.__setitem__(pixels == 2, 0))


def tiny(train: Path) -> None:
    for file in (train / "images/0.jpg", train / "masks/0.png"):
        Image.open(file).resize((12, 10), Image.Resampling.NEAREST).save(file)


CASES = [
    (cut_image, "error", "file", "cannot be read as an image"),
    (text_as_mask, "error", "file", "mask cannot be read as an image"),
    (unknown_value, "error", "file", "mask has values of no class"),
    (other_size, "error", "file", "different sizes"),
    (colour_mask, "error", "file", "colour"),
    (compressed_mask, "error", "file", "mask has values of no class"),
    (upside_down, "warning", "turned_mask", "1 image"),
    (all_void, "warning", "void_mask", "1 mask"),
    (one_class, "note", "single_value", "1 mask"),
    (one_colour, "warning", "blank", "1 image"),
    (same_mask, "warning", "repeated_mask", "1 mask"),
    (twice, "note", "equal_within", "1 image"),
    (twice_with_another_mask, "warning", "equal_conflict", "1 image"),
    (in_both_splits, "warning", "equal_across", "1 image"),
    (nearly_in_both_splits, "warning", "similar_across", "1 image"),
    (absent, "warning", "absent", "class blue"),
    (tiny, "note", "enlarged", "1 image"),
]  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_own_data(tmp_path_factory.mktemp("sound"), train=4, val=2)


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "copy"))


def test_a_sound_data_set_has_no_problem(sound: Path) -> None:
    assert inspect(sound) == []


@pytest.mark.parametrize(("fault", "level", "kind", "words"), CASES, ids=[case[0].__name__ for case in CASES])
def test_a_fault_is_found_with_its_file(
    root: Path, fault: Callable[[Path], None], level: str, kind: str, words: str
) -> None:
    fault(root / "train")
    problems = inspect(root)
    (found,) = (problem for problem in problems if problem.kind == kind)
    assert found.level == level
    assert words in found.what
    assert is_wrong(problems) == (level != "note")
    if kind != "absent":
        assert found.cases[0].name in ("0", "1")
        assert found.cases[0].image is not None


def test_a_mask_drawn_on_the_upright_image_is_right(root: Path) -> None:
    turned(root / "train")
    assert not is_wrong(inspect(root))


def test_a_mask_that_was_compressed_is_recognised(root: Path) -> None:
    compressed_mask(root / "train")
    (found,) = (problem for problem in inspect(root) if problem.kind == "file")
    assert "saving as JPEG" in found.cases[0].detail


def test_all_faults_are_listed_together_errors_first(root: Path) -> None:
    train = root / "train"
    cut_image(train)
    (train / "masks/1.png").write_text("no image")
    (train / "masks/0.png").write_text("no image either")
    shutil.copy(train / "images/3.jpg", root / "val/images/0.jpg")
    problems = inspect(root)
    levels = [problem.level for problem in problems]
    assert levels == sorted(levels, key=["error", "warning", "note"].index)
    refused = {problem.what: {case.name for case in problem.cases} for problem in problems if problem.kind == "file"}
    assert refused == {
        "1 image refused: cannot be read as an image": {"0"},
        "2 images refused: mask cannot be read as an image": {"0", "1"},
    }
    assert "equal_across" in {problem.kind for problem in problems}


def test_images_without_a_mask_are_listed_and_the_others_inspected(root: Path) -> None:
    (root / "train/masks/1.png").unlink()
    unknown_value(root / "train")
    kinds = {problem.kind: problem for problem in inspect(root) if problem.level == "error"}
    assert kinds.keys() == {"files", "file"}
    assert "no mask" in kinds["files"].what
    assert kinds["file"].cases[0].name == "0"


def test_images_smaller_than_the_crop_and_of_several_sizes_are_errors(root: Path) -> None:
    tiny(root / "train")
    (small,) = (problem for problem in inspect(root, resize=None) if problem.level == "error")
    assert "less than crop=32" in small.cases[0].detail
    (sizes,) = (problem for problem in inspect(root, resize=None, crop=None) if problem.level == "error")
    assert sizes.kind == "sizes"


def test_a_split_that_cannot_be_opened_is_an_error_and_the_other_is_inspected(root: Path) -> None:
    shutil.rmtree(root / "val")
    problems = inspect(root)
    assert [(problem.level, problem.kind) for problem in problems] == [("error", "no_validation")]
    assert "val_fraction" in problems[0].what
    shutil.rmtree(root / "train")
    with pytest.raises(InputError, match="none of the layouts"):
        inspect(root)


def test_a_class_that_no_mask_shows_is_a_warning_also_without_a_validation_split(root: Path) -> None:
    (root / "classes.txt").write_text((root / "classes.txt").read_text() + "unseen\n")
    assert "class unseen has no pixel in any split" in {problem.what for problem in inspect(root)}
    shutil.rmtree(root / "val")
    assert "class unseen has no pixel in train" in {problem.what for problem in inspect(root)}


def test_a_foreground_that_is_void_is_an_error_with_the_file_to_write(tmp_path: Path) -> None:
    root = write_own_data(tmp_path, train=2, val=1)
    (root / "classes.txt").write_text("background\nroad\n")
    for mask in root.glob("*/masks/*.png"):
        change(mask, lambda pixels: pixels.__setitem__(pixels > 0, 255))
    (found,) = (problem for problem in inspect(root) if problem.level == "error")
    assert '{"background": 0, "road": 255}' in found.do


def test_a_class_that_the_crop_removes_is_a_warning(tmp_path: Path) -> None:
    """Twelve wide images with class 1 at the left border, outside the centre crop."""
    root = write_own_data(tmp_path, train=12, val=1)
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 96, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"train/images/{number}.jpg")
        mask = np.zeros((32, 96), np.uint8)
        mask[:, :20], mask[number, 40:] = 1, 2
        Image.fromarray(mask).save(root / f"train/masks/{number}.png")
    (lost,) = (problem for problem in inspect(root) if problem.kind == "lost")
    assert ("green", "0 of 12 images") in [(case.name, case.detail[:14]) for case in lost.cases]
