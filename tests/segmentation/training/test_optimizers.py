import pytest
import torch

from segmentation.config import ModelConfig, OptimizationConfig
from segmentation.models.segmenter import build
from segmentation.training.optimizers import build_optimizer, learning_rate, set_learning_rate


def test_every_parameter_is_in_one_group_and_each_group_has_a_learning_rate() -> None:
    model = build(ModelConfig(model="lraspp_mobilenet_v3_large"), 4)
    config = OptimizationConfig(head_learning_rate_factor=10, backbone_learning_rate_factor=0.5)
    optimizer = build_optimizer(model, config)
    backbone, head = optimizer.param_groups
    assert {id(p) for p in backbone["params"]} == {id(p) for p in model.backbone.parameters()}
    everything = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(everything) == sorted(id(p) for p in model.parameters())
    set_learning_rate(optimizer, 0.02)
    assert (backbone["lr"], head["lr"]) == (0.01, 0.2)


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_the_optimizer_is_that_of_torch_with_the_configured_values(name: str, kind: type) -> None:
    config = OptimizationConfig(optimizer=name, momentum=0.8, weight_decay=0.01)
    optimizer = build_optimizer(build(ModelConfig(model="lraspp_mobilenet_v3_large"), 4), config)
    assert type(optimizer) is kind
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.01}
    if name == "sgd":
        assert {group["momentum"] for group in optimizer.param_groups} == {0.8}


def test_schedules_by_hand_and_torch_s_cosine() -> None:
    constant = OptimizationConfig(learning_rate=0.1, epochs=4)
    assert [learning_rate(constant, step, 5) for step in (0, 7, 19)] == [0.1, 0.1, 0.1]
    polynomial = OptimizationConfig(learning_rate=0.1, epochs=4, schedule="polynomial")
    assert learning_rate(polynomial, 0, 5) == 0.1
    assert learning_rate(polynomial, 10, 5) == pytest.approx(0.1 * 0.5**0.9)
    assert learning_rate(polynomial, 19, 5) == pytest.approx(0.1 * 0.05**0.9)
    cosine = OptimizationConfig(learning_rate=0.1, epochs=4, schedule="cosine")
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([torch.zeros(1)], lr=0.1), T_max=20)
    for step in range(20):
        assert learning_rate(cosine, step, 5) == pytest.approx(theirs.get_last_lr()[0])
        theirs.optimizer.step()
        theirs.step()
    warm = OptimizationConfig(learning_rate=0.1, epochs=4, warmup_epochs=2)
    assert [learning_rate(warm, step, 5) for step in (0, 4, 9, 10)] == pytest.approx([0.01, 0.05, 0.1, 0.1])
    assert learning_rate(OptimizationConfig(epochs=2, warmup_epochs=2), 9, 5) == 0.01
