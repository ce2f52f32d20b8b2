"""Whatever may travel comes back bit for bit, and the message keeps every promise."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from mmformat.codec import decode, encode
from mmformat.codec.describe import describe
from mmformat.codec.verify import verify
from mmformat.model import Compression, MultimodalInputs
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
