"""Whatever may travel comes back bit for bit, and the message keeps every promise."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmformat.codec import decode, encode
from mmformat.codec.describe import describe
from mmformat.codec.verify import verify
from mmformat.model import Compression, MultimodalInputs
from mmformat.model.tensors import ITEMSIZE, numpy_dtype, torch_dtype
from mmformat.testing import assert_inputs_equal
from mmformat.testing.strategies import inputs

compressions = st.sampled_from(
    [
        None,
        Compression(codec="lz4", threshold_nbytes=0),
        Compression(codec="lz4", threshold_nbytes=100),
        Compression(codec="auto", threshold_nbytes=1),
    ]
)


@settings(max_examples=300)
@given(inputs(), compressions)
def test_round_trip_is_exact(sent: MultimodalInputs, compression: Compression | None) -> None:
    """Clauses: T-7, A-6. From frames, from joined bytes; types, order of keys and every bit."""
    message = encode(sent, compression)
    assert_inputs_equal(decode(message), sent)
    assert_inputs_equal(decode(bytes(message)), sent)


@settings(max_examples=150)
@given(inputs(), compressions)
def test_every_message_keeps_every_promise(
    sent: MultimodalInputs, compression: Compression | None
) -> None:
    """Clauses: L-9, L-10, L-17, L-18, A-6. Arrow's own full validation is among them."""
    assert verify(encode(sent, compression)) == []


@settings(max_examples=150)
@given(inputs(), compressions)
def test_encoding_is_deterministic_and_survives_decoding(
    sent: MultimodalInputs, compression: Compression | None
) -> None:
    """What was decoded encodes to the same bytes, where no dictionary tensor was expanded."""
    once = bytes(encode(sent, compression))
    assert bytes(encode(sent, compression)) == once
    again = decode(once, expand=False)
    assert bytes(encode(again, compression)) == once


@settings(max_examples=100)
@given(inputs(), compressions)
def test_description_agrees_with_the_values(
    sent: MultimodalInputs, compression: Compression | None
) -> None:
    message = encode(sent, compression)
    told = describe(message)
    assert told.nbytes == message.nbytes
    assert len(told.items) == len(sent.items)
    data = bytes(message)
    for tensor in told.tensors:
        if tensor.encoding == "plain":
            assert tensor.encoded_nbytes == tensor.nbytes
        for chunk in tensor.chunks:
            if chunk.at is not None:
                assert chunk.at % 64 == 0
                assert chunk.at + chunk.stored_nbytes <= len(data)


@settings(max_examples=40)
@given(inputs())
def test_round_trip_through_a_file(sent: MultimodalInputs) -> None:
    """Clauses: L-1."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.arrows"
        encode(sent).save(path)
        assert_inputs_equal(decode(path), sent)


@st.composite
def odd_memory(draw: st.DrawFn) -> Any:
    """Draw a view with any strides over any bytes, of every dtype and both libraries."""
    dtype = draw(st.sampled_from(sorted(ITEMSIZE)))
    shape = draw(st.lists(st.integers(0, 6), min_size=1, max_size=3))
    itemsize = ITEMSIZE[dtype]
    start = draw(st.integers(0, 7)) * itemsize
    raw = np.random.default_rng(draw(st.integers(0, 2**32))).bytes(2000 * itemsize + start)
    elements = np.frombuffer(raw, np.uint8)[start:].copy()
    axes = draw(st.permutations(range(len(shape))))
    steps = [draw(st.integers(1, 2)) for _ in shape]
    count = int(np.prod([n * step for n, step in zip(shape, steps, strict=True)]))
    index = tuple([slice(None, n * step, step) for n, step in zip(shape, steps, strict=True)])
    wide = [n * step for n, step in zip(shape, steps, strict=True)]
    if draw(st.booleans()):
        tensor = torch.from_numpy(elements).view(torch_dtype(dtype))[:count].view(wide)[index]
        if tensor.is_complex() and draw(st.booleans()):
            tensor = tensor.conj()
        return tensor.permute(tuple(axes))
    array = elements.view(numpy_dtype(dtype))[:count].reshape(wide)[index].transpose(axes)
    return array[::-1] if draw(st.booleans()) else array


@settings(max_examples=300)
@given(st.lists(odd_memory(), min_size=1, max_size=3), compressions)
def test_whatever_encode_writes_verify_accepts(
    tensors: list[Any], compression: Compression | None
) -> None:
    """Clauses: T-8. Every dtype, also bool over bytes other than 0 and 1; by plan and without."""
    sent = MultimodalInputs(request_data={"tensors": tensors})
    once = bytes(encode(sent, compression))
    assert verify(once) == []
    for _ in range(3):
        message = encode(sent, compression)
        target = bytearray(message.nbytes)
        message.write_into(memoryview(target))
        assert target == once
    for found, value in zip(decode(once).request_data["tensors"], tensors, strict=True):
        assert tuple(found.shape) == tuple(value.shape)
        assert _bits(found) == _bits(value)


def _bits(value: Any) -> bytes:
    if isinstance(value, torch.Tensor):
        flat = value.resolve_conj().resolve_neg().contiguous().view(-1)
        raw = flat.view(torch.uint8).numpy()
        return bytes(raw != 0) if value.dtype == torch.bool else bytes(raw)
    value = np.ascontiguousarray(value)
    return value.tobytes() if value.dtype != bool else bytes(value.view(np.uint8).ravel() != 0)
