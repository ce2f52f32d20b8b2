"""Lazy objects of other libraries are told to load, in the order: registered, method, attribute."""

from __future__ import annotations

import numpy as np
import pytest

from mmformat import MaterializeError, ModelError
from mmformat.media import register_lazy
from mmformat.media.lazy import is_lazy, load_lazy


class WithMethod:
    def materialize(self) -> np.ndarray:
        return np.ones(3, np.float32)


class WithData:
    def __init__(self, data: object) -> None:
        self._lazy_data = data


class WithSlot:
    __slots__ = ("_lazy_data",)

    def __init__(self) -> None:
        self._lazy_data = 7


class TouchCounted:
    touched = 0

    @property
    def pixels(self) -> int:
        type(self).touched += 1
        return 5


def test_a_method_named_materialize_loads() -> None:
    np.testing.assert_array_equal(load_lazy(WithMethod()), np.ones(3, np.float32))


def test_lazy_data_is_a_value_or_a_function() -> None:
    assert load_lazy(WithData(3)) == 3
    assert load_lazy(WithData(lambda: 4)) == 4
    assert load_lazy(WithSlot()) == 7


def test_a_registered_attribute_is_touched_only_when_it_is_loaded() -> None:
    value = TouchCounted()
    assert not is_lazy(value)
    assert register_lazy(TouchCounted, "pixels") is TouchCounted
    assert is_lazy(value)
    assert TouchCounted.touched == 0
    assert load_lazy(value) == 5
    assert TouchCounted.touched == 1


def test_registration_is_for_subclasses_and_wins_over_the_protocols() -> None:
    class Base:
        def materialize(self) -> str:
            return "method"

    class Derived(Base):
        pass

    register_lazy(Base, lambda value: "registered")
    assert load_lazy(Derived()) == "registered"


def test_looking_does_not_load() -> None:
    class Booby:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"touched {name}")

    assert not is_lazy(Booby())


def test_a_loader_that_fails_is_named_with_the_path() -> None:
    class Broken:
        def materialize(self) -> object:
            raise KeyError("gone")

    with pytest.raises(MaterializeError, match=r"loading Broken raised KeyError: 'gone'") as caught:
        load_lazy(Broken(), path="$.items[1].feature")
    assert caught.value.path == "$.items[1].feature"


def test_what_is_not_lazy_says_how_to_register() -> None:
    with pytest.raises(MaterializeError, match="got object") as caught:
        load_lazy(object())
    assert "register_lazy" in str(caught.value.hint)


def test_registration_wants_a_class_and_a_loader() -> None:
    with pytest.raises(ModelError):
        register_lazy(WithMethod(), "pixels")  # type: ignore[type-var]
    with pytest.raises(ModelError):
        register_lazy(WithMethod, 3)  # type: ignore[arg-type]
