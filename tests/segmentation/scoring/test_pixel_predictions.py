import pytest
import torch

from segmentation.scoring.pixel_predictions import pixel_predictions


def random_batch(classes: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, classes, 7, 6, generator=random)
    labels = torch.randint(0, classes, (3, 7, 6), generator=random)
    labels[0, :2] = 255
    return logits, labels


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_agrees_with_torch_softmax_pixel_by_pixel(dtype: torch.dtype) -> None:
    logits, labels = random_batch()
    logits = logits.to(dtype)
    pixels = pixel_predictions(logits, labels)
    probabilities = logits.double().softmax(1)
    assert torch.equal(pixels.label, logits.double().argmax(1))
    torch.testing.assert_close(pixels.confidence.double(), probabilities.amax(1), rtol=1e-5, atol=1e-6)
    for image, row, column in torch.cartesian_prod(torch.arange(3), torch.arange(7), torch.arange(6)).tolist():
        at = image, row, column
        label = labels[at].item()
        if label == 255:
            assert not pixels.valid[at]
            assert not pixels.correct[at]
            assert pixels.negative_log_likelihood[at] == pixels.brier[at] == 0
            continue
        p = probabilities[image, :, row, column]
        truth = torch.eye(5, dtype=torch.float64)[label]
        assert pixels.correct[at] == (p.argmax() == label)
        assert pixels.negative_log_likelihood[at].item() == pytest.approx(-p[label].log().item(), abs=1e-5)
        assert pixels.brier[at].item() == pytest.approx(((p - truth) ** 2).sum().item(), abs=1e-5)


def test_half_precision_is_computed_in_float32() -> None:
    logits, labels = random_batch()
    half = logits.to(torch.bfloat16)
    assert pixel_predictions(half, labels).confidence.dtype == torch.float32
    assert torch.equal(pixel_predictions(half, labels).confidence, pixel_predictions(half.float(), labels).confidence)


def test_the_lowest_of_equal_classes_is_the_label() -> None:
    pixels = pixel_predictions(torch.zeros(1, 4, 1, 1), torch.tensor([[[2]]]))
    assert pixels.label.item() == 0
    assert pixels.confidence.item() == 0.25


def test_a_wide_gap_gives_exactly_one() -> None:
    logits = torch.full((1, 21, 1, 1), -30.0)
    logits[0, 3] = 30.0
    assert pixel_predictions(logits, torch.tensor([[[3]]])).confidence.item() == 1.0


def test_memory_layout_does_not_matter() -> None:
    logits, labels = random_batch()
    for one, other in zip(
        pixel_predictions(logits, labels),
        pixel_predictions(logits.to(memory_format=torch.channels_last), labels),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_the_logits_are_not_modified() -> None:
    logits, labels = random_batch()
    before = logits.clone()
    pixel_predictions(logits, labels)
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(1, 2, 3), torch.zeros(1, 3, dtype=torch.int64), r"\(B, C, H, W\)"),
        (torch.zeros(1, 2, 3, 3, dtype=torch.int64), torch.zeros(1, 3, 3, dtype=torch.int64), "floating point"),
        (torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 4, dtype=torch.int64), r"\(1, 3, 3\)"),
        (torch.zeros(1, 2, 3, 3), torch.zeros(2, 3, 3, dtype=torch.int64), r"\(1, H, W\)"),
        (torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3), "integers"),
        (torch.zeros(1, 2, 3, 3), torch.full((1, 3, 3), 2), "label 2 is neither below 2"),
        (torch.zeros(1, 2, 3, 3), torch.full((1, 3, 3), -1), "label -1"),
    ],
)
def test_wrong_shapes_types_and_labels_are_refused(logits: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pixel_predictions(logits, labels)
