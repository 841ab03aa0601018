"""Prediction of a folder: masks, confidence maps, overlays and a table, compared with the model alone and plain loops.

The weights are random, but for batch norm, which has seen the images, so that masks are as ragged as real ones.
"""

import atexit
import itertools
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.case import CAMVID, Case, Goal
from benchmarks.rounds import Contestant
from benchmarks.stages.training import use_all_cores
from segmentation.classes import voc_palette
from segmentation.config import ModelConfig
from segmentation.prediction.kinds import USUAL
from segmentation.system.runtime import prepare_process

if TYPE_CHECKING:
    import torch

TITLE = "Prediction on a folder"
RESIZE, BATCH, CLASSES = 128, 16, 21
OURS, BARE = "this project", "bare model"
AT_SIZE = "bare model, then the class of each pixel of the images"
PLAIN, SAME_FILES = "one at a time, torchvision's example", "one at a time, with the same files"
WINDOWS, BARE_WINDOWS = "this project", "bare model on the windows"
TILE, OVERLAP = 192, 0.25
CHECKED, SEEN = 8, 8
"""Number of images whose outputs are compared, and of images for the batch norm statistics."""
ELSEWHERE, CONFIDENCE = 1e-3, 0.5 / 255 + 1e-3
"""Tolerances for equal inputs: fraction of pixels of another class, and difference of confidence."""
LEVELS = 2
"""Tolerance for the confidence of two files, in levels of 255."""
Run = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Folder:
    """Model, number of images, and folder."""

    model: str
    images: int
    place: Path

    def files(self) -> dict[str, Path]:
        """Images of a CamVid split by name, repeated if there are too few."""
        found = itertools.islice(itertools.cycle(sorted((CAMVID / "train").iterdir())), self.images)
        return {f"{number:06d}{file.suffix}": file for number, file in enumerate(found)}

    def checked(self) -> list[int]:
        """Indices of the images whose outputs are compared."""
        return list(range(0, self.images, self.images // CHECKED))[:CHECKED]


def cases(quick: bool) -> list[Case]:
    """Both models, the larger one on fewer images; the small one alone in quick mode."""
    if not CAMVID.is_dir():
        raise SystemExit(f"The stage prediction needs CamVid in {CAMVID}.")
    place = Path(tempfile.mkdtemp(prefix="benchmark-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    small = Folder("lraspp_mobilenet_v3_large", 48 if quick else 256, place / "lraspp")
    large = [] if quick else [Folder("fcn_resnet50", 64, place / "fcn_resnet50")]
    masks = Folder(small.model, small.images, place / "masks")
    windows = Folder(small.model, 8 if quick else 32, place / "windows")
    return [*(_case(work) for work in (*large, small)), _masks_case(masks), _windows_case(windows)]


def _case(work: Folder) -> Case:
    contestants = [
        Contestant(OURS, "ours", this_project, (work,)),
        Contestant(BARE, "limit", bare_network, (work,)),
        Contestant(PLAIN, "peer", plain_loop, (work,)),
        Contestant(SAME_FILES, "peer", same_files, (work,)),
    ]
    goals = [Goal(BARE, 0.9), Goal(PLAIN, 1.5), Goal(SAME_FILES, 1.5)]
    return Case(f"{work.model}, shorter side {RESIZE}", "images", work.images, contestants, _same, goals)


def _masks_case(work: Folder) -> Case:
    kinds = ("masks",)
    contestants = [
        Contestant(OURS, "ours", this_project, (work, kinds)),
        Contestant(BARE, "limit", bare_network, (work,)),
        Contestant(AT_SIZE, "limit", bare_network, (work, True)),
        Contestant(SAME_FILES, "peer", same_files, (work, kinds)),
    ]
    name = f"{work.model}, shorter side {RESIZE}, masks only"
    return Case(name, "images", work.images, contestants, _same_masks, [Goal(BARE, 0.5), Goal(SAME_FILES, 2.0)])


def _windows_case(work: Folder) -> Case:
    contestants = [
        Contestant(WINDOWS, "ours", in_windows, (work,)),
        Contestant(BARE_WINDOWS, "limit", bare_windows, (work,)),
    ]
    name = f"{work.model}, windows of {TILE} pixels, overlap {OVERLAP}, masks only"
    return Case(name, "images", work.images, contestants, _same_windows)


def _same_masks(returned: Mapping[str, Any]) -> str:
    import numpy as np
    from PIL import Image

    ours, same = returned[OURS]["folder"], returned[SAME_FILES]["folder"]
    apart = []
    for file in sorted((ours / "masks").iterdir()):
        with Image.open(file) as one, Image.open(same / "masks" / file.name) as other:
            apart.append(float(np.not_equal(one, other).mean()))
    assert np.mean(apart) <= ELSEWHERE, f"{np.mean(apart):.2%} of the pixels have another class"
    return (
        f"The loop that writes the same masks gives {np.mean(apart):.3%} of the pixels another class (tolerated: "
        f"{ELSEWHERE:.1%}). The bare model reads and writes nothing, with or without the classes."
    )


def _same_windows(returned: Mapping[str, Any]) -> str:
    windows = {name: each["windows"] for name, each in returned.items()}
    assert len(set(windows.values())) == 1, f"numbers of windows differ: {windows}"
    return (
        f"Both predict the same {windows[WINDOWS]} windows. The bare model reads, blends and writes nothing. Tests "
        f"compare the blended windows with whole images."
    )


def _same(returned: Mapping[str, Any]) -> str:
    import numpy as np

    ours, bare, plain, same = (returned[name] for name in (OURS, BARE, PLAIN, SAME_FILES))
    counts = {name: each["images"] for name, each in returned.items()}
    assert len(set(counts.values())) == 1, f"numbers of images differ: {counts}"
    elsewhere = _beside_themselves(ours["folder"], ours["alone"])
    other, levels = _beside_the_loop(ours["folder"], same["folder"])
    coarse = float(np.not_equal(np.load(bare["classes"]), np.load(plain["classes"])).mean())
    assert coarse <= ELSEWHERE, f"the plain loop gives {coarse:.2%} of the pixels another class"
    return (
        f"{CHECKED} of {ours['images']} images were also predicted one at a time: at most {elsewhere:.3%} of the "
        f"pixels in our files have another class (tolerated: {ELSEWHERE:.1%}), and none a confidence more than "
        f"{CONFIDENCE:.3f} off. The loop that writes the same files gives {other:.3%} of the pixels another class "
        f"(tolerated: {ELSEWHERE:.1%}), and the others a confidence at most {levels} of 255 off (tolerated: {LEVELS}). "
        f"torchvision's example writes only masks, at the size of the model's input; given the same "
        f"{CHECKED} images, it differs from the bare model in {coarse:.3%} of the pixels (tolerated: "
        f"{ELSEWHERE:.1%}). The bare model reads and writes nothing."
    )


def _beside_themselves(folder: Path, alone: Path) -> float:
    """Largest fraction of mask pixels with another class than in the image predicted by itself."""
    import numpy as np
    from PIL import Image

    elsewhere = 0.0
    with np.load(alone) as expected:
        for name in expected["names"]:
            with (
                Image.open(folder / f"masks/{name}.png") as mask,
                Image.open(folder / f"confidence/{name}.png") as grey,
            ):
                wrong = float(np.not_equal(np.array(mask), expected[f"{name} classes"]).mean())
                apart = np.abs(np.array(grey) / 255 - expected[f"{name} confidence"]).max()
            assert wrong <= ELSEWHERE, f"{name}: {wrong:.2%} of the mask are not as predicted by itself"
            assert apart <= CONFIDENCE, f"{name}: confidence is {apart:.4f} from that predicted by itself"
            elsewhere = max(elsewhere, wrong)
    return elsewhere


def _beside_the_loop(ours: Path, theirs: Path) -> tuple[float, int]:
    """Fraction of pixels with different classes in two folders, and the difference of confidence elsewhere."""
    import numpy as np
    from PIL import Image

    shares, levels = [], 0
    for file in sorted((ours / "masks").iterdir()):
        with Image.open(file) as one, Image.open(theirs / "masks" / file.name) as other:
            equal = np.equal(one, other)
        with Image.open(ours / "confidence" / file.name) as one, Image.open(theirs / "confidence" / file.name) as other:
            levels = max(levels, int(np.abs(np.array(one, int) - np.array(other, int))[equal].max()))
        assert (theirs / "overlays" / f"{file.stem}.jpg").is_file()
        shares.append(1 - equal.mean())
    assert np.mean(shares) <= ELSEWHERE, f"{np.mean(shares):.2%} of the pixels have another class"
    assert levels <= LEVELS, f"confidence is {levels} of 255 apart"
    return float(np.mean(shares)), levels


def this_project(work: Folder, kinds: Sequence[str] = USUAL) -> Run:
    """`predict` without MLflow: files of the given kinds at the size of each image."""
    prepare_process()
    use_all_cores()
    import numpy as np

    from segmentation.classes import Classes
    from segmentation.io.decoding import read_image
    from segmentation.prediction.outputs import PredictedFolder
    from segmentation.prediction.pipeline import predict_images
    from segmentation.prediction.predictor import Predictor

    files, labels = work.files(), Classes.named(*(f"class {index}" for index in range(CLASSES)))
    predictor = Predictor(_network(work, channels_last=True), RESIZE, "bilinear")
    work.place.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"names": []}
    for place in work.checked():
        name, file = list(files.items())[place]
        (prediction,) = predictor([read_image(file)])
        stem = Path(name).stem
        found["names"].append(stem)
        found |= {f"{stem} classes": prediction.classes, f"{stem} confidence": prediction.confidence}
    np.savez(work.place / "alone.npz", **found)

    def run() -> dict[str, Any]:
        output = PredictedFolder(work.place / "ours", labels, kinds=kinds)
        predict_images(predictor, files, output, BATCH)
        return {"images": len(output.rows), "folder": output.folder, "alone": work.place / "alone.npz"}

    return run


def in_windows(work: Folder) -> Run:
    """`predict` with `tile`, without MLflow: a mask of each image."""
    prepare_process()
    use_all_cores()
    from segmentation.classes import Classes
    from segmentation.prediction.outputs import PredictedFolder
    from segmentation.prediction.pipeline import predict_images
    from segmentation.prediction.predictor import Predictor
    from segmentation.prediction.views import Views

    labels = Classes.named(*(f"class {index}" for index in range(CLASSES)))
    predictor = Predictor(
        _network(work, channels_last=True),
        RESIZE,
        "bilinear",
        views=Views(tile=TILE, overlap=OVERLAP),
        batch_size=BATCH,
    )

    def run() -> dict[str, Any]:
        predict_images(predictor, work.files(), PredictedFolder(work.place, labels, kinds=("masks",)), BATCH)
        return {"windows": sum(map(len, _corners(work)))}

    return run


def bare_windows(work: Folder) -> Run:
    """The model on the windows in memory, those of an image in as many forward passes as in prediction."""
    prepare_process()
    use_all_cores()
    import numpy as np
    import torch

    from segmentation.io.decoding import read_image

    network, batches = _network(work, channels_last=True), []
    for file, corners in zip(work.files().values(), _corners(work), strict=True):
        image = torch.from_numpy(np.array(read_image(file))).permute(2, 0, 1)
        rows = itertools.groupby(corners, key=lambda corner: corner[0])
        batches += [
            torch.stack([image[:, top : top + TILE, left : left + TILE] for top, left in row]).contiguous(
                memory_format=torch.channels_last
            )
            for _, row in rows
        ]

    @torch.inference_mode()
    def run() -> dict[str, Any]:
        return {"windows": sum(len(network(batch)) for batch in batches)}

    return run


def _corners(work: Folder) -> list[list[tuple[int, int]]]:
    """The top and left of every window of each image."""
    from PIL import Image

    from segmentation.prediction.views import starts

    found = []
    for file in work.files().values():
        with Image.open(file) as image:
            down, across = (starts(length, TILE, OVERLAP) for length in (image.height, image.width))
        found.append(list(itertools.product(down, across)))
    return found


def bare_network(work: Folder, at_size: bool = False) -> Run:
    """The model on prepared batches in memory; with `at_size`, then the class of each pixel of the images."""
    prepare_process()
    use_all_cores()
    import numpy as np
    import torch
    from PIL import Image

    from segmentation.io.decoding import read_image
    from segmentation.prediction.predictor import Predictor

    if at_size:
        with Image.open(next(iter(work.files().values()))) as image:
            size = image.size[::-1]
    network = _network(work, channels_last=True)
    predictor = Predictor(network, RESIZE, "bilinear")
    prepared = [predictor.prepare(read_image(file)) for file in work.files().values()]
    batches = [
        torch.stack(prepared[start : start + BATCH]).contiguous(memory_format=torch.channels_last)
        for start in range(0, len(prepared), BATCH)
    ]

    with torch.inference_mode():
        classes = torch.cat([network(batch).max(1).indices.to(torch.uint8) for batch in batches])
    work.place.mkdir(parents=True, exist_ok=True)
    np.save(work.place / "bare.npy", classes[work.checked()].numpy())

    def predicted(batch: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = network(batch)
        if at_size:
            for each in logits.split(1):  # one image at a time, whose logits fit into the cache
                torch.nn.functional.interpolate(each, size, mode="bilinear").max(1)
        return logits

    @torch.inference_mode()
    def run() -> dict[str, Any]:
        return {"images": sum(len(predicted(batch)) for batch in batches), "classes": work.place / "bare.npy"}

    return run


def plain_loop(work: Folder) -> Run:
    """The loop of torchvision's documentation: decode, transform, predict, argmax, save masks at the input size."""
    use_all_cores()
    import numpy as np
    import torch
    from PIL import Image
    from torchvision.io import decode_image
    from torchvision.transforms.v2 import functional

    from segmentation.io.decoding import read_image

    network, folder, files = _network(work), work.place / "plain", work.files()
    folder.mkdir(parents=True, exist_ok=True)

    def classes_of(image: torch.Tensor) -> "np.ndarray":
        return network(image[None]).softmax(1)[0].argmax(0).to(torch.uint8).numpy()

    checked = [functional.resize(read_image(list(files.values())[place]), [RESIZE]) for place in work.checked()]
    with torch.inference_mode():
        np.save(work.place / "plain.npy", np.stack([classes_of(functional.pil_to_tensor(each)) for each in checked]))

    @torch.inference_mode()
    def run() -> dict[str, Any]:
        for name, file in files.items():
            image = functional.resize(decode_image(str(file), mode="RGB"), [RESIZE])
            Image.fromarray(classes_of(image)).save(folder / f"{Path(name).stem}.png")
        return {"images": len(files), "folder": folder, "classes": work.place / "plain.npy"}

    return run


def same_files(work: Folder, kinds: Sequence[str] = USUAL) -> Run:
    """A loop with torch, torchvision and Pillow that writes the same files as this project, except the table."""
    use_all_cores()
    import torch
    from PIL import Image
    from torch.nn.functional import interpolate
    from torchvision.transforms.v2 import functional
    from torchvision.utils import draw_segmentation_masks

    network, folder, colours = _network(work), work.place / "same", list(voc_palette(CLASSES))
    for kind in kinds:
        (folder / kind).mkdir(parents=True, exist_ok=True)

    @torch.inference_mode()
    def run() -> dict[str, Any]:
        for name, file in work.files().items():
            stem = Path(name).stem
            with Image.open(file) as opened:
                original = opened.convert("RGB")
            image = functional.pil_to_tensor(functional.resize(original, [RESIZE]))
            logits = interpolate(network(image[None]), original.size[::-1], mode="bilinear")
            confidence, classes = logits.softmax(1)[0].max(0)
            mask = Image.fromarray(classes.to(torch.uint8).numpy())
            mask.putpalette([value for colour in colours for value in colour])
            mask.save(folder / f"masks/{stem}.png")
            if tuple(kinds) == ("masks",):
                continue
            Image.fromarray((255 * confidence).round().to(torch.uint8).numpy()).save(folder / f"confidence/{stem}.png")
            each = classes == torch.arange(CLASSES)[:, None, None]
            overlay = draw_segmentation_masks(functional.pil_to_tensor(original), each, 0.5, colours)
            functional.to_pil_image(overlay).save(folder / f"overlays/{stem}.jpg", quality=90)
        return {"images": len(work.files()), "folder": folder}

    return run


def _network(work: Folder, channels_last: bool = False) -> "torch.nn.Module":
    """The same random weights for all, with batch norm statistics of some images, and logits scaled as if trained."""
    import torch
    from torchvision.transforms.v2 import functional

    from segmentation.io.decoding import read_image
    from segmentation.models.networks import CLASS_LAYERS
    from segmentation.models.segmenter import build

    torch.manual_seed(0)
    network = build(ModelConfig(model=work.model, batch_norm_momentum=None), CLASSES)
    images = [read_image(file) for file in itertools.islice(work.files().values(), SEEN)]
    seen = torch.stack([functional.pil_to_tensor(functional.resize(image, [RESIZE, RESIZE])) for image in images])
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        network.train()(seen)
        spread = network.eval()(seen).std((0, 2, 3)).mean()
        for part, weights in network.named_parameters():
            if any(last in part for last in CLASS_LAYERS):
                weights *= 3 / spread
    return network.to(memory_format=torch.channels_last) if channels_last else network
