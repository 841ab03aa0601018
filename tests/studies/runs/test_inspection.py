"""An inspection through the command line: the page, its tables, the run, and what is printed."""

import contextlib
import csv
import io
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import mlflow
import numpy as np
import pytest
from PIL import Image

import mlproject
from segmentation.config import DataConfig
from segmentation.data import open_split
from studies.base.arguments import parse
from studies.config import InspectConfig, TrainConfig
from tests.conftest import last_run, write_own_data
from tests.studies.report.read import Read


class Inspected(NamedTuple):
    folder: Path
    root: Path
    code: int
    printed: str
    run_id: str

    @property
    def page(self) -> Read:
        return Read((self.folder / "out/index.html").read_text())

    def table(self, name: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO((self.folder / "out" / name).read_text())))


@pytest.fixture(scope="module")
def inspected(tmp_path_factory: pytest.TempPathFactory, store: str) -> Inspected:
    """A folder with one image in both splits and one mask that cannot be read."""
    folder = tmp_path_factory.mktemp("inspected")
    root = write_own_data(folder, train=5, val=3)
    shutil.copy(root / "train/images/0.jpg", root / "val/images/0.jpg")
    shutil.copy(root / "train/masks/0.png", root / "val/masks/0.png")
    (root / "train/masks/4.png").write_text("no image")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        patch.chdir(folder)
        code = mlproject.main([
            "inspect", "--dataset", "folder", "--data_dir", str(root), "--resize", "32", "--crop", "32",
            "--output", "out", "--examples", "2",
        ])  # fmt: skip
        run_id = last_run().info.run_id
    return Inspected(folder, root, code, printed.getvalue(), run_id)


def test_faults_end_with_code_0_unless_strict(inspected: Inspected, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspected.code == 0
    assert mlflow.MlflowClient().get_run(inspected.run_id).info.status == "FINISHED"
    given = ["inspect", "--dataset", "folder", "--data_dir", str(inspected.root), "--resize", "32", "--crop", "32"]
    assert mlproject.main([*given, "--strict", "true"]) == 1
    assert "own has 1 error and 1 warning" in capsys.readouterr().err
    run = last_run()
    assert run.info.status == "FAILED"
    assert [each.path for each in mlflow.MlflowClient().list_artifacts(run.info.run_id, "inspect")] == [
        f"inspect/{name}" for name in ("classes.csv", "images.csv", "index.html", "problems.csv")
    ]


def test_what_is_printed_begins_with_errors_and_ends_with_the_page(inspected: Inspected) -> None:
    lines = inspected.printed.splitlines()
    assert lines[0].startswith("ERROR: 1 image refused: mask cannot be read as an image, such as ")
    assert lines[1] == "WARNING: 1 image is in two splits."
    assert lines[2] == "own: 8 images (train 5, val 3), 3 classes"
    assert re.fullmatch(r"Page: out/index.html \(0\.\d MB\)", lines[-1])
    assert len(lines) <= 6


def test_the_page_needs_nothing_else_and_has_every_section(inspected: Inspected) -> None:
    page = inspected.page
    headings = ["Problems", "What to set", "Splits", "Classes", "What resize and crop leave", "Image files", "Gallery",
                "Odd images", "This page"]  # fmt: skip
    assert [heading for heading in headings if heading not in page.sections] == []
    assert all(source.startswith("data:image/") for source in page.attributes("src"))
    assert (inspected.folder / "out/index.html").stat().st_size < 5_000_000
    assert any("val/0" in caption for caption in page.attributes("alt"))


def test_counts_on_the_page_in_the_tables_and_in_the_run_are_those_of_the_masks(inspected: Inspected) -> None:
    counts = {}
    for split in ("train", "val"):
        pixels = np.zeros(256, int)
        for file in sorted((inspected.root / split / "masks").glob("*.png")):
            if file.read_bytes() != b"no image":
                with Image.open(file) as mask:
                    pixels += np.bincount(np.asarray(mask).ravel(), minlength=256)
        counts[split] = pixels
    metrics = mlflow.MlflowClient().get_run(inspected.run_id).data.metrics
    rows = {row["class"]: row for row in inspected.table("classes.csv")}
    (shown,) = (table for table in inspected.page.tables if table[0][:2] == ["class", "train images"])
    for index, name in enumerate(("red", "green", "blue")):
        for column, split in ((2, "train"), (4, "val")):
            assert metrics[f"inspect/{split}/pixels/{name}"] == counts[split][index]
            assert int(rows[name][f"{split} pixels"]) == counts[split][index]
            fraction = 100 * counts[split][index] / counts[split][:3].sum()
            assert shown[index + 1][column].replace("\u00a0", " ") == f"{fraction:.1f} %"
    assert int(rows["void"]["train pixels"]) == counts["train"][255]
    assert metrics["inspect/train/void"] == pytest.approx(counts["train"][255] / counts["train"].sum())
    assert (metrics["inspect/train/images"], metrics["inspect/val/images"]) == (5, 3)
    assert (metrics["inspect/errors"], metrics["inspect/warnings"]) == (1, 1)
    assert all(name.startswith("inspect/") for name in metrics if not name.startswith("system/"))


def test_each_case_and_each_image_has_a_row(inspected: Inspected) -> None:
    cases = [(row["level"], row["kind"], row["split"], row["name"]) for row in inspected.table("problems.csv")]
    assert ("error", "file", "train", "4") in cases
    assert ("warning", "equal_across", "val", "0") in cases
    images = inspected.table("images.csv")
    assert [(row["split"], row["name"]) for row in images] == [
        *(("train", str(number)) for number in range(5)), *(("val", str(number)) for number in range(3)),
    ]  # fmt: skip
    assert {(row["width"], row["height"]) for row in images} == {("48", "40")}
    assert images[0]["difference hash"] == images[5]["difference hash"]


def test_the_command_of_the_page_trains_on_the_data(inspected: Inspected) -> None:
    (command, _) = inspected.page.commands
    config = parse(TrainConfig, shlex.split(command.partition(" train ")[2]), "train")
    assert (config.data_dir, config.normalization, config.batch_size) == (str(inspected.root), "imagenet", 2)
    assert (config.resize, config.crop) == (32, None)


def test_images_without_a_validation_split_get_a_command_that_trains_on_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_own_data(tmp_path, train=10, val=2)
    shutil.rmtree(root / "val")
    monkeypatch.chdir(tmp_path)
    assert mlproject.main(["inspect", "--dataset", "folder", "--data_dir", str(root)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"ERROR: {root} has no split 'val'")
    (line,) = (line for line in printed.splitlines() if " train --dataset folder" in line)
    config = parse(TrainConfig, shlex.split(line.partition(" train ")[2]), "train")
    assert (config.val_fraction, len(open_split(config, "val").names)) == (0.5, 5)
    assert "once the errors above are corrected" not in (tmp_path / "inspect/index.html").read_text()


def test_a_missing_folder_opens_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["inspect", "--dataset", "folder", "--data_dir", str(tmp_path / "none"), "--experiment", "not opened"]
    assert mlproject.main(given) == 1
    assert "does not exist" in capsys.readouterr().err
    assert mlflow.get_experiment_by_name("not opened") is None


def test_fields_of_the_data_are_checked_as_in_training() -> None:
    assert issubclass(InspectConfig, DataConfig)
    wrong = {"crop": 0}, {"calibration_fraction": 2.0}, {"val_fraction": 2.0}, {"folds": 1}
    for values in wrong:
        ((message, _),) = values.items()
        with pytest.raises(ValueError, match=message):
            InspectConfig(**values)  # type: ignore[arg-type]
