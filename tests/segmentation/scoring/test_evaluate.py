"""The pass of a model over a split: modes and precision."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image
from torch import nn

from segmentation.prediction.predictor import Predictor
from segmentation.scoring.evaluate import evaluating, score
from segmentation.system.full_precision import full_precision
from tests.segmentation.scoring.samples import LABELS


class Recorder(nn.Module):
    """Returns its input as logits and records whether it was in training mode."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen_training = self.training
        return torch.cat([images.float(), torch.zeros_like(images[:, :1], dtype=torch.float32)], 1)


def test_a_model_is_scored_in_evaluation_mode() -> None:
    model = Recorder().train()
    images = torch.randint(0, 9, (4, 3, 5, 5), dtype=torch.uint8)
    scores = score(model, [(images, images.argmax(1).to(torch.uint8))], LABELS)
    assert not model.seen_training
    assert model.training
    assert scores.metrics()["pixel_accuracy"] == 1


def test_modules_return_to_their_modes_after_an_error() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Dropout()).train()
    model[1].eval()
    with pytest.raises(ValueError, match="expected 4D input"), evaluating(model):
        model(torch.zeros(3))
    assert [each.training for each in model.modules()] == [True, True, False]
    assert not torch.is_inference_mode_enabled()


def test_tf32_is_off_during_scoring_and_prediction_and_restored_afterwards() -> None:
    def now() -> list[str]:
        cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
        return [each.fp32_precision for each in (cuda.matmul, cudnn.conv, cudnn.rnn)]

    def model(images: torch.Tensor) -> torch.Tensor:
        assert now() == ["ieee"] * 3
        return torch.cat([images.float(), images[:, :1].float()], 1)

    class Model(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return model(images)

    before = now()
    assert before != ["ieee"] * 3
    images = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    score(Model(), [(images, torch.zeros(1, 4, 4, dtype=torch.uint8))], LABELS)
    assert now() == before
    predictor = Predictor(model, None, "bilinear")
    predictor([Image.new("RGB", (4, 4))])
    assert now() == before
    with (
        full_precision(),
        ThreadPoolExecutor(4) as pool,
    ):  # the first thread to finish must not switch it on for the others
        list(pool.map(lambda _: predictor([Image.new("RGB", (4, 4))]), range(50)))
        assert now() == ["ieee"] * 3
    assert now() == before
