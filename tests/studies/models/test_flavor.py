"""A logged model behind MLflow's own server, in a process that cannot import this project; and loaded by name."""

import base64
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.models import Model
from packaging.requirements import Requirement
from packaging.version import Version
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save
from torch.nn import functional as F

from segmentation.calibration import calibrators
from segmentation.classes import Classes
from segmentation.data import Split
from segmentation.errors import InputError
from segmentation.models.segmenter import Segmenter, build
from segmentation.prediction.predictor import Predictor
from studies import tracking
from studies.base.checksum import CHECKSUM, WEIGHTS, checksum
from studies.config import TrainConfig
from studies.models.flavor import required, save_model
from studies.models.loading import load
from studies.models.logging import log_model
from tests.conftest import CAMVID, write_pair

pytestmark = pytest.mark.slow

TEMPERATURE = 1.7
CLASSES = 5
PALETTE = tuple((50 * index, 10, 255 - 50 * index) for index in range(CLASSES))
LABELS = Classes(tuple(f"class {index}" for index in range(CLASSES)), PALETTE)
MODEL = "models:/served@best"

BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("segmentation", "studies", "mlproject"):
            raise ModuleNotFoundError(f"{name} is not on this machine")
sys.meta_path.insert(0, Blocked())
"""
"""Content of a `sitecustomize.py`: processes with it on their path cannot import this project."""


class Logged(NamedTuple):
    """A logged model, its network, and a photograph."""

    network: Segmenter
    folder: Path
    photo: Path
    elsewhere: dict[str, str]
    """Environment of processes that cannot import this project and unpickle nothing."""


def unsure_network(config: TrainConfig, images: torch.Tensor) -> Segmenter:
    """A calibrated model with random weights that predicts every class in the images, with high and low confidence."""
    torch.manual_seed(0)
    network = build(config, CLASSES)
    with torch.no_grad():
        network.train()(images)
        logits = network.eval()(images)
        head = network.network.get_submodule("classifier")
        for parameter in (*head.low_classifier.parameters(), *head.high_classifier.parameters()):
            parameter.mul_(2 / logits.std())
        head.high_classifier.bias.sub_(logits.mean((0, 2, 3)) * 2 / logits.std())
    network.calibrator = calibrators.build("temperature", CLASSES)
    network.calibrator.load_state_dict({"temperature": torch.tensor(TEMPERATURE)})
    return network


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, store: str) -> Iterator[Logged]:
    """A model logged and registered as by `train`."""
    root = tmp_path_factory.mktemp("served")
    photo = next(iter(sorted(CAMVID.glob("val/*"))), root / "photo.jpg")
    if not photo.exists():
        write_pair(photo, root / "mask.png", (480, 360), 0)
    config = TrainConfig(model="lraspp_mobilenet_v3_large", resize=128, batch_norm_momentum=1.0, register_as="served")
    with Image.open(photo) as image:
        images = np.stack([np.asarray(image.resize((170, 128)).rotate(turn)) for turn in (0, 180)])
    network = unsure_network(config, torch.from_numpy(images).permute(0, 3, 1, 2))
    masks = np.zeros(images.shape[:3], np.uint8)
    split = Split("shapes", "val", str(root), LABELS, ("a", "b"), images, masks, "0" * 64, ("0", "1"))
    metadata = {
        "config": asdict(config), "class_names": list(LABELS.names), "palette": [list(c) for c in PALETTE], "epoch": 1,
        "trained_in_run": None, "calibration": {"method": "temperature"},
    }  # fmt: skip
    (root / "sitecustomize.py").write_text(BLOCKED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        patch.chdir(root)
        with tracking.tracked_run("served", "n", {}):
            assert log_model(network, split, metadata, "served", "best") == "models:/served/1"
        folder = Path(mlflow.artifacts.download_artifacts(MODEL, dst_path=str(root / "downloaded")))
    elsewhere = os.environ | {
        "MLFLOW_TRACKING_URI": store, "PYTHONPATH": str(root), "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }  # fmt: skip
    path = list(sys.path)
    yield Logged(network, folder, photo, elsewhere)
    sys.path[:] = path  # remove the copied code of the test that loads the model in this process


@pytest.fixture(scope="module")
def server(logged: Logged, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of `mlflow models serve` in a process that cannot import this project."""
    root = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", MODEL, "--env-manager", "local", "-p"]
    log = root / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, str(port)], cwd=root, env=logged.elsewhere, stdout=file, stderr=file, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 240
        while not answers(f"http://127.0.0.1:{port}/ping"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)
        assert f"Uvicorn running on http://127.0.0.1:{port} " in log.read_text()  # reachable from this machine only
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


