"""Which files are found below a folder: the same ones in training and in prediction."""

import os
from pathlib import Path

import pytest

from segmentation.errors import InputError
from segmentation.prediction.inputs import find_images
from tests.conftest import write_blank
from tests.segmentation.data.test_pairs import match


def test_hidden_and_system_files_are_skipped(tmp_path: Path) -> None:
    write_blank(tmp_path / "images", "a.png", "sub/B.PNG", "c.webp", "d.bmp", "e.gif")
    write_blank(tmp_path / "masks", "a.png", "sub/B.png", "c.png", "d.bmp", "e.gif")
    for left in (".ipynb_checkpoints/a-checkpoint.png", "._a.png", "sub/.x/y.png", "__MACOSX/._a.png", "__MACOSX/a.png",
                 "@eaDir/a.png/SYNOPHOTO_THUMB_M.png", "$RECYCLE.BIN/z.png"):  # fmt: skip
        write_blank(tmp_path / "images", left)
    for left in ("Thumbs.db", ".DS_Store", "desktop.ini", "notes.docx"):
        (tmp_path / "images" / left).write_text("x")
    found = match(tmp_path / "images", tmp_path / "masks")
    assert list(found) == ["a", "c", "d", "e", "sub/B"]
    predicted = find_images(tmp_path / "images", tmp_path / "out").images
    assert sorted(predicted.values()) == sorted(image for image, _ in found.values())


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        write_blank(tmp_path / f"disk/{kind}", "far/a.png")
        write_blank(tmp_path / kind, "b.png")
        (tmp_path / kind / "linked").symlink_to(tmp_path / f"disk/{kind}/far")
        (tmp_path / kind / "again").symlink_to(tmp_path / f"disk/{kind}/far")
        (tmp_path / kind / "loop").symlink_to(tmp_path / kind)
        (tmp_path / f"disk/{kind}/far/up").symlink_to(tmp_path / kind)
    found = match(tmp_path / "images", tmp_path / "masks")
    assert {"b", "linked/a", "again/a"} <= found.keys()
    predicted = find_images(tmp_path / "images", tmp_path / "out").images
    assert [Path(name).with_suffix("").as_posix() for name in predicted] == sorted(found)


def test_an_unreadable_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_blank(tmp_path, "images/sub/a.png", "masks/sub/a.png")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("images/sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InputError, match=r"folder .*images/sub cannot be read: Permission denied"):
        match(tmp_path / "images", tmp_path / "masks")
