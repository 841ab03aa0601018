import math
from dataclasses import asdict, fields, replace
from typing import Any

import pytest

from segmentation.config import RECIPES, WITHOUT_RECIPE
from segmentation.errors import InputError
from segmentation.fields import choices, read_value
from studies.config import (
    EvaluateConfig,
    InspectConfig,
    ModelsConfig,
    QuickStartConfig,
    TrainConfig,
    TuneConfig,
    decisive,
    settled,
)


def test_the_defaults_of_train_are_the_protocol_of_the_original_report() -> None:
    config = TrainConfig()
    assert (config.dataset, config.model, config.weights) == ("voc2007", "fcn_resnet50", "none")
    assert (config.resize, config.crop, config.normalization) == (128, 128, "signed_unit")
    assert (config.batch_size, config.epochs, config.schedule) == (64, 50, "constant")
    assert (config.optimizer, config.learning_rate, config.momentum, config.weight_decay) == ("sgd", 0.01, 0.9, 0.0)
    assert (config.flip, config.scale_min, config.scale_max, config.color_jitter) == (0, 1, 1, 0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", -1, "epochs=-1 is too small; it must be at least 1"),
        ("batch_size", 0, "batch_size=0"),
        ("crop", 0, "crop=0"),
        ("crop", 256, "crop=256 is larger than resize=128"),
        ("patience", 0, "patience=0"),
        ("learning_rate", -0.1, "learning_rate=-0.1 is out of range"),
        ("learning_rate", math.nan, "learning_rate=nan"),
        ("learning_rate", math.inf, "learning_rate=inf"),
        ("flip", 1.5, "flip=1.5 is out of range; it must be between 0 and 1"),
        ("vertical_flip", -0.5, "vertical_flip=-0.5 is out of range; it must be between 0 and 1"),
        ("grayscale", 2.0, "grayscale=2.0 is out of range"),
        ("autocontrast", math.nan, "autocontrast=nan is out of range"),
        ("blur", 3.0, "blur=3.0 is out of range"),
        ("rotation", 181.0, "rotation=181.0 is out of range; it must be between 0 and 180"),
        ("crop_at", "centre", "crop_at='centre' is not known. Did you mean 'center'?"),
        ("score_crop", "hole", "score_crop='hole' is not known. Did you mean 'whole'?"),
        ("sampling", "balanced", "sampling='balanced' is not known. Did you mean 'class_balanced'?"),
        ("scale_min", 2.0, "scale_min=2.0 is larger than scale_max=1.0"),
        ("model", "fcn_resnet5", "model='fcn_resnet5' is not known. Did you mean 'fcn_resnet50'?"),
        ("dataset", "vok2007", "Did you mean 'voc2007'?"),
        ("monitor", "val/mean_iuo", "Did you mean 'val/mean_iou'?"),
        ("monitor", "loss", "monitor='loss' is not known"),
        ("warmup_epochs", 51, "warmup_epochs=51 is more than epochs=50"),
        ("batch_norm_momentum", 2.0, "batch_norm_momentum=2.0"),
        ("processes", 65, "batch_size=64 is smaller than processes=65"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_and_value(field: str, value: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        TrainConfig(**{field: value})
    assert message in str(caught.value)


@pytest.mark.parametrize(("field", "value"), [("crop_at", "random"), ("crop_at", "class"), ("score_crop", "whole")])
@pytest.mark.parametrize("kind", [TrainConfig, InspectConfig])
def test_a_position_of_the_crop_without_a_crop_is_refused(kind: Any, field: str, value: str) -> None:
    with pytest.raises(InputError, match=f"{field}={value} has no effect with crop=none"):
        kind(**{field: value}, crop=None)
    assert getattr(kind(**{field: value}), field) == value


@pytest.mark.parametrize(
    ("value", "instead"),
    [
        ("random", "crop_at=random"),
        ("class", "crop_at=class"),
        ("whole", "score_crop=whole"),
        ("center", "crop_at=center"),
    ],
)
def test_a_position_typed_as_crop_names_the_field_to_use(value: str, instead: str) -> None:
    with pytest.raises(InputError, match=f"crop='{value}' is not a whole number or none.*Did you mean {instead}"):
        read_value(TrainConfig, "crop", value)


def test_an_auxiliary_loss_is_refused_where_there_is_no_auxiliary_head() -> None:
    with pytest.raises(InputError, match="auxiliary_loss=0.5: lraspp_mobilenet_v3_large has no auxiliary head"):
        QuickStartConfig(auxiliary_loss=0.5)


def test_the_quick_start_has_the_same_fields() -> None:
    assert {field.name for field in fields(QuickStartConfig)} == {field.name for field in fields(TrainConfig)}


def test_evaluation_checks_its_values() -> None:
    with pytest.raises(InputError, match="dataset='camvit' is not known. Did you mean 'camvid'"):
        EvaluateConfig(model_uri="x", dataset="camvit")


def test_a_recipe_sets_fields_that_are_not_set() -> None:
    careful = TrainConfig(recipe="careful")
    by_hand = TrainConfig(freeze_backbone=3, backbone_learning_rate_factor=0.1, freeze_batch_norm=True)
    assert decisive(asdict(careful)) == decisive(asdict(by_hand)) != decisive(asdict(TrainConfig()))
    assert replace(careful, seed=1).freeze_batch_norm
    assert TrainConfig(recipe="careful", freeze_backbone=7).freeze_backbone == 7
    assert asdict(TrainConfig()) == asdict(TrainConfig()) | WITHOUT_RECIPE
    assert tuple(RECIPES) == choices(TrainConfig)["recipe"]
    with pytest.raises(InputError, match="Did you mean 'careful'"):
        TrainConfig(recipe="carefull")


@pytest.mark.parametrize(("name", "default"), WITHOUT_RECIPE.items())
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_a_recipe_does_not_change_a_field_that_is_set_to_its_value_without_a_recipe(
    recipe: Any, name: str, default: Any
) -> None:
    values = vars(TrainConfig(recipe=recipe, **{name: default}))
    for each, usual in WITHOUT_RECIPE.items():
        assert values[each] == (default if each == name else RECIPES[recipe].get(each, usual)), each


def test_a_field_that_is_set_in_a_template_is_set_in_every_run_made_from_it() -> None:
    template = TuneConfig(freeze_backbone=0, weights="imagenet")
    careful = settled(template, {"recipe": "careful"})
    assert (careful.freeze_backbone, careful.backbone_learning_rate_factor, careful.freeze_batch_norm) == (0, 0.1, True)
    both = settled(template, {"recipe": "careful", "backbone_learning_rate_factor": 1.0})
    assert both.backbone_learning_rate_factor == 1.0
    assert settled(template).normalization == "imagenet"
    assert settled(template, {"weights": "none"}).normalization == "signed_unit"
    assert settled(ModelsConfig(normalization="signed_unit"), {"weights": "coco"}).normalization == "signed_unit"
    assert decisive(asdict(settled(template))) == decisive(asdict(TrainConfig(weights="imagenet")))


@pytest.mark.parametrize(
    ("weights", "normalization"),
    [("none", "signed_unit"), ("imagenet", "imagenet"), ("coco", "imagenet"), ("runs:/0", "auto"), ("w.pth", "auto")],
)
def test_the_scale_of_the_input_follows_the_starting_weights(weights: str, normalization: str) -> None:
    assert TrainConfig(weights=weights).normalization == normalization
    assert TrainConfig(weights=weights, normalization="signed_unit").normalization == "signed_unit"
