from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from segmentation.errors import InputError
from segmentation.models.segmenter import Segmenter, build
from segmentation.training import micro_batch
from segmentation.training.micro_batch import (
    MEASURED,
    TEMPORARY,
    USABLE,
    available_memory,
    choose_micro_batch,
    counting_saved_bytes,
    estimate_memory,
    halvings,
    largest_that_fits,
    saved_bytes,
)
from studies.config import TrainConfig
from tests.segmentation.models.own import TEN_LINES, U_NET, written

CPU = torch.device("cpu")
SIZE = (32, 24)


def ten_lines(**fields: Any) -> tuple[Segmenter, TrainConfig]:
    written({"my_models.py": TEN_LINES}, "my_models:net")
    config = TrainConfig(model="my_models:net", device="cpu", momentum=0.0, **fields)
    return build(config, 3), config


@pytest.mark.parametrize(
    ("whole", "smallest", "expected"),
    [(64, 2, [64, 32, 16, 8, 4, 2]), (12, 2, [12, 6, 3, 2]), (7, 1, [7, 4, 2, 1]), (1, 2, [1]), (2, 2, [2])],
)
def test_halvings(whole: int, smallest: int, expected: list[int]) -> None:
    assert halvings(whole, smallest) == expected


def test_views_of_one_storage_count_once_and_weights_do_not() -> None:
    weight = torch.randn(5, 5, requires_grad=True)
    images = torch.randn(7, 5)
    with counting_saved_bytes([weight]) as counted:
        hidden = images @ weight  # saves images and the weight
        squares = hidden[:2] * hidden[2:4]  # saves two views of hidden
        squares.exp().sum().backward()  # saves the result of exp
    assert sum(counted.values()) == 4 * (7 * 5 + 7 * 5 + 2 * 5)


def brute_force(config: TrainConfig, model: Segmenter, images: int) -> int:
    """Bytes of the distinct storages in the graph of the loss, found by walking over its nodes."""
    random = torch.randint(0, 256, (images, *SIZE, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    masks = torch.randint(0, 3, (images, *SIZE))
    loss = nn.functional.cross_entropy(model.train().outputs(random)["out"], masks, reduction="sum")
    nodes, seen, found = [loss.grad_fn], set(), {}
    weights = {each.untyped_storage().data_ptr() for each in [*model.parameters(), *model.buffers()]}
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [each for each, _ in node.next_functions]
        for name in dir(node):
            if name.startswith("_saved_") and isinstance(saved := getattr(node, name), torch.Tensor):
                found[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
    return sum(size for address, size in found.items() if address not in weights)


def test_the_saved_bytes_are_those_of_the_graph() -> None:
    model, config = ten_lines()
    pixels = 4 * SIZE[0] * SIZE[1]
    expected = brute_force(config, model, 4)
    # by hand: the input of each convolution, log-softmax; masks as int64, and the total weight of the loss
    by_hand = 4 * pixels * (3 + 16 + 3)
    assert by_hand <= expected <= by_hand + 3 * 8 * pixels
    found = saved_bytes(model, config, CPU, 3, SIZE, 4)
    assert by_hand <= found <= expected + 8 * pixels


def test_the_estimate_is_a_line_through_the_measured_points(monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = ten_lines()
    measured = {MEASURED[0]: 1_000, MEASURED[1]: 1_600}
    monkeypatch.setattr(micro_batch, "saved_bytes", lambda *arguments: measured[arguments[-1]])
    weights = 4 * (3 * 16 * 9 + 16 + 16 * 3 + 3)
    # 300 bytes an image and 400 for the rest, as MEASURED is (2, 4); the gradients are as large as the weights
    assert estimate_memory(model, config, CPU, 3, SIZE)(10) == int(TEMPORARY * (400 + 300 * 10)) + weights


def test_the_memory_of_a_step_grows_linearly() -> None:
    written({"my_models.py": U_NET}, "my_models:unet")
    config = TrainConfig(model="my_models:unet", device="cpu")
    model = build(config, 3)
    two, four, nine = (saved_bytes(model, config, CPU, 3, SIZE, images) for images in (2, 4, 9))
    assert nine == pytest.approx(two + 7 * (four - two) / 2, rel=1e-3)


@pytest.mark.parametrize(("fitting", "expected"), [(8, 8), (5, 4), (2, 2), (100, 16)])
def test_the_largest_fraction_of_the_batch_that_fits_is_chosen(
    fitting: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written({"my_models.py": U_NET}, "my_models:unet")
    config = TrainConfig(model="my_models:unet", device="cpu", batch_size=16)
    model = build(config, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    estimate = estimate_memory(model, config, CPU, 3, SIZE)
    monkeypatch.setattr(micro_batch, "available_memory", lambda: int(estimate(fitting) / USABLE) + 1)
    choice = choose_micro_batch(model, config, CPU, 3, SIZE)
    assert choice.images == expected
    assert f"micro_batch=auto: {'all 16' if expected == 16 else f'{expected} of 16'} images" in choice.line
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.set_rng_state(random)


def test_processes_share_the_memory_and_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = ten_lines(batch_size=16, processes=2)
    estimate = estimate_memory(model, config, CPU, 3, SIZE)
    monkeypatch.setattr(micro_batch, "available_memory", lambda: 2 * int(estimate(4) / USABLE) + 4)
    choice = choose_micro_batch(model, config, CPU, 3, SIZE)
    assert choice.images == 4
    assert "4 of 8 images of a step in each process" in choice.line


def test_no_memory_for_the_smallest_number_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = ten_lines(batch_size=4)
    monkeypatch.setattr(micro_batch, "available_memory", lambda: 1000)
    with pytest.raises(InputError, match=r"micro_batch=auto: not even 1 image of 24 x 32 pixels"):
        choose_micro_batch(model, config, CPU, 3, SIZE)


def test_on_a_gpu_steps_run_until_one_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    class Step:
        def __init__(self, *arguments: Any) -> None: ...

        def __call__(self, images: torch.Tensor, masks: torch.Tensor, batch_size: int) -> None:
            tried.append(len(images))
            if len(images) > 5:
                raise InputError("not enough memory") from torch.OutOfMemoryError("CUDA out of memory")
            if len(images) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(micro_batch, "TrainingStep", Step)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    model, config = ten_lines()
    numbers = halvings(10, 1)
    found = largest_that_fits(numbers, lambda each: micro_batch._runs(model, config, CPU, 3, SIZE, each))
    assert (found, tried) == (3, [10, 5, 3, 3])


def test_other_errors_of_a_step_are_not_taken_for_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise InputError("batch norm needs more than 1 image")

    model, config = ten_lines()
    monkeypatch.setattr(micro_batch, "TrainingStep", fail)
    with pytest.raises(InputError, match="batch norm"):
        micro_batch._runs(model, config, CPU, 3, SIZE, 1)


def test_the_limit_of_a_container_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(micro_batch, "CGROUP", tmp_path)
    free = psutil.virtual_memory().available
    assert available_memory() == pytest.approx(free, rel=0.2)
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    assert available_memory() == 2_000_000
    (tmp_path / "memory.stat").write_text("anon 7\ninactive_file 500000\n")
    assert available_memory() == 2_500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() == pytest.approx(free, rel=0.2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_with_little_memory_gets_a_part_of_the_batch() -> None:
    device = torch.device("cuda")
    config = TrainConfig(model="lraspp_mobilenet_v3_large", batch_size=64)
    model = build(config, 21)
    total = torch.cuda.get_device_properties(device).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction(4e9 / total, device)
        choice = choose_micro_batch(model, config, device, 21, (512, 512))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert 2 <= choice.images < 64
