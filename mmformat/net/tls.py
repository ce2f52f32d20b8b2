"""Certificates and tokens: who may listen, who may fetch, and what a stranger is refused."""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mmformat._extras import require
from mmformat.errors import TransportError

__all__ = ["TLS", "check_exposed", "check_token", "is_loopback", "server_middleware", "split"]

_PEM: Final = b"-----BEGIN"
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{16,4096}")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TLS:
    """Hold PEM data, or the paths of files with it.

    Parameters
    ----------
    certificate, private_key : bytes or path, optional
        Our own. A publisher needs them; a mirror that shows them is known by them (mTLS).
    ca : bytes or path, optional
        The authorities that sign the other side. A publisher that has them admits only mirrors
        with a certificate of theirs; a mirror without trusts the system's.

    Raises
    ------
    TransportError
        With code ``net-tls`` when a file cannot be read or is no PEM.
    """

    certificate: bytes | str | os.PathLike[str] | None = None
    private_key: bytes | str | os.PathLike[str] | None = None
    ca: bytes | str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name in ("certificate", "private_key", "ca"):
            object.__setattr__(self, name, _pem(getattr(self, name), name))
        if (self.certificate is None) != (self.private_key is None):
            raise TransportError(
                "a certificate and its private key come together", path="$.tls", code="net-tls"
            )

    def __repr__(self) -> str:
        held = [n for n in ("certificate", "private_key", "ca") if getattr(self, n) is not None]
        return f"TLS({', '.join(held)})"

    def server_options(self) -> dict[str, Any]:
        """Return what a Flight server takes.

        Raises
        ------
        TransportError
            With code ``net-tls`` without a certificate.
        """
        if self.certificate is None:
            raise TransportError("a publisher needs a certificate", path="$.tls", code="net-tls")
        options: dict[str, Any] = {"tls_certificates": [(self.certificate, self.private_key)]}
        if self.ca is not None:
            options |= {"verify_client": True, "root_certificates": self.ca}
        return options

    def client_options(self) -> dict[str, Any]:
        """Return what a Flight client takes."""
        found = {
            "tls_root_certs": self.ca,
            "cert_chain": self.certificate,
            "private_key": self.private_key,
        }
        return {name: value for name, value in found.items() if value is not None}


def _pem(value: Any, name: str) -> bytes | None:
    if value is None:
        return None
    try:
        data = value if isinstance(value, bytes) else Path(value).read_bytes()
    except (OSError, TypeError, ValueError) as error:
        raise TransportError(
            f"cannot read {name}: {error}", path=f"$.tls.{name}", code="net-tls"
        ) from error
    if _PEM not in data:
        raise TransportError(
            f"{name} must be PEM, which contains {_PEM.decode()!r}",
            path=f"$.tls.{name}",
            code="net-tls",
        )
    return data


def split(address: object) -> tuple[str, int]:
    """Return the host and the port of ``host:port``.

    Raises
    ------
    TransportError
        With code ``net-address``.
    """
    host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    if not host or not port.isdecimal() or int(port) >= 2**16:
        raise TransportError(
            f"an address must be like '127.0.0.1:4711', got {address!r}", code="net-address"
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this host can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_exposed(host: str, *, tls: TLS | None, token: str | None, insecure: bool) -> None:
    """Refuse to listen where others can reach us, unless they must prove who they are.

    Raises
    ------
    TransportError
        With code ``net-insecure``.
    """
    if insecure or is_loopback(host):
        return
    if tls is not None and (token is not None or tls.ca is not None):
        return
    missing = "tls=" if tls is None else "token=, or tls= with ca"
    raise TransportError(
        f"{host} can be reached by other hosts, and anybody could fetch: {missing} is missing",
        hint="give TLS(certificate=..., private_key=...) and a token; or listen on 127.0.0.1",
        code="net-insecure",
    )


def check_token(token: object) -> str | None:
    """Return a token that can stand in a header.

    Raises
    ------
    TransportError
        With code ``net-token``; the message does not contain the token.
    """
    if token is None:
        return None
    if not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
        raise TransportError(
            "a token must be a str of 16 to 4096 letters, digits and ._~+/=-",
            hint="python -c 'import secrets; print(secrets.token_urlsafe(32))'",
            code="net-token",
        )
    return token


def server_middleware(token: str | None) -> dict[str, Any]:
    """Return the middleware that refuses calls without the token; none without a token."""
    if token is None:
        return {}
    flight = require("pyarrow.flight", extra="net")
    expected = f"Bearer {token}".encode()

    class Gate(flight.ServerMiddlewareFactory):  # type: ignore[misc, name-defined]
        def start_call(self, info: object, headers: dict[str, list[Any]]) -> None:
            shown = [
                value
                for name, v in headers.items()
                if name.lower() == "authorization"
                for value in v
            ]
            given = shown[0] if len(shown) == 1 else ""
            raw = given if isinstance(given, bytes) else given.encode("utf-8", "replace")
            if not hmac.compare_digest(raw, expected):
                raise flight.FlightUnauthenticatedError("the token is missing or wrong")

    return {"token": Gate()}
