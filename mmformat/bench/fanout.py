"""One producer and N rank processes: the time until the last rank has read every page."""

from __future__ import annotations

import gc
import time
import warnings
from multiprocessing.connection import Connection
from typing import Any, Final

import zmq

from mmformat.bench.crew import Crew
from mmformat.bench.measure import Cell, clock_ns, memory
from mmformat.bench.methods import Frames, Method
from mmformat.bench.payloads import Payload, digests_of, stamp, tensors_of, touch
from mmformat.errors import TransportTimeoutError
from mmformat.model import MultimodalInputs

__all__ = [
    "Group",
    "run_producer",
    "run_reader",
]

RECEIVE_TIMEOUT_MS: Final = 120_000


def run_producer(addresses: list[str], control: Connection) -> None:
    """Do as the control pipe says, until it says ``end``."""
    with zmq.Context() as context:
        sockets = []
        for address in addresses:
            socket = context.socket(zmq.PUSH)
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(address)
            sockets.append(socket)
        producer = _Producer(sockets)
        try:
            _serve(producer, control)
        finally:
            producer.unload()
            for socket in sockets:
                socket.close()


def run_reader(reader: int, address: str, control: Connection) -> None:
    """Do as the control pipe says, until it says ``end``."""
    # torch warns of every tensor over immutable memory; received frames are that.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    with zmq.Context() as context:
        socket = context.socket(zmq.PULL)
        socket.setsockopt(zmq.RCVTIMEO, RECEIVE_TIMEOUT_MS)
        socket.connect(address)
        side = _Reader(reader, socket, control)
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
    def __init__(self, sockets: list[zmq.Socket[bytes]]) -> None:
        self._sockets = sockets
        self._method: Method | None = None
        self._inputs = MultimodalInputs()
        self._frames: Frames = ()

    def load(self, method: type[Method], chosen: Payload) -> int:
        """Make the payload and open the method; return the bytes that this process had before."""
        before_nbytes = memory().pss_nbytes
        self._method = method()
        wants_dictionary = self._method.wants_dictionary and chosen.dictionary is not None
        make = chosen.dictionary if wants_dictionary else chosen.make
        self._inputs = (make or chosen.make)(0)
        nbytes = sum(tensor.nbytes for tensor in tensors_of(self._inputs))
        self._method.open(nbytes=nbytes, ranks=len(self._sockets))
        return before_nbytes

    def stamp(self, number: int) -> list[str]:
        """Change the payload for a round and return its digests."""
        if self._method is not None and not self._method.wants_same:
            stamp(self._inputs, number)
        return digests_of(self._inputs)

    def send(self) -> dict[str, int]:
        """Encode and send; this is where the clock starts."""
        method = _opened(self._method)
        gc.collect()
        gc.disable()
        start_ns = clock_ns()
        frames = method.encode(self._inputs)
        encoded_ns = clock_ns()
        for socket in self._sockets:
            socket.send_multipart(frames, copy=method.zmq_copies)
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
        _opened(self._method).reclaim()

    def unload(self) -> None:
        """Close the method and drop the payload."""
        if self._method is not None:
            self._method.close()
        self._method = None
        self._inputs = MultimodalInputs()
        self._frames = ()


class _Reader:
    def __init__(self, reader: int, socket: zmq.Socket[bytes], control: Connection) -> None:
        self._number = reader
        self._socket = socket
        self._control = control
        self._method: Method | None = None
        self._held: Any = None
        self._frames: Any = None

    def load(self, method: type[Method]) -> int:
        """Attach the method; return the bytes that this process had before."""
        before_nbytes = memory().pss_nbytes
        self._method = method()
        self._method.attach(rank=self._number)
        return before_nbytes

    def receive(self) -> dict[str, int]:
        """Wait for a message, decode it, read every page."""
        method = _opened(self._method)
        gc.collect()
        gc.disable()
        self._control.send("waiting")
        if method.zmq_copies:
            frames: Any = self._socket.recv_multipart()
        else:
            self._frames = self._socket.recv_multipart(copy=False)
            frames = [frame.buffer for frame in self._frames]
        received_ns = clock_ns()
        self._held = method.decode(frames)
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
        _opened(self._method).release()

    def unload(self) -> None:
        """Close the method."""
        self._held = self._frames = None
        if self._method is not None:
            self._method.close()
        self._method = None


