"""A process that asks every rank whether it still answers, and notes how long it does not."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from typing import Final

import zmq

__all__ = ["PATIENCE_S", "monitor"]

INTERVAL_S: Final = 0.002
PATIENCE_S: Final = 0.010
"""An answer later than this means that the loop was blocked."""


def monitor(addresses: list[str], control: Connection) -> None:
    """Ping the ranks until told to stop, and report each time that one was silent too long.

    Parameters
    ----------
    addresses : list of str
        Where each rank's heartbeat socket listens.
    control : Connection
        ``"start"`` begins a phase, ``"stop"`` ends it and asks for the silences of each rank in
        seconds, ``"quit"`` ends the process.
    """
    context = zmq.Context()
    sockets = []
    for address in addresses:
        socket = context.socket(zmq.DEALER)
        socket.linger = 0
        socket.connect(address)
        sockets.append(socket)
    asked: list[float | None] = [None] * len(sockets)
    silences: list[list[float]] = [[] for _ in sockets]
    counting = False
    control.send("ready")
    while True:
        if control.poll():
            word = control.recv()
            if word == "quit":
                break
            if word == "stop":
                # Who has not answered yet was silent until now.
                now_s = time.monotonic()
                waiting = [
                    [now_s - since] if since is not None and now_s - since > PATIENCE_S else []
                    for since in asked
                ]
                control.send([a + b for a, b in zip(silences, waiting, strict=True)])
            counting = word == "start"
            silences = [[] for _ in sockets]
        for number, socket in enumerate(sockets):
            since = asked[number]
            if since is None:
                socket.send(b"?")
                asked[number] = time.monotonic()
            elif socket.poll(0):
                socket.recv()
                silence_s = time.monotonic() - since
                asked[number] = None
                if counting and silence_s > PATIENCE_S:
                    silences[number].append(silence_s)
        time.sleep(INTERVAL_S)
    context.destroy(linger=0)
