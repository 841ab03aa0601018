"""The decorator of configuration classes, compared with `dataclass` itself."""

from dataclasses import FrozenInstanceError, asdict, astuple, dataclass, fields, is_dataclass, replace
from typing import Any

import pytest

from segmentation.fields import configuration


class Checked:
    def __post_init__(self) -> None:
        if getattr(self, "epochs", 1) < 1:
            raise ValueError("too few epochs")


def made(decorator: Any) -> tuple[type, type]:
    """A class and a subclass that changes a default and adds fields."""

    @decorator(frozen=True, kw_only=True)
    class Base(Checked):
        epochs: int = 3
        name: str | None = None

    @decorator(frozen=True, kw_only=True)
    class Derived(Base):
        seed: int
        epochs: int = 5

    return Base, Derived


@pytest.mark.parametrize("values", [{"seed": 1}, {"seed": 2, "epochs": 7, "name": "a"}])
def test_a_configuration_class_does_what_a_dataclass_does(values: dict[str, Any]) -> None:
    (_, ours), (_, theirs) = made(configuration), made(dataclass)
    config, expected = ours(**values), theirs(**values)
    assert is_dataclass(ours)
    assert [each.name for each in fields(ours)] == [each.name for each in fields(theirs)]
    assert asdict(config) == asdict(expected)
    assert repr(config) == repr(expected)
    assert hash(config) == hash(ours(**values))
    assert config == ours(**values)
    assert config != ours(**values | {"seed": 9})
    assert config != expected
    assert astuple(replace(config, epochs=9)) == astuple(replace(expected, epochs=9))


@pytest.mark.parametrize("decorator", [configuration, dataclass])
def test_a_configuration_cannot_be_made_or_changed_wrongly(decorator: Any) -> None:
    base, derived = made(decorator)
    with pytest.raises(TypeError, match="seed"):
        derived()
    with pytest.raises(TypeError, match="batch"):
        base(batch=3)
    with pytest.raises(TypeError):
        base(3)
    with pytest.raises(ValueError, match="epochs"):
        base(epochs=0)
    config = base()
    with pytest.raises(FrozenInstanceError):
        config.epochs = 4
    with pytest.raises(FrozenInstanceError):
        del config.epochs
    assert config != derived(seed=1, epochs=3)
