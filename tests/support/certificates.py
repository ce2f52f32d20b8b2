"""An authority, a server and a client of it, and a stranger, made by openssl for one test run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def make_certificates(folder: Path, *, addresses: tuple[str, ...] = ("127.0.0.1",)) -> None:
    """Write ``NAME.pem`` and ``NAME.key`` for ca, server, client and stranger; all last a day."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")

    def run(*arguments: str) -> None:
        command = ["openssl", "req", "-x509", *CURVE, "-days", "1", *arguments]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=20)

    names = ",".join(f"IP:{each}" for each in addresses)
    for name in ("ca", "stranger"):
        run("-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    for name in ("server", "client"):
        run(
            *("-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}"),
            *("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", f"subjectAltName={names}"),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
        )
