"""The opcodes of protocols 0 and 1 whose argument is a line of text or a Python 2 string."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Any, Final

from mmformat.errors import DecodeError, TruncatedError

__all__ = ["TEXT", "integer", "line", "truncated"]

_LINE: Final = 4096
"""Longest line of an opcode that is no text."""


def truncated(machine: Any, position: int) -> TruncatedError:
    """Return the error for a length that passes the end."""
    return TruncatedError(
        f"expected a length within {len(machine.source):,} bytes, got one past the end",
        path=machine.path(position),
    )


def line(machine: Any, position: int, longest: int = _LINE) -> tuple[bytes, int]:
    """Return the line at a position, without its end, and the position after it."""
    window = machine.source[position : position + longest].tobytes()
    found = window.find(b"\n")
    if found < 0:
        if position + longest >= len(machine.source):
            raise TruncatedError("expected the end of a line", path=machine.path(position))
        raise DecodeError(
            f"expected a line of at most {longest:,} bytes", path=machine.path(position)
        )
    return window[:found], position + found + 1


def _long_line(machine: Any, position: int) -> tuple[bytes, int]:
    # Protocol 0 writes whole tensors as one line, so this doubles until it finds the end.
    longest = _LINE
    while True:
        try:
            return line(machine, position, longest)
        except TruncatedError:
            raise
        except DecodeError:
            longest *= 8


def integer(data: bytes) -> int:
    """Return the number that a line holds; int() alone would take more than pickle writes."""
    text = data.strip()
    if not text.lstrip(b"-").isdigit():
        raise ValueError(f"a number of {data[:20]!r}")
    return int(text)


def _text_int(machine: Any, position: int) -> tuple[Any, int]:
    data, end = line(machine, position)
    if data in (b"00", b"01"):
        return data == b"01", end
    data = data.removesuffix(b"L")
    machine.limits.check("integer_nbytes", len(data) * 2 // 5, machine.path(position))
    return integer(data), end


def _text_float(machine: Any, position: int) -> tuple[Any, int]:
    data, end = line(machine, position)
    return float(data), end


def _text_unicode(machine: Any, position: int) -> tuple[Any, int]:
    data, end = _long_line(machine, position)
    # The function itself: a look-up by name would import the codec's module.
    return codecs.raw_unicode_escape_decode(data)[0], end


def _text_string(machine: Any, position: int) -> tuple[Any, int]:
    data, end = _long_line(machine, position)
    if len(data) < 2 or data[0] != data[-1] or data[:1] not in (b"'", b'"'):
        raise ValueError("a string without its quotes")
    return _python2(codecs.escape_decode(data[1:-1])[0]), end


def _binary_string(machine: Any, position: int) -> tuple[Any, int]:
    width = 1 if machine.source[position - 1] == 0x55 else 4
    begin = position + width
    count = int.from_bytes(machine.source[position:begin], "little", signed=width == 4)
    if count < 0:
        raise ValueError("a negative length")
    if begin + count > len(machine.source):
        raise truncated(machine, position)
    return _python2(bytes(machine.source[begin : begin + count])), begin + count


def _python2(data: bytes) -> str | bytes:
    # Python 2 had one type for both; text is what decodes as ASCII, as pickle.loads has it.
    return data.decode("ascii") if data.isascii() else data


TEXT: Final[dict[int, Callable[[Any, int], tuple[Any, int]]]] = {
    0x49: _text_int,  # INT
    0x4C: _text_int,  # LONG
    0x46: _text_float,  # FLOAT
    0x56: _text_unicode,  # UNICODE
    0x53: _text_string,  # STRING
    0x54: _binary_string,  # BINSTRING
    0x55: _binary_string,  # SHORT_BINSTRING
}
