from pathlib import Path

import pytest

from segmentation.errors import InputError
from studies import tracking


def test_an_unusable_store_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'file' / 'below' / 'm.db'}")
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"runs cannot be recorded in .*m.db: it is not writable"),
        tracking.tracked_run("e", "n", {}),
    ):
        pass
