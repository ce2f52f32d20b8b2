"""Remote handles and tickets: small, exact, and refused with a code when they are not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmformat.errors import TransportError
from mmformat.net import RemoteHandle
from mmformat.net.remote_handle import MAX_STREAMS, Ticket

REMOTE = RemoteHandle(
    location="grpc+tls://encoder-0.example:4711",
    arena="mmf-0-1-2-abc",
    segment_id=b"s" * 16,
    slot=7,
    generation=3,
    nbytes=25_800_000,
    digest=b"d" * 32,
)
TICKET = Ticket(segment_id=b"s" * 16, slot=7, generation=3, mirror=b"m" * 16, streams=2, first=5)


def test_a_remote_handle_comes_back_and_the_longest_is_under_512_bytes() -> None:
    assert RemoteHandle.from_bytes(bytes(REMOTE)) == REMOTE
    longest = replace(REMOTE, location=f"grpc+tls://{'h' * 128}:65535", arena=f"mmf-{'a' * 96}")
    assert RemoteHandle.from_bytes(bytes(longest)) == longest
    assert len(bytes(longest)) < 512
    assert RemoteHandle.of(longest) is longest


@pytest.mark.parametrize(
    "location",
    [
        "http://a:1",
        "grpc://a",
        "grpc://a:0",
        "grpc://a:65536",
        "grpc://a b:1",
        "grpc://u@h:1",
        "grpc+unix:///tmp/x",
        "grpc://h:1/x",
        "",
    ],
)
def test_a_location_is_a_host_and_a_port_and_nothing_else(location: str) -> None:
    with pytest.raises(TransportError) as caught:
        RemoteHandle.from_bytes(bytes(replace(REMOTE, location=location)))
    assert caught.value.code == "net-handle"


def test_every_flipped_bit_and_every_cut_is_refused() -> None:
    raw = bytes(REMOTE)
    for at in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(TransportError):
            RemoteHandle.from_bytes(bytes(changed))
    for end in range(len(raw)):
        with pytest.raises(TransportError):
            RemoteHandle.from_bytes(raw[:end])


def test_a_newer_version_is_refused_by_name() -> None:
    raw = bytearray(bytes(REMOTE))
    raw[4] = 2
    with pytest.raises(TransportError) as caught:
        RemoteHandle.from_bytes(bytes(raw))
    assert caught.value.code == "net-handle-version"


def test_a_name_cannot_leave_its_directory() -> None:
    with pytest.raises(TransportError) as caught:
        RemoteHandle.from_bytes(bytes(replace(REMOTE, arena="mmf-../../etc")))
    assert caught.value.code == "segment-name"


@given(st.binary(max_size=600))
def test_any_bytes_are_a_value_or_an_error_of_ours(data: bytes) -> None:
    for read in (RemoteHandle.from_bytes, Ticket.from_bytes):
        with pytest.raises(TransportError):
            read(data)


def test_a_ticket_comes_back_and_what_it_may_ask_is_bounded() -> None:
    assert Ticket.from_bytes(bytes(TICKET)) == TICKET
    for broken in (
        bytes(TICKET)[:-1],
        bytes(TICKET) + b"\0",
        b"mmfx" + bytes(TICKET)[4:],
        bytes(replace(TICKET, streams=0)),
        bytes(replace(TICKET, streams=MAX_STREAMS + 1)),
    ):
        with pytest.raises(TransportError) as caught:
            Ticket.from_bytes(broken)
        assert caught.value.code == "net-ticket"