def _opened(method: Method | None) -> Method:
    if method is None:
        raise RuntimeError("expected load() first")
    return method


_LOOK_S: Final = 0.2


class Group:
    """Direct a producer and its readers by pipes; what is measured goes over ZeroMQ.

    Parameters
    ----------
    crew : Crew
        Where the processes are started.
    name : str
        What their sockets and processes are named by.
    ranks : int
        How many readers there are.
    timeout_s : float
        The longest wait for any answer.
    """

    def __init__(self, crew: Crew, name: str, *, ranks: int, timeout_s: float) -> None:
        self._name = name
        self._carries = True
        self._crew = crew
        self._timeout_s = timeout_s
        addresses = [crew.address(f"{name}-{reader}") for reader in range(ranks)]
        self._producer, theirs = crew.pipe()
        crew.start(f"the producer of {name}", run_producer, addresses, theirs)
        self._readers: list[Connection] = []
        for reader, address in enumerate(addresses):
            ours, theirs = crew.pipe()
            crew.start(f"rank {reader} of {name}", run_reader, reader, address, theirs)
            self._readers.append(ours)
        self._before_nbytes = 0

    def wait_ready(self) -> None:
        """Wait until every process has imported what it needs."""
        for pipe in (self._producer, *self._readers):
            self._answer(pipe)

    def load(self, method: type[Method], payload: Payload) -> None:
        """Make the payload and open the method on both sides."""
        self._carries = method.carries
        self._before_nbytes = self._ask(self._producer, "load", method, payload)
        self._before_nbytes += sum(self._ask_all("load", method))

    def round(self, number: int, cell: Cell, *, is_recorded: bool) -> None:
        """Carry the payload once, check every tensor in every reader, and let all go."""
        expected = self._ask(self._producer, "stamp", number)
        for reader in self._readers:
            reader.send(("receive",))
        for reader in self._readers:
            self._answer(reader)  # waiting
        sent = self._ask(self._producer, "send")
        held = [self._answer(reader) for reader in self._readers]
        # Only now: a reader that hashed would take the others' time.
        pss_nbytes = self._ask(self._producer, "memory") + sum(self._ask_all("memory"))
        if self._carries:
            found = self._ask_all("verify")
            cell.correct = cell.correct and all(digests == expected for digests in found)
        self._ask_all("release")
        self._ask(self._producer, "reclaim")
        cell.wire_nbytes = sent["wire_nbytes"]
        if is_recorded:
            start_ns = sent["start_ns"]
            cell.add(
                encode_ns=sent["encoded_ns"] - start_ns,
                sent_ns=sent["sent_ns"] - start_ns,
                received_ns=max(each["received_ns"] for each in held) - start_ns,
                returned_ns=max(each["returned_ns"] for each in held) - start_ns,
                touched_ns=max(each["touched_ns"] for each in held) - start_ns,
                pss_nbytes=pss_nbytes - self._before_nbytes,
            )

    def unload(self) -> None:
        """Close the method on both sides."""
        self._ask_all("unload")
        self._ask(self._producer, "unload")

    def end(self) -> None:
        """Tell every process to end."""
        for pipe in (*self._readers, self._producer):
            pipe.send(("end",))

    def _ask_all(self, *words: Any) -> list[Any]:
        for reader in self._readers:
            reader.send(words)
        return [self._answer(reader) for reader in self._readers]

    def _ask(self, pipe: Connection, *words: Any) -> Any:
        pipe.send(words)
        return self._answer(pipe)

    def _answer(self, pipe: Connection) -> Any:
        deadline_s = time.monotonic() + self._timeout_s
        while not pipe.poll(_LOOK_S):
            self._crew.check()
            if time.monotonic() > deadline_s:
                raise TransportTimeoutError(
                    f"expected an answer of {self._name} within {self._timeout_s:g} s, got none"
                )
        try:
            return pipe.recv()
        except EOFError:
            time.sleep(_LOOK_S)  # until the kernel says how it ended
            self._crew.check()
            raise
