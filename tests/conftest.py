"""A private MLflow store and cache for the tests, and small real data sets that they write."""

import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # one test process a core, see the Makefile
os.environ["MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"] = "1"
# Every test has an XDG_CACHE_HOME of its own. Processes that it starts would compile the counting of pixels anew, and
# look for the system's fonts.
CACHES = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
os.environ.setdefault("NUMBA_CACHE_DIR", str(CACHES / "numba"))
os.environ.setdefault("MPLCONFIGDIR", str(CACHES / "matplotlib"))

PROJECT = Path(__file__).parent.parent
CAMVID = PROJECT.parent / "shared" / "data" / "camvid"

needs_camvid = pytest.mark.skipif(not CAMVID.is_dir(), reason=f"the real images are not at {CAMVID}")


SHARED = ("two_seeds", "stack: Stack")
"""Fixtures that take long and are used by several files, as their tests name them: trained runs, and servers."""
TRAINS = {"two_seeds", "settings"}
"""Fixtures of tests that train: they are slow."""
MANY_INPUTS = "tests/fuzz/"
"""Folder whose tests try hundreds of inputs each: slow, too."""


@pytest.hookimpl(tryfirst=True)  # before markers select
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow tests. Long files come first, so that no process has one left when the others are done."""
    for item in items:
        if TRAINS & set(getattr(item, "fixturenames", ())) or item.nodeid.startswith(MANY_INPUTS):
            item.add_marker(pytest.mark.slow)
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: 0 if shared_fixture(str(item.path)) else 1 if item.path in long else 2)


@cache
def shared_fixture(file: str) -> str:
    """Return which fixture of `SHARED` a test file uses; empty if none."""
    text = Path(file).read_text()
    return next((name for name in SHARED if name in text), "")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist=loadfile`, one process runs all files that share a fixture, so that it is made once."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return shared_fixture(str(config.rootpath / file)) or file

    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sqlite store without runs. Making its tables takes seconds: all processes of the tests copy this file."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    file = folder / "empty.db"
    with FileLock(folder / "empty.lock"):
        if not file.is_file():
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            made = folder / "made.db"
            SqlAlchemyStore(f"sqlite:///{made}", str(folder / "mlruns")).engine.dispose()
            made.rename(file)
    os.environ["EMPTY_STORE"] = str(file)
    return file


@pytest.fixture(scope="session")
def store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One sqlite store for all tests of a process."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    shutil.copy(empty_store, file)
    return f"sqlite:///{file}"


@pytest.fixture(autouse=True)
def own_place(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in a folder, a cache and an experiment of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    ours = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    for name in ours:
        monkeypatch.setenv(name, "")  # so that it is unset again afterwards, if a test has set it
        monkeypatch.delenv(name)


def last_run() -> Any:
    """The MLflow run that was opened last."""
    import mlflow

    experiments = [each.experiment_id for each in mlflow.MlflowClient().search_experiments()]
    return mlflow.MlflowClient().search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=1)[0]


def write_pair(
    image: Path, mask: Path, size: tuple[int, int], seed: int, palette: bool = True, classes: int = 3
) -> None:
    """Write a picture of coloured blocks and its mask, in which a block's class follows its colour."""
    random = np.random.default_rng(seed)
    width, height = size
    blocks = random.integers(0, classes, ((height + 7) // 8, (width + 7) // 8))
    indices = np.kron(blocks, np.ones((8, 8), np.uint8)).astype(np.uint8)[:height, :width]
    colours = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 40]])
    pixels = colours[indices % 4] + random.integers(-30, 30, (height, width, 3))
    indices[0, :] = 255
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(image, **({"quality": 95} if image.suffix == ".jpg" else {}))
    picture = Image.fromarray(indices)
    if palette:
        picture.putpalette(list(np.arange(768) % 256))
    picture.save(mask)


def write_blank(folder: Path, *names: str) -> None:
    """Write black greyscale images of 8 x 6 pixels."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((6, 8), np.uint8)).save(folder / name)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A VOC 2007 tree: palette masks with void 255, odd sizes, portrait and landscape."""
    root = tmp_path / "voc"
    folder = root / "VOCdevkit" / "VOC2007"
    splits = {"train": [(41, 33), (33, 47), (50, 37), (36, 36)], "val": [(45, 33), (33, 40)]}
    for split, sizes in splits.items():
        names = [f"{split}_{index:06d}" for index in range(len(sizes))]
        for index, (name, size) in enumerate(zip(names, sizes, strict=True)):
            write_pair(folder / f"JPEGImages/{name}.jpg", folder / f"SegmentationClass/{name}.png", size, index)
        (folder / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (folder / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names) + "\n")
    return root


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    """A folder as people bring it."""
    return write_own_data(tmp_path)


def write_own_data(place: Path, train: int = 6, val: int = 3) -> Path:
    """Write train and val with that many images and greyscale masks, all different, and classes.txt."""
    root = place / "own"
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            folder = root / split
            write_pair(
                folder / f"images/{index}.jpg",
                folder / f"masks/{index}.png",
                (48, 40),
                10 * index + count,
                palette=False,
            )
    (root / "classes.txt").write_text("red\ngreen\nblue\n")
    return root
