"""A small data set whose cache the tests look into."""

from pathlib import Path

import pytest

from segmentation.config import DataConfig


@pytest.fixture
def config(own_data: Path, tmp_path: Path) -> DataConfig:
    return DataConfig(
        dataset="folder", data_dir=str(own_data), resize=32, crop=32, cache_dir=str(tmp_path / "prepared")
    )


def cached_folder(config: DataConfig) -> Path:
    """Return the only folder of a cached split."""
    (folder,) = Path(str(config.cache_dir)).glob("*/*/")
    return folder
