"""Checks of configuration fields, and field values read from text. Does not import torch, so that `--help` is fast."""

import math
from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, dataclass, fields
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from segmentation.errors import InputError, Mistakes, one_of

__all__ = ["at_least", "check_choices", "choices", "configuration", "read_value", "within"]

if TYPE_CHECKING:
    from dataclasses import dataclass as configuration
else:

    def configuration(*, frozen: Literal[True], kw_only: Literal[True]) -> Callable[[type], type]:
        """Decorator for configuration classes: `dataclass(frozen=True, kw_only=True)`, with methods that all share.

        `dataclass` generates and compiles six methods for each class. For the classes of all commands this took 40 ms
        at every start, one tenth of the time of `--help`.
        """
        shared = {name: value for name, value in vars(_Configuration).items() if callable(value)}

        def decorated(cls: type) -> type:
            for name, method in shared.items():
                setattr(cls, name, method)
            return dataclass(kw_only=kw_only, init=False, repr=False, eq=False)(cls)

        return decorated


class _Configuration:
    """The methods of every configuration class."""

    def __init__(self, **values: Any) -> None:
        state = {each.name: values.pop(each.name, each.default) for each in fields(self)}  # type: ignore[arg-type]
        missing = [name for name, value in state.items() if value is MISSING]
        if missing or values:
            raise TypeError(f"{type(self).__name__}: missing {missing}, unknown {list(values)}")
        vars(self).update(state)
        if hasattr(self, "__post_init__"):
            self.__post_init__()

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in _items(self))})"

    def __eq__(self, other: object) -> bool:
        return _items(self) == _items(other) if type(self) is type(other) else NotImplemented

    def __hash__(self) -> int:
        return hash(_items(self))

    def __setattr__(self, name: str, value: Any) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")


def _items(config: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((each.name, getattr(config, each.name)) for each in fields(config))


def check_choices(config: Any) -> None:
    """Raise an `InputError` for the fields whose values are not among the choices of their types."""
    mistakes = Mistakes()
    for name, known in choices(type(config)).items():
        value = getattr(config, name)
        if value is not None:
            mistakes.check(one_of, name, value, known)
    mistakes.raise_all()


def choices(config_class: type) -> dict[str, tuple[str, ...]]:
    """Allowed values of every field that takes one of a `Literal`, or None, and nothing else, by field name."""
    found = {}
    hints = get_type_hints(config_class)
    for field in fields(config_class):
        hint = hints[field.name]
        kinds = [hint] if get_origin(hint) is Literal else [each for each in get_args(hint) if each is not NoneType]
        if kinds and all(get_origin(kind) is Literal for kind in kinds):
            found[field.name] = tuple(value for kind in kinds for value in get_args(kind))
    return found


def read_value(config_class: type, name: str, text: str, where: str = "") -> Any:
    """The value of a field, read from text.

    Args:
        config_class: dataclass with the field.
        name: name of the field.
        text: the value as typed.
        where: prefix for the error message.

    Raises:
        InputError: the text is not a value of the field's type.
    """
    hint = get_type_hints(config_class)[name]
    kinds: tuple[Any, ...] = get_args(hint) if NoneType in get_args(hint) else (hint,)
    if NoneType in kinds and text.lower() == "none":
        return None
    kind = next(kind for kind in kinds if kind is not NoneType)
    words = [word for each in kinds[1:] if get_origin(each) is Literal for word in get_args(each)]
    if text.lower() in words:
        return text.lower()
    if kind is bool:
        return one_of(f"{where}{name}", text.lower(), ("true", "false")) == "true"
    if get_origin(kind) is not None or kind is str:
        return text
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        default = {each.name: each.default for each in fields(config_class)}[name]
        example = f", such as {default}" if type(default) in (int, float) else ""
        others = "".join(f" or {word}" for word in [*words, *(["none"] if NoneType in kinds else [])])
        other = next((field for field, known in choices(config_class).items() if name in field and text in known), None)
        hint = f". Did you mean {other}={text}?" if other else ""
        raise InputError(f"{where}{name}={text[:40]!r} is not {wanted}{others}{example}{hint}") from None


def at_least(config: Any, name: str, lowest: int) -> None:
    """Raise an `InputError` if the field's value is less than `lowest`."""
    value = getattr(config, name)
    if value < lowest:
        raise InputError(f"{name}={value} is too small; it must be at least {lowest}")


def within(config: Any, name: str, lowest: float, highest: float) -> None:
    """Raise an `InputError` if the field's value is outside [lowest, highest] or not finite."""
    value = getattr(config, name)
    if not (lowest <= value <= highest and math.isfinite(value)):
        bounds = f"at least {lowest:g}" if highest == math.inf else f"between {lowest:g} and {highest:g}"
        raise InputError(f"{name}={value} is out of range; it must be {bounds}, and finite")
