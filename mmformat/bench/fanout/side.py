"""The two kinds of process in a fan-out: the producer, and a reader."""

from __future__ import annotations

import gc
import warnings
from multiprocessing.connection import Connection
from typing import Any, Final

import zmq

from mmformat.bench.arms import Arm, Frames, make_arm
from mmformat.bench.pages import touch
from mmformat.bench.payloads import digests_of, payload, stamp, tensors_of
from mmformat.measure import clock_ns, memory
from mmformat.model import MultimodalInputs

__all__ = ["run_producer", "run_reader"]

RECEIVE_TIMEOUT_MS: Final = 120_000


def run_producer(arm: str, addresses: list[str], control: Connection) -> None:
    """Do as the control pipe says, until it says ``end``."""
    with zmq.Context() as context:
        sockets = []
        for address in addresses:
            socket = context.socket(zmq.PUSH)
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(address)
            sockets.append(socket)
        producer = _Producer(arm, sockets)
        try:
            _serve(producer, control)
        finally:
            producer.unload()
            for socket in sockets:
                socket.close()


def run_reader(arm: str, reader: int, address: str, control: Connection) -> None:
    """Do as the control pipe says, until it says ``end``."""
    # torch warns of every tensor over immutable memory; received frames are that.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    with zmq.Context() as context:
        socket = context.socket(zmq.PULL)
        socket.setsockopt(zmq.RCVTIMEO, RECEIVE_TIMEOUT_MS)
        socket.connect(address)
        side = _Reader(arm, reader, socket, control)
        try:
            _serve(side, control)
        finally:
            side.unload()
            socket.close()


def _serve(side: Any, control: Connection) -> None:
    control.send("ready")
    while True:
        word, *arguments = control.recv()
        if word == "end":
            return
        control.send(getattr(side, word)(*arguments))


class _Producer:
    def __init__(self, arm: str, sockets: list[zmq.Socket[bytes]]) -> None:
        self._name = arm
        self._sockets = sockets
        self._arm: Arm | None = None
        self._inputs = MultimodalInputs()
        self._frames: Frames = ()

    def load(self, name: str) -> int:
        """Make the payload and open the arm; return the bytes that this process had before."""
        before_nbytes = memory().pss_nbytes
        chosen = payload(name)
        self._arm = make_arm(self._name)
        wants_dictionary = self._arm.wants_dictionary and chosen.dictionary is not None
        make = chosen.dictionary if wants_dictionary else chosen.make
        self._inputs = (make or chosen.make)(0)
        nbytes = sum(tensor.nbytes for tensor in tensors_of(self._inputs))
        self._arm.open(nbytes=nbytes, ranks=len(self._sockets))
        return before_nbytes

    def stamp(self, number: int) -> list[str]:
        """Change the payload for a round and return its digests."""
        if self._arm is not None and not self._arm.wants_same:
            stamp(self._inputs, number)
        return digests_of(self._inputs)

    def send(self) -> dict[str, int]:
        """Encode and send; this is where the clock starts."""
        arm = _opened(self._arm)
        gc.collect()
        gc.disable()
        start_ns = clock_ns()
        frames = arm.encode(self._inputs)
        encoded_ns = clock_ns()
        for socket in self._sockets:
            socket.send_multipart(frames, copy=arm.zmq_copies)
        sent_ns = clock_ns()
        gc.enable()
        self._frames = frames
        return {
            "start_ns": start_ns,
            "encoded_ns": encoded_ns,
            "sent_ns": sent_ns,
            "wire_nbytes": sum(memoryview(frame).nbytes for frame in frames),
        }

    def memory(self) -> int:
        """Return this process's proportional bytes."""
        return memory().pss_nbytes

    def reclaim(self) -> None:
        """Take back what the readers have released."""
        self._frames = ()
        _opened(self._arm).reclaim()

    def unload(self) -> None:
        """Close the arm and drop the payload."""
        if self._arm is not None:
            self._arm.close()
        self._arm = None
        self._inputs = MultimodalInputs()
        self._frames = ()


class _Reader:
    def __init__(
        self, arm: str, reader: int, socket: zmq.Socket[bytes], control: Connection
    ) -> None:
        self._name = arm
        self._number = reader
        self._socket = socket
        self._control = control
        self._arm: Arm | None = None
        self._held: Any = None
        self._frames: Any = None

    def load(self, name: str) -> int:
        """Attach the arm; return the bytes that this process had before."""
        before_nbytes = memory().pss_nbytes
        self._arm = make_arm(self._name)
        self._arm.attach(rank=self._number)
        return before_nbytes

    def receive(self) -> dict[str, int]:
        """Wait for a message, decode it, read every page."""
        arm = _opened(self._arm)
        gc.collect()
        gc.disable()
        self._control.send("waiting")
        if arm.zmq_copies:
            frames: Any = self._socket.recv_multipart()
        else:
            self._frames = self._socket.recv_multipart(copy=False)
            frames = [frame.buffer for frame in self._frames]
        received_ns = clock_ns()
        self._held = arm.decode(frames)
        returned_ns = clock_ns()
        touch(self._held)
        touched_ns = clock_ns()
        gc.enable()
        return {"received_ns": received_ns, "returned_ns": returned_ns, "touched_ns": touched_ns}

    def verify(self) -> list[str]:
        """Return the digests of what is held."""
        return digests_of(self._held)

    def memory(self) -> int:
        """Return this process's proportional bytes."""
        return memory().pss_nbytes

    def release(self) -> None:
        """Drop what is held."""
        self._held = None
        self._frames = None
        gc.collect()
        _opened(self._arm).release()

    def unload(self) -> None:
        """Close the arm."""
        self._held = self._frames = None
        if self._arm is not None:
            self._arm.close()
        self._arm = None


def _opened(arm: Arm | None) -> Arm:
    if arm is None:
        raise RuntimeError("expected load() first")
    return arm
