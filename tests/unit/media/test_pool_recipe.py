"""A recipe makes an equal processor from JSON, and refuses what only a pickle could carry."""

from __future__ import annotations

import json
import operator
from enum import Enum
from functools import partial
from typing import Any

import pytest
from PIL import Image

from mmformat import InputFormat, Modality, ModelError
from mmformat.media.audio import WhisperProcessor
from mmformat.media.pool.recipe import make, recipe_of
from mmformat.media.processors import KNOWN_PROCESSORS, processor_from_config
from mmformat.media.video_processors import QwenVLVideoProcessor


class Colour(Enum):
    """A plain enum."""

    RED = object()


def _again(value: Any) -> Any:
    return make(json.loads(json.dumps(recipe_of(value))))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        -1.5,
        float("inf"),
        "text",
        (),
        [1, (2, [3])],
        {"a": {"b": (1,)}, 3: None},
        len,
        operator.itemgetter,
        InputFormat.NORMAL,
        Colour.RED,
        WhisperProcessor(feature_size=128),
        QwenVLVideoProcessor(fps=None, num_frames=8),
        {Modality.AUDIO: WhisperProcessor(), Modality.VIDEO: QwenVLVideoProcessor()},
    ],
    ids=repr,
)
def test_what_comes_out_is_what_went_in(value: Any) -> None:
    found = _again(value)
    assert found == value
    assert type(found) is type(value) or isinstance(value, str)


@pytest.mark.parametrize("name", sorted(KNOWN_PROCESSORS))
def test_every_image_processor_has_a_recipe(name: str) -> None:
    processor = processor_from_config({"image_processor_type": name})
    assert _again(processor) == processor


def test_a_partial_keeps_its_arguments() -> None:
    made = _again(partial(round, ndigits=2))
    assert made(1.239) == 1.24
    assert _again(partial(operator.add, 2))(3) == 5


def test_an_int_enum_becomes_its_number() -> None:
    assert _again(Image.Resampling.BICUBIC) == 3


@pytest.mark.parametrize(
    "value", [lambda: 1, object(), {"a": [object()]}, partial(lambda: 1), b"bytes"]
)
def test_what_cannot_be_imported_is_refused(value: Any) -> None:
    with pytest.raises(ModelError) as caught:
        recipe_of(value, path="$.processor")
    assert caught.value.code == "not-importable"
    assert str(caught.value.path).startswith("$.processor")


@pytest.mark.parametrize("name", ["math", "math:no_such", "no_such_module:x", ":x", "", "a:b:c"])
def test_names_that_name_nothing_are_refused(name: str) -> None:
    with pytest.raises(ModelError):
        make({"name": name})
