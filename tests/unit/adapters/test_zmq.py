"""The ZeroMQ channel: whole messages or errors, no copies, no silent loss, and it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zmq
import zmq.asyncio

import mmformat as mm
from mmformat.adapters.zmq import recv, recv_async, send, send_async
from mmformat.shm import Handle
from tests.support.requests import random_request

HANDLE = Handle(
    name="mmf-x", segment_id=bytes(16), slot=3, generation=7, offset=4096, nbytes=9, holders=1
)


def _message(nbytes: int = 300_000) -> mm.EncodedMessage:
    return mm.encode(random_request(nbytes))


@contextmanager
def _pair(left: int, right: int, address: str, **options: int) -> Iterator[tuple[object, object]]:
    with zmq.Context() as context:
        context.linger = 0
        with context.socket(left) as a, context.socket(right) as b:
            for name, value in options.items():
                setattr(a, name, value)
                setattr(b, name, value)
            if right == zmq.SUB:
                b.subscribe(b"")
            a.bind(address)
            b.connect(address)
            if left == zmq.XPUB:
                assert a.recv() == b"\x01"  # the subscription is there
            yield a, b


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/socket"


@pytest.mark.parametrize(("left", "right"), [("PUSH", "PULL"), ("XPUB", "SUB"), ("PAIR", "PAIR")])
def test_a_message_arrives_as_the_same_bytes(left: str, right: str, address: str) -> None:
    message = _message()
    with _pair(getattr(zmq, left), getattr(zmq, right), address) as (a, b):
        send(a, message, topic=b"images" if left == "XPUB" else b"", timeout_s=5)
        delivery = recv(b, timeout_s=5)
    assert bytes(delivery.payload) == bytes(message)
    assert delivery.topic == (b"images" if left == "XPUB" else b"")


def test_pub_and_sub_by_topic(address: str) -> None:
    with _pair(zmq.PUB, zmq.SUB, address) as (pub, sub):
        sub.unsubscribe(b"")
        sub.subscribe(b"rank/1")
        heard = None
        while heard is None:  # until the subscription has arrived there is nobody to lose it
            send(pub, HANDLE, topic=b"rank/0", timeout_s=5)
            send(pub, HANDLE, topic=b"rank/1", timeout_s=5)
            with contextlib.suppress(mm.TransportTimeoutError):
                heard = recv(sub, timeout_s=0.05)
        assert (heard.topic, heard.payload) == (b"rank/1", HANDLE)


def test_dealer_and_router_answer_each_other(address: str) -> None:
    with _pair(zmq.ROUTER, zmq.DEALER, address) as (router, dealer):
        send(dealer, HANDLE, timeout_s=5)
        asked = recv(router, timeout_s=5)
        assert asked.payload == HANDLE
        message = _message()
        send(router, message, route=asked.route, timeout_s=5)
        assert bytes(recv(dealer, timeout_s=5).payload) == bytes(message)


def test_a_router_says_when_it_knows_no_such_peer(address: str) -> None:
    with _pair(zmq.ROUTER, zmq.DEALER, address) as (router, _):
        with pytest.raises(mm.TransportError) as caught:
            send(router, HANDLE, route=b"nobody", timeout_s=0)
        assert caught.value.code == "unroutable"


def test_asyncio(address: str) -> None:
    message = _message()

    async def both() -> bytes:
        with zmq.asyncio.Context() as context:
            context.linger = 0
            with context.socket(zmq.PUSH) as a, context.socket(zmq.PULL) as b:
                a.bind(address)
                b.connect(address)
                _, delivery = await asyncio.gather(
                    send_async(a, message, timeout_s=5), recv_async(b, timeout_s=5)
                )
                with pytest.raises(mm.TransportTimeoutError):
                    await recv_async(b, timeout_s=0.05)
                return bytes(delivery.payload)

    assert asyncio.run(both()) == bytes(message)


def test_asyncio_reports_a_full_queue(address: str) -> None:
    async def fill() -> None:
        with zmq.asyncio.Context() as context, context.socket(zmq.PUSH) as a:
            a.linger = 0
            a.bind(address)
            with pytest.raises(mm.TransportTimeoutError):
                await send_async(a, HANDLE, timeout_s=0.05)

    asyncio.run(fill())


def test_large_frames_are_sent_from_the_tensors_own_memory(address: str) -> None:
    """No copy: with nobody reading, what is written after the send is what arrives."""
    feature = np.zeros(300_000, np.uint8)
    item = mm.MultimodalDataItem(modality=mm.Modality.IMAGE, feature=feature)
    message = mm.encode(mm.MultimodalInputs(items=[item]))
    with _pair(zmq.PUSH, zmq.PULL, "inproc://own-memory") as (a, b):
        tracker = send(a, message, timeout_s=5)
        assert not tracker.done
        feature[:] = 7
        delivery = recv(b, timeout_s=5)
        assert bytes(delivery.payload).count(7) >= 300_000
        del delivery
        gc.collect()
        tracker.wait(5)


def test_the_senders_memory_lives_until_zeromq_is_done() -> None:
    class Owned(np.ndarray):
        pass

    owner = np.arange(100_000, dtype=np.uint8).view(Owned)
    alive = weakref.ref(owner)
    frames = [b"\xff\xff\xff\xff" + bytes(12), memoryview(owner), b"\xff" * 4 + bytes(4)]
    with _pair(zmq.PUSH, zmq.PULL, "inproc://lifetime") as (a, b):
        tracker = send(a, mm.EncodedMessage(frames), timeout_s=5)
        expected = bytes(owner)
        del frames, owner
        gc.collect()
        assert alive() is not None
        assert not tracker.done
        delivery = recv(b, timeout_s=5)
        assert expected in bytes(delivery.payload)
        del delivery
        gc.collect()
        tracker.wait(5)
        deadline = time.monotonic() + 5
        while alive() is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert alive() is None


CUT = bytes(_message())[:-8]


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b"hello"], "not-a-message"),
        ([b""], "not-a-message"),
        ([b"\xff\xff\xff\xff"], "truncated"),
        ([CUT], "truncated"),
        ([bytes(_message(2_000_000))], "limit"),
        ([bytes(HANDLE)[:-1]], "handle"),
        ([bytes(HANDLE)[:20]], "handle"),
    ],
)
def test_what_is_no_message_is_an_error_and_the_socket_goes_on(
    frames: list[bytes], code: str, address: str
) -> None:
    message = _message()
    with _pair(zmq.PUSH, zmq.PULL, address) as (a, b):
        a.send_multipart(frames)
        send(a, message, timeout_s=5)
        with pytest.raises(mm.MMFormatError) as caught:
            recv(b, limits=mm.Limits(message_nbytes=1_000_000), timeout_s=5)
        assert caught.value.code == code
        assert bytes(recv(b, timeout_s=5).payload) == bytes(message)


@pytest.mark.parametrize(("left", "right"), [("PUSH", "PULL"), ("XPUB", "SUB")])
def test_at_the_high_water_mark_nothing_is_lost_without_an_error(
    left: str, right: str, address: str
) -> None:
    with _pair(getattr(zmq, left), getattr(zmq, right), address, sndhwm=3, rcvhwm=3) as (a, b):
        sent = refused = 0
        message = _message(2_000_000)
        for _ in range(60):
            try:
                send(a, message, timeout_s=0)
                sent += 1
            except mm.TransportTimeoutError:
                refused += 1
        assert refused
        for _ in range(sent):
            assert recv(b, timeout_s=5).payload.nbytes == message.nbytes
        with pytest.raises(mm.TransportTimeoutError):
            recv(b, timeout_s=0.05)


def test_curve_lets_in_only_who_has_a_key() -> None:
    """The recipe of docs/arena.md: the server's public key is given to the ranks by hand."""
    server_public, server_secret = zmq.curve_keypair()
    client_public, client_secret = zmq.curve_keypair()
    with zmq.Context() as context, context.socket(zmq.PUSH) as a, context.socket(zmq.PULL) as b:
        context.linger = a.linger = b.linger = 0
        a.curve_server = True
        a.curve_secretkey = server_secret
        a.curve_publickey = server_public
        port = a.bind_to_random_port("tcp://127.0.0.1")
        with context.socket(zmq.PULL) as stranger:
            stranger.linger = 0
            stranger.connect(f"tcp://127.0.0.1:{port}")
            with pytest.raises(mm.TransportTimeoutError):
                send(a, HANDLE, timeout_s=0.3)
        b.curve_serverkey = server_public
        b.curve_publickey, b.curve_secretkey = client_public, client_secret
        b.connect(f"tcp://127.0.0.1:{port}")
        send(a, HANDLE, timeout_s=5)
        assert recv(b, timeout_s=5).payload == HANDLE
