"""What a link gives, and what to send over it: plain tensors, codes, or LZ4."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from mmformat.errors import TransportError
from mmformat.net.remote_handle import CHUNK_NBYTES, check_location
from mmformat.net.tls import TLS, check_token
from mmformat.net.transfer import Connections
from mmformat.net.wire import ECHO, bytes_of, flight, from_flight, pack_probe

__all__ = ["Diagnosis", "diagnose"]

MESSAGE_NBYTES: Final = 25_800_000
"""One 1024 x 1024 image of Qwen2-VL as float32."""
_FIRST_PROBE_NBYTES: Final = 2 * CHUNK_NBYTES
_LONG_ENOUGH_S: Final = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Hold what was measured to a publisher, and what follows.

    Parameters
    ----------
    location : str
        The publisher's.
    latency_s, latency_worst_s : float
        Median and worst of twenty small round trips.
    bandwidth : float
        Bytes a second of a stream.
    probe_nbytes : int
        How many bytes that was measured with.
    lz4_write, lz4_read, expand : float
        Bytes a second, on this host: LZ4 of codes in, out, and codes into float32.
    plain_s, codes_s : float
        For an image of 25.8 MB of float32: as it is, and as an eighth of it in codes with their
        expansion on this CPU.
    lz4_below : float
        LZ4 pays on this link for what shrinks to less than this share; 0 when it never does.
    """

    location: str
    latency_s: float
    latency_worst_s: float
    bandwidth: float
    probe_nbytes: int
    lz4_write: float
    lz4_read: float
    expand: float
    plain_s: float
    codes_s: float
    lz4_below: float

    @property
    def advice(self) -> list[str]:
        """One line for each decision."""
        codes = "codes" if self.codes_s < self.plain_s else "plain"
        lines = [
            f"send {codes}: an image of 25.8 MB takes {self.plain_s * 1e3:,.1f} ms plain, "
            f"{self.codes_s * 1e3:,.1f} ms as codes expanded on a CPU"
        ]
        if self.lz4_below <= 0:
            lines.append("no LZ4: this link is faster than the codec")
        else:
            lines.append(f"LZ4 pays for what it shrinks to under {self.lz4_below:.0%}")
        return lines


def diagnose(
    location: str,
    *,
    tls: TLS | None = None,
    token: str | None = None,
    timeout_s: float = 30.0,
) -> Diagnosis:
    """Measure the link to a publisher.

    Parameters
    ----------
    location : str
        ``grpc://host:port`` or ``grpc+tls://host:port``.
    tls, token
        As for :class:`Mirror`.
    timeout_s : float
        How long one probe may take.

    Raises
    ------
    TransportError
        When the publisher cannot be reached, or refuses.
    """
    place = check_location(location)
    connections = Connections(tls=tls, token=check_token(token))
    try:
        connections.act(place, ECHO, b"", timeout_s=timeout_s)  # the connection itself
        trips = []
        for _ in range(20):
            started_s = time.perf_counter()
            connections.act(place, ECHO, bytes(64), timeout_s=timeout_s)
            trips.append(time.perf_counter() - started_s)
        nbytes = _FIRST_PROBE_NBYTES
        took_s = _probe(connections, place, nbytes, timeout_s)
        while took_s < _LONG_ENOUGH_S and nbytes < 2**29:
            nbytes *= 4
            took_s = _probe(connections, place, nbytes, timeout_s)
    finally:
        connections.close()
    latency_s = statistics.median(trips)
    bandwidth = nbytes / max(took_s - latency_s, 1e-9)
    lz4_write, lz4_read, expand = _codecs()
    codes = MESSAGE_NBYTES / 8
    return Diagnosis(
        location=place,
        latency_s=latency_s,
        latency_worst_s=max(trips),
        bandwidth=bandwidth,
        probe_nbytes=nbytes,
        lz4_write=lz4_write,
        lz4_read=lz4_read,
        expand=expand,
        plain_s=latency_s + MESSAGE_NBYTES / bandwidth,
        codes_s=latency_s + codes / bandwidth + MESSAGE_NBYTES / expand,
        lz4_below=max(0.0, 1 - bandwidth * (1 / lz4_write + 1 / lz4_read)),
    )


def _probe(connections: Connections, location: str, nbytes: int, timeout_s: float) -> float:
    client = connections.take(location)
    started_s = time.perf_counter()
    try:
        ticket = flight().Ticket(pack_probe(nbytes))
        reader = client.do_get(ticket, options=connections.options(timeout_s))
        for at in range(0, nbytes, CHUNK_NBYTES):
            bytes_of(reader.read_chunk().data, min(CHUNK_NBYTES, nbytes - at))
        return time.perf_counter() - started_s
    except TransportError:
        raise
    except StopIteration as error:
        raise TransportError("the probe ended early", code="net-protocol") from error
    except Exception as error:
        raise from_flight(error, location) from error
    finally:
        connections.drop(client)


def _codecs() -> tuple[float, float, float]:
    """Return bytes a second of LZ4, both ways, and of a table look-up, on one core."""
    chance = np.random.default_rng(0)
    codes = np.cumsum(chance.integers(-2, 3, 2**22, dtype=np.int8), dtype=np.int8).view(np.uint8)
    table = chance.random(256, dtype=np.float32)
    codec: Any = pa.Codec("lz4")
    packed = codec.compress(codes)

    def rate(nbytes: int, run: Any) -> float:
        took_s = []
        for _ in range(3):
            started_s = time.perf_counter()
            run()
            took_s.append(time.perf_counter() - started_s)
        return nbytes / statistics.median(took_s)

    return (
        rate(codes.nbytes, lambda: codec.compress(codes)),
        rate(codes.nbytes, lambda: codec.decompress(packed, codes.nbytes)),
        rate(4 * codes.nbytes, lambda: table.take(codes)),
    )
