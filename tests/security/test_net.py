"""Strangers on the network: publishers, mirrors and people in between that break the rules."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import mmformat as mm
from mmformat.errors import MMFormatError, TransportError
from mmformat.net import TLS, Mirror, Publisher, RemoteHandle
from mmformat.net.remote_handle import CHUNK_NBYTES, Ticket
from mmformat.net.wire import ACK, HOLD, SCHEMA, batch_of
from tests.support.certificates import make_certificates
from tests.support.requests import random_request

flight: Any = pytest.importorskip("pyarrow.flight")
MIB = 2**20
TOKEN = "a-token-of-enough-letters"


def inputs(nbytes: int = 3 * MIB) -> mm.MultimodalInputs:
    return random_request(nbytes)


@pytest.fixture
def arena() -> Iterator[mm.Arena]:
    with mm.Arena.create(nbytes=64 * MIB, ranks=1) as made:
        yield made


@pytest.fixture
def other() -> Iterator[mm.Arena]:
    with mm.Arena.create(nbytes=64 * MIB, ranks=1) as made:
        yield made


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder


def remote_of(port: int, nbytes: int = 3 * CHUNK_NBYTES) -> RemoteHandle:
    return RemoteHandle(
        location=f"grpc://127.0.0.1:{port}",
        arena="mmf-hostile",
        segment_id=bytes(16),
        slot=0,
        generation=1,
        nbytes=nbytes,
        digest=bytes(32),
    )


@pytest.mark.parametrize("address", ["0.0.0.0:0", "10.0.0.1:0", "[::]:0", "host.example:0"])
def test_nobody_listens_to_strangers_without_proof_of_who_they_are(
    arena: mm.Arena, certificates: Path, address: str
) -> None:
    own = TLS(certificate=certificates / "server.pem", private_key=certificates / "server.key")
    for options in ({}, {"token": TOKEN}, {"tls": own}):
        with pytest.raises(TransportError) as caught:
            Publisher(arena, address, **options)
        assert caught.value.code == "net-insecure"


@pytest.mark.parametrize("token", [None, "another-token-of-letters", "a-token-of-enough-lettersX"])
def test_without_the_token_nothing_is_sent(
    arena: mm.Arena, other: mm.Arena, token: str | None
) -> None:
    with Publisher(arena, token=TOKEN) as publisher, Mirror(other, token=token) as mirror:
        remote = publisher.publish(inputs())
        with pytest.raises(TransportError) as caught:
            mirror.fetch(remote, timeout_s=5)
        assert caught.value.code == "net-refused"
        assert TOKEN not in str(caught.value)
        assert publisher.stats().sent_nbytes == publisher.stats().leases == 0
        with Mirror(other, token=TOKEN) as friend:
            friend.fetch(remote)


@pytest.mark.parametrize("token", ["short", "with space in the token", "new\nline-in-the-token"])
def test_a_token_that_is_none_is_not_in_the_message(arena: mm.Arena, token: str) -> None:
    with pytest.raises(TransportError) as caught:
        Publisher(arena, token=token)
    assert caught.value.code == "net-token" and token not in str(caught.value)


def test_tls_names_both_sides(arena: mm.Arena, other: mm.Arena, certificates: Path) -> None:
    c = certificates
    server = TLS(certificate=c / "server.pem", private_key=c / "server.key", ca=c / "ca.pem")
    client = TLS(certificate=c / "client.pem", private_key=c / "client.key", ca=c / "ca.pem")
    with Publisher(arena, tls=server) as publisher:
        remote = publisher.publish(inputs(), hosts=9)
        assert remote.location.startswith("grpc+tls://")
        with Mirror(other, tls=client) as mirror:
            mirror.fetch(remote)
        strangers = (
            TLS(ca=c / "ca.pem"),  # shows no certificate
            TLS(
                certificate=c / "stranger.pem", private_key=c / "stranger.key", ca=c / "ca.pem"
            ),  # signs its own
            TLS(certificate=c / "client.pem", private_key=c / "client.key", ca=c / "stranger.pem"),
        )
        sent = publisher.stats().sent_nbytes
        for tls in strangers:
            with (
                mm.Arena.create(nbytes=8 * MIB, ranks=1) as empty,
                Mirror(empty, tls=tls) as mirror,
                pytest.raises(TransportError),
            ):
                mirror.fetch(remote, timeout_s=1)
        assert publisher.stats().sent_nbytes == sent


def test_the_token_goes_to_nobody_that_tls_does_not_vouch_for(other: mm.Arena) -> None:
    with Mirror(other, token=TOKEN) as mirror:
        far = RemoteHandle.from_bytes(bytes(remote_of(1)))
        fields = {name: getattr(far, name) for name in RemoteHandle.__slots__}
        with pytest.raises(TransportError) as caught:
            mirror.fetch(RemoteHandle(**fields | {"location": "grpc://10.1.2.3:4711"}))
        assert caught.value.code == "net-insecure"
    with Mirror(other, allow=["encoder.example"]) as mirror:
        with pytest.raises(TransportError) as caught:
            mirror.fetch(remote_of(1))
        assert caught.value.code == "net-refused"


def test_pem_that_is_none_is_refused(certificates: Path, tmp_path: Path) -> None:
    for options in (
        {"ca": tmp_path / "absent"},
        {"ca": b"no pem"},
        {"certificate": certificates / "server.pem"},
    ):
        with pytest.raises(TransportError) as caught:
            TLS(**options)
        assert caught.value.code == "net-tls"


# ------------------------------------------------------------------------------ hostile publishers
def chunk(nbytes: int) -> Any:
    return batch_of(np.zeros(nbytes, np.uint8))


def batches(schema: Any, arrays: list[Any]) -> Callable[[], Any]:
    made = pa.RecordBatch.from_arrays(arrays, schema=schema)
    return lambda: flight.RecordBatchStream(pa.Table.from_batches([made] * 3))


TWO = pa.schema([pa.field("bytes", pa.large_binary(), nullable=False), ("x", pa.int8())])
HOSTILE: dict[str, tuple[Callable[[], Any], str]] = {
    "another schema": (
        batches(pa.schema([("bytes", pa.utf8())]), [pa.array(["x"])]),
        "net-protocol",
    ),
    "one column more": (
        batches(TWO, [pa.array([b"x"], pa.large_binary()), pa.array([1], pa.int8())]),
        "net-protocol",
    ),
    "many rows": (batches(SCHEMA, [pa.array([b"x"] * 9, pa.large_binary())]), "net-protocol"),
    "no rows": (batches(SCHEMA, [pa.array([], pa.large_binary())]), "net-protocol"),
    "a short chunk": (
        lambda: flight.GeneratorStream(SCHEMA, iter([chunk(CHUNK_NBYTES - 1)] * 3)),
        "net-protocol",
    ),
    "a long chunk": (
        lambda: flight.GeneratorStream(SCHEMA, iter([chunk(CHUNK_NBYTES + 64)] * 3)),
        "net-protocol",
    ),
    "a chunk beyond gRPC's limit": (
        # Flight says "cancelled", as after a broken connection, so it is asked again until the end.
        lambda: flight.GeneratorStream(SCHEMA, iter([chunk(64 * MIB)])),
        "timeout",
    ),
    "nothing": (lambda: flight.GeneratorStream(SCHEMA, iter([])), "net-protocol"),
    "too little": (
        lambda: flight.GeneratorStream(SCHEMA, iter([chunk(CHUNK_NBYTES)] * 2)),
        "net-protocol",
    ),
    "without end": (
        lambda: flight.GeneratorStream(SCHEMA, iter(lambda: chunk(CHUNK_NBYTES), None)),
        "net-protocol",
    ),
    "other bytes": (
        lambda: flight.GeneratorStream(SCHEMA, iter([chunk(CHUNK_NBYTES)] * 3)),
        "net-digest",
    ),
    "silence": (lambda: time.sleep(3), "timeout"),
}


def hostile_server(answer: Callable[[], Any]) -> Any:
    class Hostile(flight.FlightServerBase):
        def do_get(self, context: Any, ticket: Any) -> Any:
            return answer()

    return Hostile("grpc://127.0.0.1:0")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_publisher_gets_an_error_in_time_and_no_memory(
    other: mm.Arena, name: str
) -> None:
    answer, code = HOSTILE[name]
    server = hostile_server(answer)
    base = pa.total_allocated_bytes()
    started = time.monotonic()
    with Mirror(other) as mirror, pytest.raises(MMFormatError) as caught:
        mirror.fetch(remote_of(server.port), timeout_s=2)
    assert caught.value.code == code
    assert time.monotonic() - started < 4
    assert other.stats().free_nbytes == other.stats().nbytes
    assert other.stats().slots_granted == 0
    assert pa.total_allocated_bytes() - base < 80 * MIB  # what the server made is part of it
    server.shutdown()


def test_what_a_publisher_says_is_escaped_and_short(other: mm.Arena) -> None:
    def answer() -> Any:
        raise flight.FlightServerError("\x1b[31m\nroot: " + "x" * 5000, b"mmformat:Boom:evil\n")

    server = hostile_server(answer)
    with Mirror(other) as mirror, pytest.raises(TransportError) as caught:
        mirror.fetch(remote_of(server.port), timeout_s=2)
    assert caught.value.code == "net-protocol"
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()
    server.shutdown()


BOMB = """
import resource, sys
import pyarrow as pa, pyarrow.flight as flight
import mmformat as mm
from mmformat.net import Mirror, RemoteHandle, bound_memory
from mmformat.net.remote_handle import CHUNK_NBYTES
remote = RemoteHandle(location=f"grpc://127.0.0.1:{sys.argv[1]}", arena="mmf-x",
    segment_id=bytes(16), slot=0, generation=1, nbytes=CHUNK_NBYTES, digest=bytes(32))
