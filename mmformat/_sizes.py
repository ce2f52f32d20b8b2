"""Parse a number of bytes as people write it: 8GiB, 512M, 1_000_000."""

from __future__ import annotations

import re
from typing import Final

from mmformat.errors import ModelError

__all__ = ["parse_nbytes"]

_SIZE: Final = re.compile(r"\s*(\d[\d_]*(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE | re.ASCII)
_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
MAX_NBYTES: Final = 2**62


def parse_nbytes(text: str | int, *, path: str = "$") -> int:
    """Return the number of bytes that a size stands for.

    Parameters
    ----------
    text : str or int
        A number of bytes, or a number with a unit: ``KiB``, ``MiB``, ``GiB`` and ``TiB`` are
        powers of 1024, ``kB``, ``MB``, ``GB`` and ``TB`` powers of 1000. A bare letter (``8G``)
        means the power of 1024, as ``docker run --shm-size`` reads it.
    path : str
        Where the size was given, for the error.

    Raises
    ------
    ModelError
        If the text is not a size, or the size is 0 or 2**62 bytes and more.

    Examples
    --------
    >>> parse_nbytes("8GiB"), parse_nbytes("1.5 MB"), parse_nbytes("64m"), parse_nbytes(4096)
    (8589934592, 1500000, 67108864, 4096)
    """
    found = _SIZE.fullmatch(str(text)) if type(text) in (str, int) else None
    if found is None:
        shown = repr(text[:40]) if isinstance(text, str) else type(text).__name__
        raise ModelError(
            f"size must be a number of bytes such as 8GiB, 512MB or 1073741824, got {shown}",
            path=path,
        )
    number, unit, binary = found.groups()
    is_decimal = bool(unit) and not binary and str(text).strip()[-1:].lower() == "b"
    base = 1000 if is_decimal else 1024
    nbytes = (
        int(float(number) * base ** _POWERS[unit.lower()])
        if "." in number
        else (int(number) * base ** _POWERS[unit.lower()])
    )
    if not 0 < nbytes < MAX_NBYTES:
        raise ModelError(f"size must be between 1 and 2**62 - 1 bytes, got {text}", path=path)
    return nbytes
