"""What a training begins with: its splits, and its network before the first step."""

import torch

from segmentation.data import Split, load_split
from segmentation.models.segmenter import Segmenter, build
from segmentation.models.starting_weights import LoadedWeights
from segmentation.training.loop import Data
from studies.config import TrainConfig
from studies.models.starting_weights import load_starting_weights, resolve_normalization


def load_data(config: TrainConfig) -> Data:
    """Both splits that a training needs."""
    return Data(load_split(config, config.train_split), load_split(config, config.val_split))


def starting_model(config: TrainConfig, split: Split) -> tuple[Segmenter, LoadedWeights | None]:
    """The network as it is before the first step, and which tensors it has taken from elsewhere.

    Raises:
        InputError: the starting weights are not there, or are of another network.
    """
    config = resolve_normalization(config)
    torch.manual_seed(config.seed)
    network = build(config, len(split.labels))
    return network, load_starting_weights(network, config, split.labels)
