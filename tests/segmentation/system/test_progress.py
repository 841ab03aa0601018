"""Progress where stderr is no terminal."""

import pytest

from segmentation.system import progress as module
from segmentation.system.progress import progress


def test_lines_come_every_half_minute_and_none_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    with progress("epoch 1/3", 100) as bar:
        for _ in range(10):  # 10 images each 20 seconds
            clock[0] += 20
            bar.update(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"epoch 1/3: {done} of 100 images, 0.5 images/s, {left} left"
        for done, left in ((20, "02:40"), (40, "02:00"), (60, "01:20"), (80, "00:40"))
    ]


def test_other_ranks_and_short_epochs_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for shown in (True, False):
        with progress("epoch 1/3", 100, shown) as bar:
            bar.update(40)
            bar.update(60)
    assert capsys.readouterr().err == ""
