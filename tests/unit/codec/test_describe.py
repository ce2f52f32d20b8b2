"""A message's description: items, tensors, places and sizes, as text that programs read."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mmformat.codec import encode
from mmformat.codec.describe import describe
from mmformat.errors import LimitError, VersionError
from mmformat.model import (
    Compression,
    DictionaryTensor,
    Limits,
    MultimodalDataItem,
    MultimodalInputs,
)
from mmformat.testing import golden_vectors


def inputs() -> MultimodalInputs:
    codes = np.zeros((2, 50), np.uint8)
    feature = DictionaryTensor(codes, np.ones((1, 4), np.float32), repeat=3)
    return MultimodalInputs(
        items=[
            MultimodalDataItem(
                modality="IMAGE",
                feature=feature,
                hash=-5,
                pad_value=7,
                identity="ab",
                offsets=[(1, 2)],
                model_specific_data={"n": np.int8([1, 2])},
            )
        ],
        request_data={"zeros": np.zeros(4096, np.int16)},
    )


def test_description_of_an_item() -> None:
    told = describe(encode(inputs()))
    item = told.items[0]
    assert (item.index, item.modality, item.format) == (0, "IMAGE", "normal")
    assert (item.hash, item.pad_value, item.identity) == ("-5", 7, "ab")
    assert item.offsets == ((1, 2),)
    dictionary, inline = item.tensors
    assert (dictionary.dtype, dictionary.shape) == ("float32", (3, 2, 50))
    assert (dictionary.encoding, dictionary.nbytes) == ("dictionary", 1200)
    assert (dictionary.encoded_nbytes, dictionary.stored_nbytes) == (116, 116)
    assert dictionary.ratio == pytest.approx(1200 / 116)
    assert (inline.nbytes, inline.chunks[0].at) == (2, None)


def test_description_of_compression() -> None:
    message = encode(inputs(), Compression(codec="lz4", threshold_nbytes=1000))
    told = describe(message)
    assert told.request is not None
    (zeros,) = told.request.tensors
    assert (zeros.compressed, zeros.batch, zeros.nbytes) == (True, 1, 8192)
    assert zeros.stored_nbytes < 200
    assert [batch.compressed for batch in told.batches] == [False, True]
    assert told.batches[1].at == told.batches[0].end
    assert told.batches[1].end == told.nbytes - 8 == message.nbytes - 8
    assert told.tensor_nbytes == 1200 + 2 + 8192


def test_description_as_json() -> None:
    told = json.loads(describe(encode(inputs())).to_json())
    assert told["version"] == 1
    assert told["items"][0]["tensors"][0]["shape"] == [3, 2, 50]
    assert told["items"][0]["tensors"][0]["chunks"][1]["at"] % 64 == 0
    assert told["request"]["tensors"][0]["name"] == "request_data['zeros']"


@pytest.mark.parametrize("vector", golden_vectors("future"), ids=lambda vector: vector.name)
def test_the_future_is_refused_by_name(vector: object) -> None:
    with pytest.raises(VersionError):
        describe(vector.path)  # type: ignore[attr-defined]


def test_limits_bound_what_is_described() -> None:
    with pytest.raises(LimitError, match="decompressed_nbytes"):
        describe(
            encode(inputs(), Compression(codec="lz4", threshold_nbytes=1000)),
            limits=Limits(decompressed_nbytes=4096),
        )
