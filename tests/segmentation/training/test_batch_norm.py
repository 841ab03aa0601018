import pytest
import torch
from torch import nn

from segmentation.errors import InputError
from segmentation.training.batch_norm import freeze, layers_of, one_update, synchronized, unsettled_note
from segmentation.training.process_group import ProcessGroup

TWO = ProcessGroup(0, 2, 0, 2)


def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))


def test_running_statistics_of_several_passes_are_those_of_all_values() -> None:
    torch.manual_seed(0)
    values = 3 * torch.randn(7, 4, 5, 6) + torch.arange(4.0)[:, None, None]
    whole, parts, frozen = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4).eval()
    whole(values)
    with one_update(nn.Sequential(parts, frozen)):
        for part in values.split([3, 1, 3]):
            frozen(parts(part))
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor)
    assert frozen.running_mean is not None
    assert not frozen.running_mean.any()
    parts(values)
    whole(values)
    torch.testing.assert_close(parts.running_var, whole.running_var)


def test_layers_are_torch_s_synchronized_ones_inside_and_the_original_ones_afterwards() -> None:
    ours, device = model(), torch.device("cuda")
    original, names = ours[1][0], list(ours.state_dict())
    with synchronized(ours, device, TWO):
        (layer,) = layers_of(ours)
        assert type(layer) is nn.SyncBatchNorm
        assert list(ours.state_dict()) == names
        assert layer.weight is original.weight
        assert layer.running_mean is original.running_mean
        ours.eval()
    assert ours[1][0] is original
    assert not original.training
    with synchronized(ours, device, ProcessGroup()):
        assert ours[1][0] is original


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_synchronized_batch_norm_needs_a_gpu(device: str) -> None:
    message = f"sync_batch_norm=true needs GPUs, but device={device}"
    with pytest.raises(InputError, match=message), synchronized(model(), torch.device(device), TWO):
        pass


def test_a_frozen_layer_keeps_its_statistics_and_parameters() -> None:
    ours = model().train()
    freeze(ours)
    ours(torch.randn(2, 3, 4, 4)).sum().backward()
    layer = ours[1][0]
    assert layer.num_batches_tracked == 0
    assert (layer.weight.grad, layer.bias.grad) == (None, None)
    assert ours[0].weight.grad is not None


def test_layers_without_running_statistics_have_none_to_update() -> None:
    layer = nn.BatchNorm2d(4, track_running_stats=False)
    values = torch.randn(4, 4, 2, 2)
    with one_update(nn.Sequential(layer)):
        parts = [layer(part) for part in values.split(2)]
    torch.testing.assert_close(torch.cat(parts)[:2], layer(values[:2]))
    assert layer.running_mean is None


@pytest.mark.parametrize(("momentum", "steps"), [(0.1, 10), (0.1, 15), (0.1, 16), (0.01, 100), (0.01, 161)])
def test_a_short_run_is_noted_with_how_much_of_the_initial_statistics_it_keeps(momentum: float, steps: int) -> None:
    layer = nn.BatchNorm2d(1, momentum=momentum)
    assert layer.running_mean is not None
    layer.running_mean.fill_(1.0)
    for _ in range(steps):
        layer(torch.zeros(2, 1, 1, 1))
    left = layer.running_mean.item()
    note = unsettled_note(nn.Sequential(nn.Conv2d(1, 1, 1), layer), steps)
    assert bool(note) is (left > 0.2)
    assert note.startswith(f"{left:.0%} of batch norm's running statistics" if note else "")
    assert ("batch_norm_momentum=0.1" in note) is bool(note and momentum < 0.1)


def test_no_batch_norm_keeps_no_statistics() -> None:
    assert unsettled_note(nn.Conv2d(1, 1, 1), 1) == ""
    assert unsettled_note(nn.BatchNorm2d(4, track_running_stats=False), 1) == ""