with mm.Arena.create(nbytes=2**24, ranks=1) as arena, Mirror(arena) as mirror:
    bound_memory(256 * 2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        mirror.fetch(remote, timeout_s=5)
    except mm.TransportError as error:
        print(error.code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_compressed_chunk_cannot_take_more_than_the_mirrors_bound() -> None:
    """2 GiB of zeros are 200 kB of Zstandard, and Arrow expands them before we see them."""
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    zeros = pa.py_buffer(bytes(CHUNK_NBYTES * 1024))
    offsets = pa.py_buffer(np.array([0, zeros.size]))
    column = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, zeros])
    table = pa.Table.from_batches([pa.RecordBatch.from_arrays([column], schema=SCHEMA)])
    server = hostile_server(lambda: flight.RecordBatchStream(table, options=options))
    child = subprocess.run(
        [sys.executable, "-c", BOMB, str(server.port)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    code, grown_kib = child.stdout.split()
    assert code == "net-protocol", child.stderr
    assert int(grown_kib) < 300 * 1024
    server.shutdown()


def test_who_changes_bytes_on_the_way_is_found_out(arena: mm.Arena, other: mm.Arena) -> None:
    with Publisher(arena) as publisher:
        remote = publisher.publish(inputs(MIB))
        listening = socket.create_server(("127.0.0.1", 0))
        changed = threading.Event()
        threading.Thread(
            target=_relay, args=(listening, publisher.port, changed), daemon=True
        ).start()
        fields = {name: getattr(remote, name) for name in RemoteHandle.__slots__}
        port = listening.getsockname()[1]
        through = RemoteHandle(**fields | {"location": f"grpc://127.0.0.1:{port}"})
        with Mirror(other) as mirror, pytest.raises(MMFormatError) as caught:
            mirror.fetch(through, timeout_s=3)
        assert changed.is_set()
        assert caught.value.code in {"net-digest", "net-protocol"}
        assert other.stats().slots_granted == 0
        listening.close()


def _relay(listening: socket.socket, port: int, changed: threading.Event) -> None:
    def pump(source: socket.socket, target: socket.socket, *, spoil: bool) -> None:
        seen = 0
        try:
            while data := bytearray(source.recv(2**16)):
                if spoil and seen < 500_000 <= seen + len(data):
                    data[500_000 - seen] ^= 1
                    changed.set()
                seen += len(data)
                target.sendall(data)
        except OSError:
            return

    while True:
        try:
            near, _ = listening.accept()
        except OSError:
            return
        far = socket.create_connection(("127.0.0.1", port))
        for pair, spoil in (((near, far), False), ((far, near), True)):
            threading.Thread(target=pump, args=pair, kwargs={"spoil": spoil}, daemon=True).start()


# -------------------------------------------------------------------------------- hostile mirrors
def test_a_hostile_mirror_reads_nothing_that_was_not_announced(arena: mm.Arena) -> None:
    with Publisher(arena) as publisher, flight.connect(publisher.location) as client:
        secret = arena.put(inputs())
        named = {
            "segment_id": secret.segment_id,
            "slot": secret.slot,
            "generation": secret.generation,
            "mirror": bytes(16),
        }
        tickets = [
            b"",
            b"x" * 10_000,
            bytes(Ticket(**named)),
            bytes(Ticket(**named | {"generation": 2**63})),
            bytes(Ticket(**named))[:-1],
        ]
        for ticket in tickets:
            with pytest.raises((flight.FlightError, pa.ArrowException)):
                client.do_get(flight.Ticket(ticket)).read_all()
            for kind in (ACK, HOLD, "mmformat.other"):
                try:
                    list(client.do_action(flight.Action(kind, ticket)))
                except (flight.FlightError, pa.ArrowException):
                    continue
                assert kind == ACK  # of what is not there: nothing happens
        open_ = publisher.announce(secret)
        beyond = Ticket(**named, first=2**40)
        with pytest.raises((flight.FlightError, pa.ArrowException)):
            client.do_get(flight.Ticket(bytes(beyond))).read_all()
        assert publisher.stats().sent_nbytes == 0
        for method in (client.list_flights, client.list_actions):
            with pytest.raises((NotImplementedError, flight.FlightError, pa.ArrowException)):
                list(method())
        for method in (client.get_flight_info, client.get_schema):
            with pytest.raises((NotImplementedError, flight.FlightError, pa.ArrowException)):
                method(flight.FlightDescriptor.for_path("x"))
        with Mirror(arena) as friend:
            assert friend.fetch(open_).nbytes == open_.nbytes


def test_a_mirror_that_stops_reading_holds_one_slot_until_its_call_ends(
    arena: mm.Arena,
) -> None:
    free = arena.stats().free_nbytes
    with Publisher(arena, lease_s=0.2, ttl_s=0.2) as publisher:
        remote = publisher.publish(inputs(40 * MIB))
        client = flight.connect(publisher.location)
        ticket = Ticket(
            segment_id=remote.segment_id,
            slot=remote.slot,
            generation=remote.generation,
            mirror=bytes(16),
        )
        options = flight.FlightCallOptions(timeout=1.0)
        reader = client.do_get(flight.Ticket(bytes(ticket)), options=options)
        reader.read_chunk()
        deadline = time.monotonic() + 10
        while arena.stats().free_nbytes < free and time.monotonic() < deadline:
            time.sleep(0.05)
        assert arena.stats().free_nbytes == free
        assert publisher.stats().leases == publisher.stats().streams == 0
        del reader
        client.close()
