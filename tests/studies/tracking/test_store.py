import os
import sqlite3
from pathlib import Path

import pytest

from segmentation.errors import InputError
from studies import tracking
from studies.base.errors import explained
from studies.tracking.store import check_store


def test_an_unusable_store_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'file' / 'below' / 'm.db'}")
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"runs cannot be recorded in .*m.db: it is not writable"),
        tracking.tracked_run("e", "n", {}),
    ):
        pass


@pytest.mark.slow
def test_a_database_appears_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """MLflow cannot use a database in which only some of its migrations have run."""
    file = tmp_path / "m.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")

    def stop(*paths: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", stop)
        with pytest.raises(KeyboardInterrupt):
            check_store()
    assert list(tmp_path.iterdir()) == []
    check_store()
    assert [each.name for each in tmp_path.iterdir()] == ["m.db"]
    assert tracking.answers()


@pytest.mark.slow
def test_an_unfinished_database_is_named_as_mlflows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "m.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
    check_store()
    with sqlite3.connect(file) as database:
        database.execute("UPDATE alembic_version SET version_num = 'da6fb0208061'")
        database.execute("DROP TABLE experiments")
    with pytest.raises(Exception, match="already exists") as caught:
        tracking.answers()
    found = str(explained(caught.value))
    assert str(file) in found
    assert "delete the file" in found
