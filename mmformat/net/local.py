"""How the processes of one host ask its mirror: a Unix socket, so that they share one transfer."""

from __future__ import annotations

import os
import stat
import struct
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from mmformat import errors
from mmformat.errors import MMFormatError, TransportError, TransportTimeoutError
from mmformat.model.arguments import check_path
from mmformat.net.mirror import Mirror
from mmformat.net.remote_handle import RemoteHandle
from mmformat.net.wire import flight, to_flight, told_by
from mmformat.shm import Handle

__all__ = ["MirrorClient", "MirrorServer"]

_FETCH: Final = "mmformat.fetch"
# rank or -1, timeout
_HEAD: Final = struct.Struct("<id")


class MirrorServer:
    """Answer the other processes of this host, over a socket that only this user can open.

    Parameters
    ----------
    mirror : Mirror
        Who fetches.
    path : path, optional
        The socket, in a directory that is nobody else's; a temporary one when omitted.

    Raises
    ------
    TransportError
        With code ``net-address``.
    """

    def __init__(self, mirror: Mirror, path: str | os.PathLike[str] | None = None) -> None:
        if path is None:
            path = Path(tempfile.mkdtemp(prefix="mmformat-net-")) / "mirror"
        self.path = check_path(path, name="path", error=TransportError, code="net-address")
        _check_directory(self.path.parent)
        self._mirror = mirror
        api = flight()

        class Server(api.FlightServerBase):  # type: ignore[misc, name-defined]
            def do_action(self, context: Any, action: Any) -> Any:
                try:
                    handle = _answer(mirror, action)
                except MMFormatError as error:
                    raise to_flight(error) from error
                if context.is_cancelled():
                    mirror._transport.revoke(handle)
                yield api.Result(bytes(handle))

        try:
            self._server = Server(f"grpc+unix://{self.path}")
        except Exception as error:
            raise TransportError(
                f"cannot listen on {self.path}: {error}", code="net-address"
            ) from error

    def close(self) -> None:
        """Stop answering, and remove the socket."""
        ending = threading.Thread(target=self._server.shutdown, daemon=True)
        ending.start()
        ending.join(5.0)
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class MirrorClient:
    """Ask the mirror of this host for messages of others.

    Parameters
    ----------
    path : path
        The socket of its :class:`MirrorServer`.

    Raises
    ------
    TransportError
        With code ``net-address`` when there is no such socket of this user.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        found = check_path(path, name="path", error=TransportError, code="net-address")
        _check_directory(found.parent)
        self.path = found
        self._client = flight().FlightClient(f"grpc+unix://{found}")

    def fetch(
        self, remote: RemoteHandle | bytes, *, rank: int | None = None, timeout_s: float = 30.0
    ) -> Handle:
        """Return a handle of this host's arena; see :meth:`Mirror.fetch`.

        Raises
        ------
        MMFormatError
            As :meth:`Mirror.fetch`, of the same classes.
        """
        body = _HEAD.pack(-1 if rank is None else rank, timeout_s) + bytes(RemoteHandle.of(remote))
        api = flight()
        try:
            # A second more: the mirror's own error says more than a deadline of gRPC's.
            options = api.FlightCallOptions(timeout=timeout_s + 1.0)
            found = list(self._client.do_action(api.Action(_FETCH, body), options=options))
            return Handle.from_bytes(found[0].body.to_pybytes())
        except api.FlightTimedOutError as error:
            raise TransportTimeoutError("the mirror did not answer in time") from error
        except MMFormatError:
            raise
        except Exception as error:
            raise _told(error) from error

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _answer(mirror: Mirror, action: Any) -> Handle:
    body = action.body.to_pybytes()
    if action.type != _FETCH or len(body) < _HEAD.size:
        raise TransportError("there is no such action", code="net-ticket")
    rank, timeout_s = _HEAD.unpack_from(body)
    return mirror.fetch(body[_HEAD.size :], rank=None if rank == -1 else rank, timeout_s=timeout_s)


def _told(error: Exception) -> MMFormatError:
    """Return the mirror's error, of its own class."""
    name, code, said = told_by(error)
    if not code:
        return TransportError(f"the mirror cannot be reached: {said}", code="net-unreachable")
    made = getattr(errors, name, None) if name in errors.__all__ else None
    return (made or TransportError)(said, code=code)


def _check_directory(directory: Path) -> None:
    try:
        status = directory.stat()
    except OSError as error:
        raise TransportError(f"cannot use {directory}: {error}", code="net-address") from error
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise TransportError(
            f"{directory} must belong to this user, and nobody else may write to it",
            hint="chmod 700, or another directory",
            code="net-address",
        )