def post(address: str, body: Any) -> tuple[int, str]:
    """Return status and text of the answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address, content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def base64_of(photo: Path) -> str:
    return base64.b64encode(photo.read_bytes()).decode()


def by_hand(logged: Logged) -> torch.Tensor:
    """Probabilities `(C, H, W)`: image resized by Pillow, logits divided by the temperature and resized, softmax."""
    with Image.open(logged.photo) as image:
        width, height = image.size
        resized = np.array(image.resize((128 * width // height, 128), Image.Resampling.BILINEAR))
    with torch.inference_mode():
        logits = logged.network.outputs(torch.from_numpy(resized).permute(2, 0, 1)[None])["out"] / TEMPERATURE
        return F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)[0].softmax(0)


def check(record: dict[str, Any], probabilities: torch.Tensor) -> None:
    """Compare every confidence, and every class whose probability is clearly the highest."""
    highest = probabilities.topk(2, dim=0)
    classes, clear = highest.indices[0].numpy(), (highest.values[0] - highest.values[1] > 1e-4).numpy()
    assert len(np.unique(classes)) == CLASSES
    assert clear.mean() > 0.99
    assert np.ptp(highest.values[0].numpy()) > 0.3
    assert [record["height"], record["width"]] == list(probabilities.shape[1:])
    np.testing.assert_array_equal(np.array(record["classes"])[clear], classes[clear])
    np.testing.assert_allclose(np.array(record["confidence"]), highest.values[0].numpy(), atol=1e-4)
    assert record["class_names"] == list(LABELS.names)
    assert record["calibration"] == "temperature"


def test_the_server_cannot_import_this_project(logged: Logged) -> None:
    program = "import studies.models.served"
    done = subprocess.run([sys.executable, "-c", program], env=logged.elsewhere, capture_output=True, text=True)
    assert "studies is not on this machine" in done.stderr


def test_a_photograph_posted_to_the_server(logged: Logged, server: str) -> None:
    status, text = post(server, {"inputs": [base64_of(logged.photo)]})
    assert status == 200, text
    (record,) = json.loads(text)["predictions"]
    check(record, by_hand(logged))


def test_every_form_of_request_gets_the_same_answer(logged: Logged, server: str) -> None:
    with Image.open(logged.photo) as image:
        small = image.resize((30, 20))
    file = BytesIO()
    small.save(file, "PNG")
    text, pixels = base64.b64encode(file.getvalue()).decode(), np.asarray(small).tolist()
    forms: list[tuple[int, Any]] = [
        (1, {"inputs": [text]}),
        (2, {"inputs": {"image": [text, text]}}),
        (2, {"inputs": [text, pixels]}),
        (2, {"inputs": [text, f"data:image/png;base64,{text}"]}),
        (1, {"inputs": pixels}),
        (2, {"inputs": [pixels, pixels]}),
        (2, {"inputs": [{"image": text}, {"image": pixels}]}),
        (2, {"instances": [text, text]}),
        (1, {"instances": [{"image": text}]}),
        (2, {"dataframe_split": {"columns": ["image"], "data": [[text], [pixels]]}}),
        (1, {"dataframe_records": [{"image": text}]}),
    ]
    answers = [post(server, form) for _, form in forms]
    assert [status for status, _ in answers] == [200] * len(forms)
    records = [json.loads(text)["predictions"] for _, text in answers]
    assert [len(each) for each in records] == [count for count, _ in forms]
    assert all(record == records[0][0] for each in records for record in each)


def test_the_example_that_is_stored_with_the_model_can_be_posted(logged: Logged, server: str) -> None:
    status, text = post(server, (logged.folder / "serving_input_example.json").read_bytes())
    assert status == 200
    (record,) = json.loads(text)["predictions"]
    assert (record["height"], record["width"]) == (128, 170)


def test_png_is_the_shorter_answer(logged: Logged, server: str) -> None:
    status, text = post(server, {"inputs": [base64_of(logged.photo)], "params": {"encoding": "png"}})
    assert status == 200
    assert len(text) < 200_000
    (record,) = json.loads(text)["predictions"]
    probabilities = by_hand(logged)
    with Image.open(BytesIO(base64.b64decode(record["classes_png"]))) as mask:
        assert (np.asarray(mask) == probabilities.argmax(0).numpy()).mean() > 0.999
        assert tuple(mask.getpalette()[: 3 * CLASSES]) == sum(PALETTE, ())
    with Image.open(BytesIO(base64.b64decode(record["confidence_png"]))) as confidence:
        np.testing.assert_allclose(np.asarray(confidence) / 255, probabilities.amax(0).numpy(), atol=0.002 + 1e-4)


def test_pixels_of_different_sizes_go_as_one_list(server: str) -> None:
    status, text = post(server, {"inputs": [[[[1, 2, 3]]], [[[1, 2, 3], [1, 2, 3]]]]})
    assert status == 200, text
    assert [record["width"] for record in json.loads(text)["predictions"]] == [1, 2]


def test_bad_requests_are_refused_and_the_server_keeps_running(logged: Logged, server: str) -> None:
    good = base64_of(logged.photo)
    cut_off = base64.b64encode(logged.photo.read_bytes()[:5000]).decode()
    refused = [
        ({"inputs": [good, "hello!"]}, "image 2 of 2: the text is not base64"),
        ({"inputs": [good, cut_off]}, "image 2 of 2: the image is damaged"),
        ({"inputs": [good, base64.b64encode(b"hello").decode()]}, "image 2 of 2: the 5 bytes"),
        ({"inputs": []}, "there is no image"),
        ({"inputs": None}, "Expected input to be DataFrame"),  # MLflow's own words
        ({"inputs": [[[0.5, 0.5, 0.5]]]}, "the pixels are float64"),
        ({"inputs": [[[0, 0, 256]]]}, "they must be within 0 to 255"),
        ({"inputs": [[1, 2, 3]]}, "lists of shape (3,)"),
        ({"inputs": [good], "params": {"encoding": "jpg"}}, "encoding='jpg'"),
        ({"input": [good]}, 'no field "image"'),
        ({"dataframe_split": {"columns": ["photo"], "data": [[good]]}}, 'no field "image"'),
        ({"image": good}, "exactly one of the input fields"),
        (b"{", "valid JSON"),
    ]
    for body, message in refused:
        status, text = post(server, body)
        assert status == 400, text
        assert message in json.loads(text)["message"]
        assert len(text) < 1100
    assert post(server, {"inputs": [good]})[0] == 200


def test_the_python_api_gives_the_same_answer(logged: Logged) -> None:
    model = mlflow.pyfunc.load_model(MODEL)
    with Image.open(logged.photo) as image:
        pixels = np.asarray(image)
    content = logged.photo.read_bytes()
    for given in ([{"image": pixels}], [{"image": content}], pd.DataFrame({"image": [base64_of(logged.photo)]})):
        (record,) = model.predict(given)
        check(record, by_hand(logged))
    for plain in (pixels, [content]):
        (record,) = model.get_raw_model().predict(plain)
        check(record, by_hand(logged))
    ours = Predictor(logged.network, 128, "bilinear")([Image.fromarray(pixels)])[0]
    np.testing.assert_allclose(record["confidence"], ours.confidence, atol=1e-4)


def test_signature_and_requirements(logged: Logged) -> None:
    info = mlflow.models.get_model_info(MODEL)
    assert set(info.flavors) == {"python_function"}
    assert {each.name: each.default for each in info.signature.params} == {
        "encoding": "arrays", "tile": None, "overlap": 0.25, "tile_resize": None, "scales": [1.0], "flip": False,
        "min_confidence": None,
    }  # fmt: skip
    assert info.signature.inputs.input_names() == ["image"]
    assert {"classes", "confidence", "classes_png"} <= set(info.signature.outputs.input_names())
    assert info.saved_input_example_info is not None
    required = (logged.folder / "requirements.txt").read_text().split()
    names = ("mlflow", "numpy", "pillow", "safetensors", "torch", "torchvision")
    assert required == [f"{name}=={Version(version(name)).public}" for name in names]


@pytest.mark.parametrize("installed", ["2.14.1", "2.14.1+cpu", "2.14.1+cu128", "2.14.0a0+git1234", "2.14.0.dev1+cu1"])
def test_a_required_version_names_no_build(installed: str) -> None:
    """PyPI holds no local versions, but pip accepts an installed one for the public version."""
    requirement = Requirement(required("torch", installed))
    assert str(requirement.specifier) == f"=={Version(installed).public}"
    assert requirement.specifier.contains(installed, prereleases=True)


def test_the_loaded_model_gives_calibrated_logits_of_images_of_any_size(logged: Logged) -> None:
    model = mlflow.pyfunc.load_model(MODEL).get_raw_model().predictor.model
    assert type(model).__module__.startswith("served_segmenter_")
    for height, width in ((40, 56), (1, 1)):
        images = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
        with torch.inference_mode():
            expected = (logged.network.outputs(images)["out"] / TEMPERATURE).softmax(1)
            torch.testing.assert_close(model(images).softmax(1), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "auxiliary_loss", "calibration"),
    [("fcn_resnet50", 0.5, "vector"), ("lraspp_mobilenet_v3_large", 0.0, "local")],
)
def test_each_architecture_and_calibrator_is_rebuilt(
    tmp_path: Path, model: Any, auxiliary_loss: float, calibration: str
) -> None:
    config = TrainConfig(model=model, auxiliary_loss=auxiliary_loss, weights="imagenet", resize=None, crop=None)
    torch.manual_seed(1)
    network = build(config, 3).eval()
    network.calibrator = calibrators.build(calibration, 3)
    metadata = {
        "config": asdict(config), "class_names": ["a", "b", "c"], "palette": [[0, 0, 0]] * 3, "epoch": 1,
        "trained_in_run": None, "calibration": {"method": calibration},
    }  # fmt: skip
    save_model(tmp_path / "model", network, torch.zeros(3, 8, 8, dtype=torch.uint8), metadata)
    path = list(sys.path)
    try:
        served = mlflow.pyfunc.load_model(str(tmp_path / "model")).get_raw_model()
    finally:
        sys.path[:] = path
    images = torch.randint(0, 256, (1, 3, 24, 24), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(served.predictor.model(images), network(images))
    assert served.calibration == calibration


def test_loading_reads_the_weights_and_runs_no_code_of_the_model(logged: Logged) -> None:
    path, modules = list(sys.path), {name for name in sys.modules if name.startswith("served_segmenter")}
    stored = load(MODEL)
    assert sys.path == path
    assert {name for name in sys.modules if name.startswith("served_segmenter")} == modules
    images = torch.randint(0, 256, (2, 3, 40, 56), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(stored.network()(images), logged.network(images))


def copied(logged: Logged, root: Path, name: str) -> Path:
    """A registered copy of the model, to be modified."""
    folder = root / name
    shutil.copytree(logged.folder, folder)
    client = mlflow.MlflowClient()
    client.create_registered_model(name)
    client.create_model_version(name, str(folder))
    return folder


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def pickled_by_torch(value: object) -> bytes:
    file = BytesIO()
    torch.save(value, file)
    return file.getvalue()


def test_nothing_unpickles(logged: Logged, tmp_path: Path) -> None:
    """Neither loading by name nor the server unpickles, even where MLflow is set to allow it and the checksum fits."""
    folder = copied(logged, tmp_path, "with-pickle")
    for content in (pickle.dumps(Trap(tmp_path / "sprung")), pickled_by_torch(Trap(tmp_path / "sprung"))):
        (folder / WEIGHTS).write_bytes(content)
        with pytest.raises(InputError, match=WEIGHTS):
            load("models:/with-pickle/1")
        with pytest.raises(ValueError, match="SHA-256 differs"):
            mlflow.pyfunc.load_model(str(folder))
        model = Model.load(str(folder / "MLmodel"))
        model.metadata = {**(model.metadata or {}), CHECKSUM: checksum(folder / WEIGHTS)}
        model.save(str(folder / "MLmodel"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
            with pytest.raises(SafetensorError):
                mlflow.pyfunc.load_model(str(folder))
    assert not (tmp_path / "sprung").exists()


def test_damaged_foreign_and_missing_weights_are_refused(logged: Logged, tmp_path: Path) -> None:
    folder = copied(logged, tmp_path, "with-other-weights")
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-1])
    with pytest.raises(InputError, match=rf"{WEIGHTS} is not a readable safetensors file"):
        load("models:/with-other-weights/1")
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(InputError, match="models:/with-other-weights/1 do not fit model=lraspp_mobilenet_v3_large"):
        load("models:/with-other-weights/1")._replace(state={"other.weight": torch.zeros(3)}).network()
    for changed in (content[:-1] + bytes([content[-1] ^ 1]), save({"other.weight": torch.zeros(3)})):
        (folder / WEIGHTS).write_bytes(changed)
        with pytest.raises(InputError, match=f"models:/with-other-weights/1 is damaged: its file {WEIGHTS}"):
            load("models:/with-other-weights/1")
    (folder / WEIGHTS).unlink()
    with pytest.raises(InputError, match=rf"no file {WEIGHTS}, .* checkpoint of its run instead: .*best\.pt"):
        load("models:/with-other-weights/1")
