"""Batches for the model from the second epoch on, on one core, compared with torchvision's transforms of files.

Images stay uint8 for all contestants alike: to scale them is part of the network.
"""

import atexit
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.case import CAMVID, Case, Goal
from benchmarks.rounds import Contestant
from segmentation.system.runtime import prepare_process
from studies.config import TrainConfig

if TYPE_CHECKING:
    import numpy as np
    import torch

TITLE = "Input pipeline, from the second epoch on, one core"
SIDE, BATCH, FLIP, CLASSES, UNLABELLED, VOID = 128, 16, 0.5, 11, 11, 255
IMAGES = 367
OURS, BYTES, TORCHVISION = "this project", "reading the bytes", "torchvision v2, DataLoader"
COMPARED = 16
"""Images that are compared pixel by pixel, without flips."""
LEVELS, ELSEWHERE, SHARES = 0.5, 0.005, 0.001
"""Tolerances: mean difference of images in levels of 256, fraction of mask pixels that differ, and difference of the
fraction of a class among all pixels."""

Batch = tuple["torch.Tensor", "torch.Tensor"]
Run = Callable[[], dict[str, Any]]


def cases(quick: bool) -> list[Case]:
    """The training split of CamVid, some epochs a round."""
    if not CAMVID.is_dir():
        raise SystemExit(f"The stage pipeline needs CamVid in {CAMVID}.")
    epochs, alone = 1 if quick else 4, {"OMP_NUM_THREADS": "1"}
    contestants = [
        Contestant(OURS, "ours", this_project, (epochs,), alone),
        Contestant(BYTES, "limit", reading, (epochs,), alone),
        Contestant(TORCHVISION, "peer", torchvision, (epochs,), alone),
    ]
    name = f"CamVid, {SIDE} x {SIDE}, batch {BATCH}, flips"
    return [Case(name, "images", IMAGES * epochs, contestants, _same, [Goal(TORCHVISION, 60)], rounds=7)]


def _same(returned: Mapping[str, Any]) -> str:
    import numpy as np

    ours, theirs = returned[OURS], returned[TORCHVISION]
    counts = {name: each["images"] for name, each in returned.items()}
    assert len(set(counts.values())) == 1, f"numbers of images differ: {counts}"
    apart = np.abs(ours["images compared"].astype(int) - theirs["images compared"])
    assert apart.mean() <= LEVELS, f"images are {apart.mean():.2f} levels apart"
    elsewhere = np.not_equal(ours["masks compared"], theirs["masks compared"]).mean()
    assert elsewhere <= ELSEWHERE, f"{elsewhere:.1%} of the masks' pixels differ"
    shares = np.abs(ours["shares"] - theirs["shares"]).max()
    assert shares <= SHARES, f"shares of classes differ by {shares:.4f}"
    return (
        f"Of {COMPARED} images without flips, pixels are {apart.mean():.2f} levels of 256 apart (tolerated: {LEVELS}), "
        f"at most {apart.max()}, and {elsewhere:.2%} of the masks' pixels differ (tolerated: {ELSEWHERE:.1%}). Over an "
        f"epoch with flips, class fractions differ by at most {shares:.4f} (tolerated: {SHARES}). Reading copies the "
        f"same bytes unchanged."
    )


def this_project(epochs: int) -> Run:
    """The work of a run before the model: read the images of a batch from the cache, and augment them."""
    prepare_process()
    _use_one_core()
    import numpy as np
    import torch

    from segmentation.data import load_split
    from segmentation.data.batches import index_batches
    from segmentation.training.augmentation import Augmentation

    config = _config()
    split, augment, order = load_split(config, "train"), Augmentation(config), np.random.default_rng(0)
    random = torch.Generator().manual_seed(0)

    def epoch() -> Iterator[Batch]:
        for indices in index_batches(order.permutation(len(split)), BATCH):
            yield augment(*split.gather(indices), random)

    return _rounds(epoch, epochs, split.gather(_compared()))


def reading(epochs: int) -> Run:
    """Copy the bytes of all images and masks, in order."""
    prepare_process()
    _use_one_core()
    import numpy as np

    from segmentation.data import load_split

    split = load_split(_config(), "train")
    places = [(whole, np.empty_like(whole[:BATCH])) for whole in (split.images, split.masks)]

    def run() -> dict[str, Any]:
        for _ in range(epochs):
            for start in range(0, len(split), BATCH):
                for whole, place in places:
                    part = whole[start : start + BATCH]
                    np.copyto(place[: len(part)], part)
        return {"images": len(split) * epochs}

    return run


def torchvision(epochs: int) -> Run:
    """The transforms of torchvision's documentation on files that are decoded each epoch."""
    _use_one_core()
    import torch
    from torch.utils.data import DataLoader, Dataset
    from torchvision import tv_tensors
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2

    class Files(Dataset[Batch]):
        def __init__(self, flip: float) -> None:
            self.transforms = v2.Compose([v2.CenterCrop(SIDE), v2.RandomHorizontalFlip(flip)])
            self.files = sorted((CAMVID / "train").iterdir())

        def __len__(self) -> int:
            return len(self.files)

        def __getitem__(self, index: int) -> Batch:
            image = decode_image(str(self.files[index]), ImageReadMode.RGB)
            mask = decode_image(str(CAMVID / "trainannot" / f"{self.files[index].stem}.png"))
            mask[mask == UNLABELLED] = VOID
            image = tv_tensors.Image(v2.functional.resize(image, [SIDE], antialias=True))
            # `v2.Resize` takes another pixel of a mask: on average half a pixel of the file further up and left
            mask = tv_tensors.Mask(v2.functional.resize(mask, [SIDE], v2.InterpolationMode.NEAREST_EXACT)[0])
            image, mask = self.transforms(image, mask)
            return image, mask

    torch.manual_seed(0)
    loader, upright = DataLoader(Files(FLIP), BATCH, shuffle=True), Files(0)
    compared = zip(*(upright[index] for index in _compared()), strict=True)
    return _rounds(lambda: iter(loader), epochs, tuple(torch.stack(part) for part in compared))


def _rounds(epoch: Callable[[], Iterator[Batch]], epochs: int, compared: tuple["torch.Tensor", ...]) -> Run:
    """Iterate over some epochs per round; their content is checked in one epoch before the first."""
    import torch

    counts = torch.zeros(256, dtype=torch.int64)
    for _, masks in epoch():
        counts += torch.bincount(masks.flatten(), minlength=256)
    found = {
        "images compared": compared[0].numpy(), "masks compared": compared[1].numpy(),
        "shares": (counts[:CLASSES] / counts.sum()).numpy(),
    }  # fmt: skip

    def run() -> dict[str, Any]:
        return {"images": sum(len(images) for _ in range(epochs) for images, _ in epoch())} | found

    return run


def _compared() -> "np.ndarray":
    import numpy as np

    return np.linspace(0, IMAGES - 1, COMPARED).astype(int)


def _config() -> TrainConfig:
    """CamVid with flips, in a cache that is removed when the process ends."""
    place = tempfile.TemporaryDirectory(prefix="benchmark-")
    atexit.register(place.cleanup)
    return TrainConfig(dataset="camvid", data_dir=str(CAMVID), cache_dir=place.name, resize=SIDE, crop=SIDE, flip=FLIP)


def _use_one_core() -> None:
    import torch

    torch.set_num_threads(1)
