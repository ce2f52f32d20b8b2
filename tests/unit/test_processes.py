"""A channel carries frames and descriptors whole; a child that dies or hangs is ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from mmformat._processes import Channel, ChannelClosedError, Child, import_paths

ECHO = (
    "import json,sys; sys.path[:]=json.loads(sys.argv[2])\n"
    "from mmformat._processes import Channel, ChannelClosedError\n"
    "channel = Channel.of(int(sys.argv[1]))\n"
    "try:\n"
    "    while True:\n"
    "        head, body = channel.receive()\n"
    "        channel.send(head, [body])\n"
    "except ChannelClosedError:\n"
    "    sys.exit(7)\n"
)


def pair() -> tuple[Channel, Channel, socket.socket]:
    left, right = socket.socketpair()
    return Channel(left), Channel(right), left


@pytest.mark.parametrize("nbytes", [0, 1, 2**16, 2**16 + 1, 2**23])
def test_a_frame_arrives_whole(nbytes: int) -> None:
    left, right, _ = pair()
    parts = [os.urandom(nbytes), b"", b"end"]
    sender = threading.Thread(target=left.send, args=({"n": nbytes}, parts))
    sender.start()
    head, body = right.receive()
    sender.join()
    assert head == {"n": nbytes}
    assert body == b"".join(parts)
    left.close()
    with pytest.raises(ChannelClosedError):
        right.receive()
    right.close()


def test_descriptors_come_with_their_frame() -> None:
    left, right, _ = pair()
    read_end, write_end = os.pipe()
    left.send({}, [b"x"], descriptors=[write_end])
    os.close(write_end)
    _, body, (number,) = right.receive_with_descriptors()
    os.write(number, b"through")
    os.close(number)
    assert (bytes(body), os.read(read_end, 100)) == (b"x", b"through")
    os.close(read_end)
    left.close()
    right.close()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        struct.pack("<IQB", 5, 0, 0) + b"[]",
        struct.pack("<IQB", 2, 0, 0) + b"[]",
        struct.pack("<IQB", 2, 0, 0) + b"{x",
        struct.pack("<IQB", 2, 9, 0) + b"{}abc",
        struct.pack("<IQB", 2, 2**60, 0) + b"{}",
    ],
    ids=["nothing", "a byte", "cut", "a list", "no JSON", "cut body", "an exabyte"],
)
@pytest.mark.parametrize("most", [0, 3])
def test_what_is_no_frame_closes(data: bytes, most: int) -> None:
    left, right, raw = pair()
    raw.sendall(data)
    left.close()
    with pytest.raises(ChannelClosedError):
        right.receive_with_descriptors(most)
    right.close()


def test_a_timeout_is_none_of_the_others_doing() -> None:
    left, right, _ = pair()
    right.set_timeout(0.05)
    with pytest.raises(TimeoutError):
        right.receive()
    left.close()
    right.close()


def test_a_child_serves_and_ends_with_its_channel() -> None:
    child = Child(["-c", ECHO, "{channel}", import_paths()])
    child.channel.send({"a": 1}, [b"xyz"])
    assert child.channel.receive() == ({"a": 1}, b"xyz")
    assert child.end(grace_s=30.0) == 7


def test_a_child_that_does_not_end_is_killed() -> None:
    child = Child(["-c", "import time; time.sleep(100)"])
    begin = time.monotonic()
    assert child.end(grace_s=0.1) == -signal.SIGKILL
    assert time.monotonic() - begin < 10


def test_a_child_that_dies_closes_its_channel() -> None:
    child = Child(["-c", ECHO, "{channel}", import_paths()])
    child.channel.send({})
    child.channel.receive()
    child.process.kill()
    with pytest.raises(ChannelClosedError):
        child.channel.receive()
    assert child.end() == -signal.SIGKILL


def test_a_child_that_cannot_start_leaves_no_socket() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError):
        Child(["-c", "pass"], cwd="/nonexistent")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_paths_are_absolute() -> None:
    assert all(Path(path).is_absolute() for path in json.loads(import_paths()))
